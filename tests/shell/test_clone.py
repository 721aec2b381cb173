# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python3 cli.py` and `python3 main.py`, as the README of upstream sysHAX says them, run in a copy of the tree."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tree, as it is before anybody has installed anything."""
    clone = tmp_path / "sysHAX"
    clone.mkdir()
    for name in ("cli.py", "main.py"):
        shutil.copy(ROOT / name, clone)
    (clone / "src").symlink_to(ROOT / "src")
    return clone


def python(python: Path | str, clone: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"SYSHAX_CONFIG": str(clone / "config.yaml")}
    return subprocess.run([python, *words], capture_output=True, text=True, env=env, cwd=clone, timeout=50)


def test_the_seeds_words(clone: Path) -> None:
    made = python(sys.executable, clone, "cli.py", "init")
    assert (made.returncode, made.stderr) == (0, "")
    assert "then `python3 cli.py run`" in made.stdout
    values = {
        "services.gpu.port": "8001",
        "services.cpu.port": "8002",
        "services.conductor.port": "8010",
        "models.default": "ds-32b",
    }
    words = [word for pair in values.items() for word in pair]
    told = python(sys.executable, clone, "cli.py", "config", *words).stdout
    assert told == "".join(f"{key} is set\n" for key in values)
    assert "  services.gpu.port\n" in python(sys.executable, clone, "cli.py", "config", "--help").stdout
    checked = python(sys.executable, clone, "main.py", "--check-config")
    assert (checked.returncode, "is valid" in checked.stdout) == (0, True), checked.stderr


def test_without_the_packages_that_it_needs(clone: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    result = python(tmp_path / "bare/bin/python", clone, "main.py")
    assert result.returncode == 1
    assert result.stderr.startswith("The Python package click is missing. `make env` (or `make run`) installs")
    assert f"python3 -m pip install -e {clone}" in result.stderr


def test_the_clones_own_environment_is_used(clone: Path) -> None:
    own = clone / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.write_text('#!/bin/sh\necho "own: $*"\n')
    own.chmod(0o755)
    base = getattr(sys, "_base_executable", sys.executable)
    assert python(base, clone, "cli.py", "model").stdout == "own: cli.py model\n"
