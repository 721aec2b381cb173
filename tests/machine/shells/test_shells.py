# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What takes programs that `setup.sh` installs: completion in zsh and fish, manual pages, the dashboard's script, and
Prometheus' own check of the rules and of all expressions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syshaxd.system import configfile
from tests.shell.test_monitoring import EXPRESSIONS, RULES

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
# What stands in for zsh's completion system, which works in a terminal only: these functions of it show what they get.
ZSH = """
compdef() { : }
_describe() { print -rl -- $completions_with_descriptions }
compadd() { print -rl -- $completions }
source $1; shift
words=("$@") CURRENT=$#
_$1_completion
"""
LINES = [
    (("syshaxctl", "restart", ""), ["gpu", "cpu"]),
    (("syshax", "config", "services.gpu.po"), ["services.gpu.port"]),
    (("syshaxd", "--log-level", "de"), ["debug"]),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    for name in ("man", "completion"):
        subprocess.run([sys.executable, ROOT / f"packaging/{name}.py", folder / name], check=True, timeout=50)
    return folder


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "config.yaml"
    configfile.create(path, force=False)
    none = str(tmp_path / "none.sock")
    return os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "SYSHAX_CONFIG": str(path),
        "SYSHAX_SOCKET": none,
        "HOME": str(tmp_path),
    }


def output(env: dict[str, str], *command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=50)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize(("words", "offers"), LINES)
def test_fish(made: Path, env: dict[str, str], words: tuple[str, ...], offers: list[str]) -> None:
    script = made / "completion" / "fish" / f"{words[0]}.fish"
    shown = output(env, "fish", "--no-config", "-c", f"source {script}; complete -C '{' '.join(words)}'")
    assert sorted(line.partition("\t")[0] for line in shown.splitlines()) == sorted(offers)


@pytest.mark.parametrize(("words", "offers"), LINES)
def test_zsh(made: Path, env: dict[str, str], words: tuple[str, ...], offers: list[str]) -> None:
    script = made / "completion" / "zsh" / f"_{words[0]}"
    shown = output(env, "zsh", "-f", "-c", ZSH, "zsh", str(script), *words)
    assert [line.partition(":")[0] for line in shown.splitlines()] == offers


@pytest.mark.parametrize("page", ["syshax.1", "syshax.5", "syshaxctl.1", "syshaxd.8"])
def test_manual_pages_are_good_roff(made: Path, env: dict[str, str], page: str) -> None:
    path = str(made / "man" / page)
    output(env, "mandoc", "-T", "lint", "-W", "warning", path)
    shown = output(env, "mandoc", "-T", "utf8", path)
    assert "\\" not in shown.replace("\b", "")


def test_the_dashboards_script_parses(env: dict[str, str]) -> None:
    output(env, "node", "--check", str(ROOT / "src/syshaxd/gateway/dashboard/page.js"))


def test_promtool_accepts_rules_and_expressions(tmp_path: Path) -> None:
    recorded = [{"record": f"r:{number}", "expr": each} for number, (_, each) in enumerate(EXPRESSIONS, start=1)]
    others = tmp_path / "expressions.yaml"
    others.write_text(json.dumps({"groups": [{"name": "g", "rules": recorded}]}))
    done = subprocess.run(["promtool", "check", "rules", str(RULES), str(others)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
