# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What bash offers at Tab. `tests/machine/shells` asks zsh and fish."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from syshaxd.cli import syshax, syshaxctl
from syshaxd.control import ControlServer
from syshaxd.system import configfile
from tests.fakes.control import operations_of
from tests.fakes.engine import FakeEngine

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() { :; }
_$(basename "$1")_completion "$1"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    subprocess.run([sys.executable, ROOT / "packaging/completion.py", folder], check=True, timeout=50)
    return folder


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(operations_of(FakeEngine()), tmp_path / "admin.sock")
    await server.start()
    yield tmp_path / "admin.sock"
    await server.stop()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration, and no daemon."""
    path = tmp_path / "config.yaml"
    configfile.create(path, force=False)
    monkeypatch.setenv("SYSHAX_CONFIG", str(path))
    monkeypatch.setenv("SYSHAX_SOCKET", str(tmp_path / "none.sock"))
    return path


async def bash(scripts: Path, socket: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "SYSHAX_SOCKET": str(socket)}
    shell = await asyncio.create_subprocess_exec(
        *("bash", "--norc", "-c", ASK, "ask", scripts / "bash" / words[0], *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | env,
    )
    out, err = await shell.communicate()
    assert (shell.returncode, err.decode()) == (0, "")
    return out.decode().split()


def offered(program: click.Command, *words: str) -> list[str]:
    """What any shell is told."""
    *before, last = words
    return [item.value for item in ShellComplete(program, {}, "program", "_VAR").get_completions(before, last)]


async def test_instances_are_the_daemons(scripts: Path, socket: Path) -> None:
    assert await bash(scripts, socket, "syshaxctl", "logs", "-f", "") == ["gpu", "cpu"]
    assert await bash(scripts, socket, "syshaxctl", "restart", "c") == ["cpu"]


async def test_bash_completes_keys(scripts: Path, socket: Path) -> None:
    assert await bash(scripts, socket, "syshax", "config", "services.gpu.po") == ["services.gpu.port"]


def test_without_a_daemon_instances_are_those_of_the_file(config: Path) -> None:
    configfile.edit(config, {"services.cpu.enabled": "false"})
    assert offered(syshaxctl.main, "stop", "") == ["gpu"]
    config.unlink()
    assert offered(syshaxctl.main, "stop", "") == []


async def test_models_are_the_daemons(scripts: Path, socket: Path) -> None:
    model = FakeEngine().status().instances[0].spec.served_model
    assert await bash(scripts, socket, "syshaxctl", "decisions", "--model", "") == [model]
    assert await bash(scripts, socket, "syshaxctl", "rollout", "") == [model, "gpu", "cpu"]


def test_without_a_daemon_models_are_those_of_the_file(config: Path) -> None:
    configfile.edit(config, {"models.default": "qwen-7b"})
    assert offered(syshaxctl.main, "explain", "--model", "") == ["qwen-7b"]
    assert offered(syshaxctl.main, "keys", "create", "--model", "q") == ["qwen-7b"]
    config.unlink()
    assert offered(syshaxctl.main, "explain", "--model", "") == []


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (("che",), ["check-config"]),
        (("config", "services.cpu.en"), ["services.cpu.enabled", "services.cpu.env."]),
        (("config", "services.gpu.device", ""), ["cuda", "cpu"]),
        (("config", "numa.enforce", "f"), ["false"]),
        (("config", "numa.enforce", "false", "monitor."), ["monitor.interval_s"]),
        (("config", "--unset", "monitor."), ["monitor.interval_s"]),
        (("config", "no.such.key", ""), []),
        (("config", "models.default", ""), []),
    ],
)
def test_keys_and_values(words: tuple[str, ...], offers: list[str]) -> None:
    assert offered(syshax.main, *words) == offers
