# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Writes the manual pages: `python packaging/man.py FOLDER`.

They are made from the commands' own help and from the schema of the configuration, so they say what the programs do.
"""

import inspect
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import roff

from syshaxd import __version__, daemon
from syshaxd.cli import syshax, syshaxctl
from syshaxd.core.config import SHORT_KEYS, describe
from syshaxd.system import configfile


@dataclass(frozen=True)
class _Page:
    name: str
    section: int
    summary: str
    module: ModuleType | None = None
    """The program's: has `main`, and tells exit codes in its docstring."""

    @property
    def reference(self) -> str:
        return f"`{self.name}`({self.section})"


_PAGES = (
    _Page("syshax", 1, "set up and run sysHAX", syshax),
    _Page("syshax", 5, "configuration of sysHAX"),
    _Page("syshaxctl", 1, "inspect and control a running syshaxd", syshaxctl),
    _Page("syshaxd", 8, "serve one OpenAI endpoint over vLLM on the GPU and vLLM on the CPU", daemon),
)


def write(folder: Path) -> None:
    """Writes `NAME.SECTION` for each page."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in _PAGES:
        body = _file_format() if page.module is None else _program(page, page.module)
        text = "\n".join([*_head(page), *body, *_tail(page)])
        (folder / f"{page.name}.{page.section}").write_text(text + "\n", encoding="utf-8")


def _head(page: _Page) -> Iterator[str]:
    # Packages are to come out the same whenever they are built: https://reproducible-builds.org/specs/source-date-epoch
    date_s = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    yield roff.title(page.name, page.section, time.strftime("%Y-%m-%d", time.gmtime(date_s)), __version__)
    yield from (roff.section("name"), rf"{page.name} \- {roff.escape(page.summary)}")


def _tail(page: _Page) -> Iterator[str]:
    yield roff.section("see also")
    yield roff.prose(", ".join(other.reference for other in _PAGES if other is not page))


def _program(page: _Page, module: ModuleType) -> Iterator[str]:
    context = click.Context(module.main, info_name=page.name, **module.main.context_settings)
    yield from (roff.section("synopsis"), _usage(context))
    yield roff.section("description")
    yield from roff.paragraphs(_help(context.command))
    yield roff.section("options")
    yield from _options(context)
    if isinstance(context.command, click.Group):
        yield roff.section("commands")
        for command in _commands(context):
            yield roff.subsection(command.command_path)
            yield from (_usage(command), ".PP", *roff.paragraphs(_help(command.command)))
            yield from _options(command, with_help=False)
    if codes := re.search(r"Exit codes: (.*?)\.", module.__doc__ or "", re.DOTALL):
        yield roff.section("exit status")
        for code, meaning in re.findall(r"(\d+) ([^,]+)", codes[1]):
            yield from roff.entry(code, meaning)
    yield roff.section("files")
    yield from roff.entry("/etc/syshax/config.yaml", "The configuration: see `syshax`(5).")
    yield from roff.entry("~/.config/syshax/config.yaml", "Yours, where there is no /etc/syshax/config.yaml.")


def _commands(context: click.Context) -> Iterator[click.Context]:
    """All commands under one, in the order of its help; of a group also those within."""
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        inner = click.Context(command, parent=context, info_name=name)
        if isinstance(command, click.Group):
            yield from _commands(inner)
        elif not command.hidden:
            yield inner


def _usage(context: click.Context) -> str:
    words = roff.escape(" ".join(context.command.collect_usage_pieces(context)))
    return rf"\fB{roff.escape(context.command_path)}\fR {words}"


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _options(context: click.Context, *, with_help: bool = True) -> Iterator[str]:
    for option in context.command.get_params(context):
        record = option.get_help_record(context)
        if record and (with_help or option.name != "help"):
            yield from roff.entry(*record)


def _file_format() -> Iterator[str]:
    yield roff.section("description")
    yield from roff.paragraphs(
        "One YAML file: `$SYSHAX_CONFIG`, else /etc/syshax/config.yaml (always for root, and for others where it"
        " exists), else ~/.config/syshax/config.yaml. `syshax init` writes a first one, `syshax config` shows and sets"
        " keys, `syshax check-config` finds every fault. `syshaxd` reads it when it starts, and at a reload."
        "\n\nThe keys are written here with dots: `services.gpu.port` is the key `port` in the section `gpu` of the"
        " section `services`. Each has a usable default. NAME stands for names of your own."
    )
    yield roff.section("keys")
    section = ""
    for key in describe():
        if (inside := _section(key.name)) != section:
            section = inside
            yield roff.subsection(section)
        default = f" Default: {key.default}." if key.default else ""
        yield from roff.entry(key.name, key.meaning, f"Takes {key.allowed}.{default}")
    yield roff.section("short keys")
    yield from roff.paragraphs(
        "`syshax config` (not the file) also takes `gpu.`, `cpu.` and `conductor.` for `services.gpu.` and so on, and:"
    )
    for short, keys in SHORT_KEYS.items():
        yield from roff.entry(short, ", ".join(keys))
    yield roff.section("examples")
    yield from ("The file that `syshax init` writes:", *roff.literal(configfile.INITIAL))


def _section(key: str) -> str:
    return key.removesuffix(".NAME").rpartition(".")[0]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
