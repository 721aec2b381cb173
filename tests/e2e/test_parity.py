# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parity on real vLLM: the same model agrees with itself, another dtype is noise, other weights differ.

One of the two instances of this folder's daemon plays the GPU for two further daemons, whose CPU instances are others.
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.model import prepare_tiny
from tests.e2e.conftest import MODEL, START_TIMEOUT_S, Daemon, beside, service, wait_up
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

pytestmark = pytest.mark.timeout(300)


def compared(daemon: Daemon, *, code: int = 0) -> dict[str, Any]:
    done = daemon.syshaxctl("parity", "gpu", "cpu", "-o", "json")
    assert done.returncode == code, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@dataclass
class Others:
    """Further daemons, whose GPU instance is that of the first one."""

    bfloat16: Daemon
    other_weights: Daemon


@pytest.fixture(scope="module")
def others(daemon: Daemon, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Others]:
    """Both are up: they start at the same time, as that is what takes long."""
    first, *_, last = sorted(os.sched_getaffinity(0))

    def start(cpu: dict[str, Any]) -> Daemon:
        ports = {"gpu": daemon.ports["gpu"], "cpu": cpu["port"]}
        config = {
            "services": {
                "gpu": {"runtime": "external", "device": "cpu", "port": ports["gpu"]},
                "cpu": cpu,
                "conductor": {"port": free_port()},
            },
            "models": {"default": MODEL},
        }
        return stack.enter_context(beside(config, tmp_path_factory.mktemp("p"), ports))

    daemon.wait_ready()
    with ExitStack() as stack:
        mine = service(free_port(), first) | {"model": str(tiny_model)}
        mine["args"]["dtype"] = "bfloat16"
        bfloat16 = start(mine)
        model = prepare_tiny(engine_python(), tmp_path_factory.mktemp("model") / "other", seed=1)
        other_weights = start(service(free_port(), last) | {"model": str(model)})
        for another in (bfloat16, other_weights):
            wait_up(another)
        yield Others(bfloat16, other_weights)


def test_two_instances_of_one_model_agree(daemon: Daemon) -> None:
    daemon.wait_ready()
    report = compared(daemon)
    assert (report["agreement"], report["cause"], report["allowed"]) == ("agrees", "none", True)
    assert report["figures"]["greedy_ratio"] == 1.0
    assert "parity: gpu and cpu: agrees" in daemon.syshaxctl("status").stdout


def test_another_dtype_is_noise(others: Others) -> None:
    report = compared(others.bfloat16)
    assert (report["agreement"], report["cause"], report["allowed"]) == ("noise", "rounding", True)
    assert report["figures"]["greedy_ratio"] < 1.0
    assert report["figures"]["prefill_distance"] > 0.0


def test_other_weights_differ_and_are_told_so_unasked(others: Others) -> None:
    daemon = others.other_weights
    until(lambda: daemon.parity_allowed() == 0, START_TIMEOUT_S, "they are compared")
    report = compared(daemon, code=1)
    assert "no request may move" in daemon.syshaxctl("status").stdout
    assert (report["agreement"], report["cause"], report["allowed"]) == ("differs", "weights", False)
    assert report["figures"]["first_token_ratio"] < 0.5
