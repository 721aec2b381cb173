# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`quantize: auto` by a whole daemon, whose making of the weights is killed twice on the way to READY."""

import json
import os
import re
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.conftest import MODEL, Daemon, beside, run_syshaxd, service, until, wait_up
from tests.fakes import checkpoint
from tests.fakes.ports import free_port

pytestmark = pytest.mark.timeout(400)
SHARDS = 16
HIDDEN, INNER, LAYERS = 1024, 4096, 6
"""So large that rounding takes some seconds, and that 8 bits are surely faster."""


@pytest.fixture
def large_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model of several files, with the tokenizer of the tiny one."""
    config = json.loads((tiny_model / "config.json").read_text()) | {
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // 64,
        "num_key_value_heads": HIDDEN // 64,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    shapes = checkpoint.tensors(LAYERS, HIDDEN, INNER) | {
        f"model.layers.{at}.post_attention_layernorm.weight": (HIDDEN,) for at in range(LAYERS)
    }
    shapes["model.embed_tokens.weight"] = (config["vocab_size"], HIDDEN)
    model = checkpoint.write_model(tmp_path / "m", shards=SHARDS, config=config, shapes=shapes)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (model / name).write_bytes((tiny_model / name).read_bytes())
    return model


@pytest.mark.parametrize("engine", ["simulated", pytest.param("vLLM", marks=pytest.mark.long)])
def test_a_making_that_is_killed_is_continued_up_to_ready(
    large_model: Path, tmp_path_factory: pytest.TempPathFactory, engine: str
) -> None:
    folder = tmp_path_factory.mktemp("a")
    weights = folder / "state/syshax/weights"
    ports = {"cpu": free_port()}
    its = service(ports["cpu"], max(os.sched_getaffinity(0)))
    its["args"]["dtype"] = "bfloat16"
    if engine == "simulated":
        its |= {"python": str(simulated(folder)), "args": {}}
    config: dict[str, Any] = {
        "services": {"cpu": its | {"quantize": "auto"}, "gpu": {"enabled": False}, "conductor": {"port": free_port()}},
        "models": {"default": MODEL, "path": str(large_model)},
        "offload": {"enabled": False},
        "lifecycle": {"backoff_base_s": 0.2},
    }

    with killed(run_syshaxd(config, folder, ports)) as first:
        maker = stopped_maker(first, weights, files=2)
        while not made_mib(first):  # it tells twice a second how far it is
            maker.resume()
            maker = stopped_maker(first, weights, files=len(whole_files(weights)) + 1)
    until(lambda: not maker.is_running(), 10, "without its daemon the quantiser ends")
    measured = identity(weights / "measured.json")
    before = whole_files(weights)
    assert len(before) >= 2
    assert not finished(weights)

    with beside(config, folder, ports) as second:
        maker = stopped_maker(second, weights, files=len(before) + 2)
        assert before.items() <= whole_files(weights).items()
        before = whole_files(weights)
        assert not finished(weights)
        maker.kill()
        wait_up(second)
        assert "was killed by signal 9" in second.syshaxctl("events").stdout
        (made,) = finished(weights)
        after = files_of(made)
        assert len(after) == SHARDS
        assert before.items() <= after.items(), "what was complete was made again"
        cpu = second.status()["cpu"]
        assert (cpu["state"], cpu["weights"]) == ("READY", "q8_0")
        told = second.syshaxctl("status").stdout
        assert re.search(r"cpu: q8_0 weights: one layer on this host: q8_0 \d\.\d\d", " ".join(told.split())), told
        assert chat(second) == ("cpu", "q8_0")

    with beside(config, folder, ports) as third:
        until(lambda: engines(third), 60, "the instance is launched")
        assert finished(weights) == [made]
        assert files_of(made) == after
        assert identity(weights / "measured.json") == measured
        assert "making weights" not in third.log_tail()


def simulated(folder: Path) -> Path:
    """Makes an interpreter whose vLLM is simulated, but which makes weights. By its measurement 8 bits are faster."""
    python = folder / "python"
    python.write_text(
        f"""#!/bin/sh
case "$*" in
*syshax_quantize.measure*) read order; echo '{{"none": {{"1": 2}}, "q8_0": {{"1": 1}}}}' ;;
*syshax_quantize*) exec {sys.executable} "$@" ;;
*) shift 2; exec {sys.executable} -m syshax_sim "$@" ;;
esac
"""
    )
    python.chmod(0o755)
    return python


def stopped_maker(daemon: Daemon, weights: Path, *, files: int) -> psutil.Process:
    """The quantiser, stopped when so many files are complete."""

    def caught() -> psutil.Process | None:
        assert daemon.process.poll() is None, daemon.log_tail()
        assert not finished(weights), "it has made them all"
        if len(whole_files(weights)) < files:
            return None
        (maker,) = makers(daemon)
        maker.suspend()
        return maker

    found: psutil.Process = until(caught, 120, f"{files} files of the weights are complete")
    return found


@contextmanager
def killed(daemon: Daemon) -> Iterator[Daemon]:
    """A daemon that is killed at the end of the block. A quantiser that was stopped runs on."""
    try:
        yield daemon
    finally:
        left = makers(daemon)
        daemon.process.kill()
        daemon.process.wait()
        for maker in left:
            maker.resume()


def made_mib(daemon: Daemon) -> int:
    """How much of the model is done, as status tells it."""
    found = re.fullmatch(r"making weights: (\d+) of \d+ MiB of the model", daemon.status()["cpu"]["reason"])
    assert found is not None
    return int(found[1])


def makers(daemon: Daemon) -> list[psutil.Process]:
    return [each for each in daemon.children() if "syshax_quantize" in each.cmdline()]


def engines(daemon: Daemon) -> list[psutil.Process]:
    return [each for each in daemon.children() if str(daemon.ports["cpu"]) in each.cmdline()]


def finished(weights: Path) -> list[Path]:
    """Folders that an instance would use."""
    return [path for path in weights.glob("m-q8_0-*") if path.is_dir()]


def whole_files(weights: Path) -> dict[str, tuple[int, int]]:
    """Those of the folder that is not complete yet."""
    return {name: its for folder in weights.glob(".making-*") for name, its in files_of(folder).items()}


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each complete file of weights, by name: they tell whether it was made again."""
    return {path.name: identity(path) for path in folder.glob("*.safetensors")}


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def chat(daemon: Daemon) -> tuple[str, str]:
    """Asks for some tokens; returns the instance and the weights that made them."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] > 0
        return answer.headers["X-Syshax-Placement"], answer.headers["X-Syshax-Weights"]
