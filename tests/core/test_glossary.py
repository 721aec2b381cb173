# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The glossary is short and in use, and old words for its things are gone from what users read."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = re.findall(
    r"^\| ([\w ,-]+) \|",
    (ROOT / "docs/design.md").read_text().partition("## Glossary")[2].partition("\n## ")[0].partition("| --- |")[2],
    re.MULTILINE,
)
WORDS = [word for row in GLOSSARY for word in row.split(", ")]
OLD_WORDS = {
    "taken back": "rolled back",
    "made anew": "created again, relaunched",
    "memory far": "remote memory",
    "the house": "the project",
}
TEXTS = [*ROOT.glob("docs/*.md"), ROOT / "README.md", *ROOT.glob("src/syshaxd/**/*.py"), *ROOT.glob("proto/**/*.proto")]


def test_it_is_short() -> None:
    assert 10 < len(WORDS) <= 40
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_in_use(word: str) -> None:
    sources = "\n".join(path.read_text() for path in ROOT.glob("src/syshaxd/**/*.py"))
    assert re.search(rf"\b{word.replace(' ', '[ _]')}s?\b", sources, re.IGNORECASE)


@pytest.mark.parametrize("word", OLD_WORDS)
def test_an_old_word_is_gone(word: str) -> None:
    pattern = re.compile(rf"\b{word.replace(' ', chr(92) + 's+')}\b", re.IGNORECASE)
    found = [str(path.relative_to(ROOT)) for path in TEXTS if pattern.search(path.read_text())]
    assert found == [], f"say: {OLD_WORDS[word]}"


_UNUSUAL = re.compile(
    r"\b(mend(s|ed)?|anew|somebody|whoever|nobody|goes on|is told|(?<!cannot )tells?|so many|"
    r"(is|are) wanted|promised)\b"
)


def _messages(path: Path) -> Iterator[str]:
    """The texts in a module that are not documentation: messages, and help."""
    tree = ast.parse(path.read_text())
    statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    documentation = {id(value) for value in statements if isinstance(value, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_messages_use_the_usual_words() -> None:
    """CONTRIBUTING.md says which: fix, show, report, continue."""
    sources = [
        path for path in ROOT.glob("src/syshax*/**/*.py") if "api" not in path.parts and path.name != "prompts.py"
    ]
    found = {
        f"{path.relative_to(ROOT)}: {text}" for path in sources for text in _messages(path) if _UNUSUAL.search(text)
    }
    assert found == set()
