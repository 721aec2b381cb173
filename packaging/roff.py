# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The few roff macros that a manual page takes. Texts are plain, with `code` in backticks."""

import re
from collections.abc import Iterable


def escape(text: str) -> str:
    """Text that roff prints as it is."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def prose(text: str) -> str:
    """A text on one line, its `code` in bold."""
    parts = re.split(r"`([^`]+)`", " ".join(text.split()))
    return "".join(rf"\fB{escape(part)}\fR" if index % 2 else escape(part) for index, part in enumerate(parts))


def title(name: str, section: int, date: str, version: str) -> str:
    """Begins a page."""
    return f'.TH "{name.upper()}" "{section}" "{date}" "sysHAX {version}" "sysHAX"'


def section(name: str) -> str:
    """Begins a section."""
    return f".SH {escape(name.upper())}"


def subsection(name: str) -> str:
    """Begins a part of a section."""
    return f".SS {escape(name)}"


def paragraphs(text: str) -> Iterable[str]:
    """Paragraphs, which blank lines separate. One that begins with a backspace keeps its lines, as in click."""
    for index, block in enumerate(re.split(r"\n\s*\n", text.strip())):
        if block.startswith("\b"):
            yield from literal(block.removeprefix("\b\n"))
        else:
            yield from ((".PP",) if index else ()) + (prose(block),)


def literal(text: str) -> Iterable[str]:
    """Lines as they are."""
    return (".PP", ".RS 4", ".nf", escape(text), ".fi", ".RE")


def entry(name: str, *texts: str) -> Iterable[str]:
    """A name in bold, and under it what it means."""
    yield from (".TP", rf"\fB{escape(name)}\fR")
    for index, text in enumerate(texts):
        yield from ((".br",) if index else ()) + (prose(text),)
