# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Models that requests start, and that make room for each other: one on real vLLM, one simulated."""

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Daemon, beside, get, service, simulated_vllm
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(400)


def ask(daemon: Daemon, model: str) -> tuple[str, str]:
    """Returns the text, and the instance that made it."""
    body = {"model": model, "prompt": "one two three", "max_tokens": 8, "temperature": 0}
    request = urllib.request.Request(
        f"{daemon.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["choices"][0]["text"], answer.headers["X-Syshax-Placement"]


def test_models_are_started_by_requests_and_make_room(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("o")
    core = min(os.sched_getaffinity(0))
    ports = {"a": free_port(), "b": free_port()}
    services: dict[str, Any] = {
        name: service(port, core) | {"role": "gpu", "model": f"tiny-{name}"} for name, port in ports.items()
    }
    services["b"] |= {"python": str(simulated_vllm(folder)), "args": {}}
    on_demand = {"path": str(tiny_model), "start": "on-demand", "min_up_s": 0.5, "start_wait_s": 200}
    config = {
        "services": services | {"conductor": {"port": free_port()}},
        "models": {"tiny-a": on_demand, "tiny-b": on_demand},
    }
    with beside(config, folder, ports) as daemon:
        until(lambda: get(f"{daemon.url}/ready")[0] == 200, 30, "the endpoint is there")
        listed = json.loads(get(f"{daemon.url}/v1/models")[1])["data"]
        assert [model["id"] for model in listed] == ["tiny-a", "tiny-b"]
        assert {its["state"] for its in daemon.status().values()} == {"STOPPED"}
        assert "STOPPED (on demand)" in daemon.syshaxctl("status").stdout
        text, instance = ask(daemon, "tiny-a")
        assert (instance, ask(daemon, "tiny-a")) == ("a", (text, "a"))
        assert ask(daemon, "tiny-b")[1] == "b", "the two have one core"
        assert daemon.status()["a"]["state"] == "STOPPED"
        assert ask(daemon, "tiny-a") == (text, "a"), "as before it was stopped"
        assert daemon.status()["a"]["launches"] == 2
        metrics = get(f"{daemon.url}/metrics")[1].decode()
        assert 'syshax_model_starts_total{model="tiny-a"} 2.0' in metrics
        assert 'syshax_model_stops_total{cause="room",model="tiny-a"} 1.0' in metrics
        told = daemon.syshaxctl("events").stdout
        assert "tiny-a: stopped to make room for tiny-b" in told
