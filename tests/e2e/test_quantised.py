# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Real vLLM on full weights and on quantised ones, which syshaxd makes: answers move from one to the other and back."""

import asyncio
import os
import platform
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from syshax_embedded.engine import engine_python
from syshaxd.core.weights import Quantize, Scheme, plan_weights
from syshaxd.runtime.quantiser import ProcessWorker, make_weights
from syshaxd.system.weights import read_checkpoint
from tests.e2e.conftest import MODEL, Daemon, beside, service, wait_up
from tests.e2e.test_offload import OFFLOAD, STREAM, Answer, ask, body_of, session_to
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)
CHAT = "/v1/chat/completions"
TOKENS = 1200
"""Enough that the answer is still under way when the instance begins to stop, also on a busy machine."""
COMPUTED = 'vllm:prompt_tokens_by_source_total{engine="0",model_name="tiny",source="local_compute"}'


@pytest.mark.parametrize("quantize", [Quantize.Q8_0, pytest.param(Quantize.Q4_0, marks=pytest.mark.long)])
def test_answers_move_between_full_and_quantised_weights(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, quantize: Quantize
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    ports = {"gpu": free_port(), "cpu": free_port()}
    services: dict[str, Any] = {name: service(port, cores[0 if name == "gpu" else -1]) for name, port in ports.items()}
    for its in services.values():
        its["args"]["dtype"] = "bfloat16"
    if quantize is Quantize.Q8_0:
        services["cpu"]["quantize"] = quantize
    else:  # which syshaxd makes only where it is fast; vLLM computes with it anywhere
        services["cpu"]["model"] = str(made_beforehand(tiny_model, quantize, tmp_path_factory.mktemp("weights")))
    config = {
        "services": services | {"conductor": {"port": free_port()}},
        "models": {"default": MODEL, "path": str(tiny_model)},
        "offload": {"arena_bytes": 64 << 20},
        "parity": {"max_distance_quantised": 1.0},  # with random weights the distance means nothing
    }
    # vLLM's sockets are in this folder, and their paths may not be long.
    with beside(config, tmp_path_factory.mktemp("q"), ports) as daemon:
        wait_up(daemon)
        until(daemon.is_ready, 120, "the two are compared")
        assert daemon.status()["cpu"]["weights"] == quantize
        assert "gpu and cpu: quantised" in daemon.syshaxctl("parity", "gpu", "cpu").stdout
        asyncio.run(_move(daemon, quantize))
        assert daemon.handovers(result="recomputed") == 0


def made_beforehand(model: Path, quantize: Quantize, folder: Path) -> Path:
    scheme = Scheme.INT4 if platform.machine() == "aarch64" else Scheme.PACK4
    plan = plan_weights(read_checkpoint(model), quantize, scheme)
    worker = ProcessWorker(str(engine_python()), folder)
    return asyncio.run(make_weights(plan, folder, worker=worker, report=lambda _: None))


async def _move(daemon: Daemon, quantize: str) -> None:
    computed = daemon.metric("cpu", COMPUTED)
    async with session_to(daemon) as session:
        offloaded = await ask(session, OFFLOAD, body_of(OFFLOAD, tokens=40) | STREAM)
        assert (offloaded.placement, offloaded.tokens) == ("gpu+cpu", 40)
        told = await asyncio.to_thread(daemon.syshaxctl, "explain", offloaded.request_id)
        moved = rf"from gpu to cpu, {quantize} weights \(offload\).*KV cache loaded"
        assert re.search(moved, told.stdout), told.stdout
        back = await _there_and_back(daemon, session, computed)
        assert back.tokens == TOKENS
    assert daemon.handovers(cause="drain", source="cpu", target="gpu", result="loaded") == 1


async def _there_and_back(daemon: Daemon, session: aiohttp.ClientSession, computed: float) -> Answer:
    """An offloaded answer whose second instance is stopped meanwhile; another client insists on full weights.

    `computed`: prompt tokens that this instance had computed before the first offload.
    """
    begun = asyncio.Event()
    body = body_of(OFFLOAD, "back again " * 60, TOKENS) | STREAM
    async with asyncio.TaskGroup() as group:
        answering = group.create_task(ask(session, OFFLOAD, body, begun=begun.set))
        await begun.wait()
        assert daemon.metric("cpu", COMPUTED) - computed == 2  # of each prompt its last token, the rest was loaded
        insists = {"X-Syshax-Weights": "full"}
        async with session.post(CHAT, json=body_of(CHAT, tokens=1), headers=insists) as response:
            assert response.headers["x-syshax-placement"] == "gpu"
        group.create_task(asyncio.to_thread(daemon.syshaxctl, "stop", "cpu", "--wait"))
    return answering.result()
