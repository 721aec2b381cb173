# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The manual pages name all that there is. `tests/machine/shells` looks at them as `man` does."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from syshaxd import daemon
from syshaxd.cli import syshax, syshaxctl
from syshaxd.core.config import describe

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text of each page, by file name, without roff's escapes of hyphens."""
    folder = tmp_path_factory.mktemp("man")
    subprocess.run([sys.executable, ROOT / "packaging/man.py", folder], check=True, timeout=50)
    return {path.name: path.read_text().replace(r"\-", "-") for path in folder.iterdir()}


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, f"{path} {name}")


PROGRAMS = pytest.mark.parametrize(
    ("page", "program"), [("syshax.1", syshax.main), ("syshaxctl.1", syshaxctl.main), ("syshaxd.8", daemon.main)]
)


@PROGRAMS
def test_each_command_shows_examples_in_its_help(page: str, program: click.Command) -> None:
    name = page.partition(".")[0]
    for path, command in commands(program, name):
        if path != name and isinstance(command, click.Group):
            continue
        text = click.Context(command, info_name=path).get_help()
        names = f"{path}|{path.replace('syshaxctl', 'syshax')}"  # both programs have some commands
        assert re.search(rf"Examples:\n +(ssh server .*)?({names})", text), f"{path} --help shows no example"


@PROGRAMS
def test_help_names_each_command_on_a_line_of_its_own(page: str, program: click.Command) -> None:
    for path, command in commands(program, page.partition(".")[0]):
        if not isinstance(command, click.Group):
            continue
        text = click.Context(command, info_name=path, terminal_width=80).get_help()
        for name in command.commands:
            (line,) = re.findall(rf"(?m)^  {name} .*", text)
            assert line.endswith("."), f"{path} --help: {line.strip()!r} is cut"
            assert not line.endswith("..."), f"{path} --help: {line.strip()!r} is cut"


def test_the_manual_keeps_the_sections_order(pages: dict[str, str]) -> None:
    places = [
        pages["syshaxctl.1"].index(f".SS syshaxctl {name}\n") for name in ("status", "numa plan", "start", "place")
    ]
    assert places == sorted(places)


@PROGRAMS
def test_each_command_and_option_is_named(pages: dict[str, str], page: str, program: click.Command) -> None:
    for path, command in commands(program, page.partition(".")[0]):
        options = [opt for option in command.params if isinstance(option, click.Option) for opt in option.opts]
        if not isinstance(command, click.Group):
            assert rf"\fB{path}\fR " in pages[page]
        for option in options:
            assert option in pages[page], path


def test_each_key_is_named(pages: dict[str, str]) -> None:
    for key in describe():
        assert f".TP\n\\fB{key.name}\\fR\n" in pages["syshax.5"]
        assert f"Takes {key.allowed}." in pages["syshax.5"]


def test_examples_and_exit_codes_are_there(pages: dict[str, str]) -> None:
    assert "  syshax config services.gpu.port 8001\n" in pages["syshax.1"]
    assert ".TP\n\\fB3\\fR\nno daemon answers\n" in pages["syshaxctl.1"]
