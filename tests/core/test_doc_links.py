# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The documents: no link is dead, no page is missing from the index, and the words are the usual ones."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "src/syshax_connector/*.md")
    for path in ROOT.glob(pattern)
)
_OTHERS = {"CHANGELOG.md", "CONTRIBUTING.md", "reliability.md"}
"""A log, the rule itself, and a page whose table other tests write."""
_CODE = re.compile(r"```.*?```|^    .*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")


def _anchors(page: Path) -> set[str]:
    """As GitHub and openEuler's forge make them of headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = []
    for link in _LINK.findall(_CODE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert not dead


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    assert not {path for path in PAGES if path.is_relative_to(index.parent)} - {index} - listed


def test_the_table_of_places_names_what_exists() -> None:
    rows = re.findall(r"^\|.*\| (.*) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    places = [place for row in rows for place in re.findall(r"`([\w./-]+/[\w./-]*)`", row) if "NAME" not in place]
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).exists()] == []


_UNUSUAL = re.compile(
    r"\b(somebody|whoever|anew|mend(s|ed)?|"
    r"go(es)? on|went on|tak(en?|es) back|is told|are told|for want of|of its own accord)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in _OTHERS], ids=lambda page: page.name)
def test_pages_use_the_usual_words(page: Path) -> None:
    """CONTRIBUTING.md says which: continue, recreate, roll back."""
    assert [found[0] for found in _UNUSUAL.findall(page.read_text())] == []
