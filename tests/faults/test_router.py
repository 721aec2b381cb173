# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Two hosts behind vllm-router, which was made for several vLLM servers: one of them fails."""

import json
import os
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.ports import free_port
from tests.fakes.waiting import until
from tests.faults.bed import READY_S, Bed, get
from tests.faults.conftest import MakeBed
from tests.faults.report import Row

pytestmark = pytest.mark.timeout(600)

ROUTER = Path(os.environ.get("VLLM_ROUTER", Path(__file__).parents[2] / "build/vllm-router/bin/vllm-router"))
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}).encode()


@pytest.fixture
def hosts(make_bed: MakeBed) -> dict[str, Bed]:
    if not ROUTER.exists():
        pytest.fail(f"{ROUTER} is missing: `make vllm-router` installs it")
    return {name: make_bed() for name in ("one", "other")}


@pytest.fixture
def router(hosts: dict[str, Bed], tmp_path: Path) -> Iterator[str]:
    """The router's URL, with both hosts behind it, as `syshaxctl endpoints` lists them."""
    one, other = hosts.values()
    listed = one.ctl("endpoints", one.url, other.url)
    assert listed.returncode == 0, listed.stderr
    port = free_port()
    argv = [str(ROUTER), "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *listed.stdout.split()]
    argv += ["--policy", "round_robin", "--prometheus-port", str(free_port())]
    argv += ["--health-check-interval-secs", "1", "--health-failure-threshold", "1", "--health-success-threshold", "1"]
    argv += ["--retry-initial-backoff-ms", "50", "--cb-timeout-duration-secs", "1"]
    with (tmp_path / "router.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            until(
                lambda: get(f"http://127.0.0.1:{port}/health")[0] == 200,
                READY_S,
                (tmp_path / "router.log").read_text,
            )
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def ask(url: str) -> int:
    order = urllib.request.Request(f"{url}/v1/chat/completions", CHAT, {"Content-Type": "application/json"})
    with urllib.request.urlopen(order, timeout=30) as answer:
        assert json.load(answer)["choices"][0]["finish_reason"]
        return int(answer.status)


def answered(hosts: dict[str, Bed]) -> dict[str, float]:
    return {name: bed.metric("vllm:request_success_total") for name, bed in hosts.items()}


def test_a_router_in_front_of_two_hosts(hosts: dict[str, Bed], router: str, row: Row) -> None:
    row.done = "two syshaxd behind vllm-router; the instances of one are stopped, then the other's daemon is killed"

    def ask_often(count: int = 20) -> Counter[str]:
        before = answered(hosts)
        row.counts.verdicts["ok"] += sum(ask(router) == 200 for _ in range(count))
        return Counter({name: int(total - before[name]) for name, total in answered(hosts).items()})

    assert ask_often() == {"one": 10, "other": 10}, "round robin"

    one, other = hosts.values()
    one.told_to_end |= {"gpu", "cpu"}
    for name in ("gpu", "cpu"):
        assert one.ctl("stop", name, "--now", "--wait").returncode == 0
    assert get(f"{one.url}/health")[0] == 503
    assert ask_often() == {"one": 0, "other": 20}, "none fails: the router tries again where /health is 200"

    for name in ("gpu", "cpu"):
        assert one.ctl("start", name, "--wait").returncode == 0
    one.wait_ready()
    until(lambda: ask_often()["one"], READY_S, "the host that is back gets requests again")

    other.kill("daemon")
    before = one.metric("vllm:request_success_total")
    assert all(ask(router) == 200 for _ in range(20))
    assert one.metric("vllm:request_success_total") == before + 20
    other.start()
    other.wait_ready()
