# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parity on real vLLM: the same model agrees with itself, another dtype is noise, other weights differ.

One of the two instances of this folder's daemon plays the GPU for a second daemon, whose CPU instance is another one.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.model import prepare_tiny
from tests.e2e.conftest import (
    MODEL,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Daemon,
    free_port,
    get,
    run_syshaxd,
    service,
    until,
)

pytestmark = pytest.mark.timeout(300)


def compared(daemon: Daemon, *, code: int = 0) -> dict[str, Any]:
    done = daemon.syshaxctl("parity", "gpu", "cpu", "-o", "json")
    assert done.returncode == code, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@contextmanager
def beside(daemon: Daemon, folder: Path, cpu: Callable[[dict[str, Any]], None]) -> Iterator[Daemon]:
    """A second daemon; `cpu` changes the configuration of its CPU instance."""
    ports = {"gpu": daemon.ports["gpu"], "cpu": free_port()}
    mine = service(ports["cpu"], max(os.sched_getaffinity(0)))
    cpu(mine)
    config = {
        "services": {
            "gpu": {"runtime": "external", "device": "cpu", "port": ports["gpu"]},
            "cpu": mine,
            "conductor": {"port": free_port()},
        },
        "models": {"default": MODEL},
    }
    second = run_syshaxd(config, folder, ports)
    try:
        until(lambda: get(f"{second.url}/ready?all=1")[0] == 200, START_TIMEOUT_S, "the second daemon's are ready")
        yield second
    except BaseException:
        print(second.log_tail())
        raise
    finally:
        second.process.send_signal(signal.SIGINT)
        second.process.wait(STOP_TIMEOUT_S)


def test_two_instances_of_one_model_agree(daemon: Daemon) -> None:
    daemon.wait_ready()
    report = compared(daemon)
    assert (report["agreement"], report["cause"], report["allowed"]) == ("agrees", "none", True)
    assert report["figures"]["greedy_ratio"] == 1.0
    assert "parity: gpu and cpu: agrees" in daemon.syshaxctl("status").stdout


def test_another_dtype_is_noise(daemon: Daemon, tiny_model: Path, tmp_path: Path) -> None:
    def in_bfloat16(cpu: dict[str, Any]) -> None:
        cpu["model"] = str(tiny_model)
        cpu["args"]["dtype"] = "bfloat16"

    daemon.wait_ready()
    with beside(daemon, tmp_path, in_bfloat16) as second:
        report = compared(second)
    assert (report["agreement"], report["cause"], report["allowed"]) == ("noise", "rounding", True)
    assert report["figures"]["greedy_ratio"] < 1.0
    assert report["figures"]["prefill_distance"] > 0.0


def test_other_weights_differ_and_are_told_so_unasked(daemon: Daemon, tmp_path: Path) -> None:
    other = prepare_tiny(engine_python(), tmp_path / "other", seed=1)
    daemon.wait_ready()
    with beside(daemon, tmp_path, lambda cpu: cpu.update(model=str(other))) as second:
        refused = b'syshax_parity_allowed{name="gpu",other="cpu"} 0.0'
        until(lambda: refused in get(f"{second.url}/metrics")[1], START_TIMEOUT_S, "they are compared")
        report = compared(second, code=1)
        assert "no request moves" in second.syshaxctl("status").stdout
    assert (report["agreement"], report["cause"], report["allowed"]) == ("differs", "weights", False)
    assert report["figures"]["first_token_ratio"] < 0.5
