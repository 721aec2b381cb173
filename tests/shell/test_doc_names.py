# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The documents name every RPC and every command, and no command, key or metric that does not exist."""

import re
from pathlib import Path

import click
import pytest

from syshaxd.api.v1 import admin_pb2, scheduling_pb2
from syshaxd.cli import syshax, syshaxctl
from syshaxd.core.config import SHORT_KEYS, describe

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(page for page in ROOT.glob("docs/*.md") if page.name not in {"README.md", "decisions.md"})]
)
COMMANDS: dict[str, click.Command] = {"syshax": syshax.main, "syshaxctl": syshaxctl.main}
KEYS = frozenset(key.name for key in describe())
NO_METRICS = {*(path.name for path in (ROOT / "src").iterdir()), "syshax_ipc", "syshax_weights"}
SECTIONS = sorted({key.partition(".")[0] for key in KEYS})


def _commands(command: click.Command, name: str) -> list[str]:
    if not isinstance(command, click.Group):
        return [name]
    return [name, *(found for inner, its in command.commands.items() for found in _commands(its, f"{name} {inner}"))]


ALL_COMMANDS = {found for name, command in COMMANDS.items() for found in _commands(command, name)}


def test_every_rpc_has_a_row() -> None:
    text = (ROOT / "docs/control-plane.md").read_text()
    services = [*admin_pb2.DESCRIPTOR.services_by_name.values(), *scheduling_pb2.DESCRIPTOR.services_by_name.values()]
    methods = {method.name for service in services for method in service.methods}
    rows = set(re.findall(r"\w+", " ".join(re.findall(r"^\| ([A-Z][\w, ]+) \|", text, re.MULTILINE))))
    assert methods - rows == set()


@pytest.mark.parametrize("program", COMMANDS)
def test_every_command_is_listed(program: str) -> None:
    section = (ROOT / "docs/cli.md").read_text().partition(f"\n## {program}\n")[2].partition("\n## ")[0]
    words = set(re.findall(r"[a-z-]+", " ".join(re.findall(r"`([^`\n]*)`", section))))
    command = COMMANDS[program]
    assert isinstance(command, click.Group)
    assert {name for name, its in command.commands.items() if not its.hidden} - words == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"(?:`|^    (?:\$ )?(?:\.venv/bin/)?)(syshax(?:ctl)? [a-z][a-z-]*)", page.read_text(), re.MULTILINE
    )
    assert {command for command in named if command not in ALL_COMMANDS} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_that_are_named_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[\w.<>-]*[\w>])", page.read_text())
    assert {key for key in named if not _is_key(key)} == set()


def _is_key(named: str) -> bool:
    """Whether it is a key, a section of keys, or a name of one's own below a key that takes any."""
    key = re.sub(r"\.(NAME|<name>)(?=\.|$)", ".gpu", named) if named.startswith("services.") else named
    free = {re.sub(r"\.NAME$", "", name) for name in KEYS if name.endswith(".NAME")}
    return (
        key in KEYS
        or key in SHORT_KEYS
        or any(name.startswith(f"{key}.") for name in KEYS)
        or any(key.startswith(f"{name}.") for name in free)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_metrics_that_are_named_exist(page: Path) -> None:
    known = set(re.findall(r"^\| `(syshax_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    renamed = (ROOT / "CHANGELOG.md").read_text().partition("### Renamed")[2].partition("\n### ")[0]
    known |= set(re.findall(r"`(syshax_\w+)`", renamed))
    named = re.findall(r"(?<!:)\b(syshax_[a-z_]+[a-z])\b", page.read_text())
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} - known - NO_METRICS == set()


def test_messages_that_operators_look_up_exist() -> None:
    sources = "".join(path.read_text() for path in sorted((ROOT / "src/syshaxd").rglob("*.py")))
    table = (ROOT / "docs/operating.md").read_text().partition("## What to do when")[2].partition("\n## ")[0]
    messages = [message.partition("...")[0].strip() for message in re.findall(r'"([^"\n]+)"', table)]
    assert len(messages) > 5
    assert [message for message in messages if message not in sources] == []
