# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances at IPv6 addresses, and at names that cannot be resolved: every way to an instance, and to ourselves."""

import asyncio
import re
import socket
from functools import partial

import aiohttp
import pytest

from syshax_sim import BUILT_IN
from syshaxd.core.address import Address
from syshaxd.core.errors import InstanceFailedError, LaunchFailedError, SyshaxError
from syshaxd.core.parity import PROMPTS
from syshaxd.instances.capabilities import read_facts
from syshaxd.instances.catalog import read_catalog
from syshaxd.observe.devices import HostReader
from syshaxd.observe.monitor import SystemMonitor, probe_health
from syshaxd.observe.parity_ask import ask
from syshaxd.runtime.ports import check_port
from syshaxd.serving.runner.upstream import UpstreamPool
from syshaxd.system.connecting import why_no_connection
from syshaxd.system.gpus import GpuReading
from tests.fakes.handover import duo
from tests.fakes.specs import make_spec

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
NOWHERE = "no-such-host.invalid"
RESOLUTION = rf"the name '{NOWHERE}' cannot be resolved \(.+\); see `host` in the configuration, DNS and /etc/hosts"
IN_TIME_S = 50.0


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this host has no ::1")
async def test_instances_and_endpoint_at_ipv6_addresses() -> None:
    async with duo(BUILT_IN["instant"], host="::1") as both:  # catalogue and facts were read when it is there
        assert both.url.startswith("http://[::1]:")
        for name in ("gpu", "cpu"):
            answer, placement = await both.whole("/v1/chat/completions", CHAT, headers={"x-syshax-place": name})
            assert placement == name
            assert answer["choices"]
        events, _ = await both.events("/v1/chat/completions", CHAT)
        assert events
        spec = next(status.spec for status in both.supervisor.statuses() if status.spec.name == "gpu")
        assert spec.address.authority == f"[::1]:{both.gpu.port}"
        await probe_health(both.session, spec)
        assert len(await ask(both.session, spec, timeout_s=IN_TIME_S)) == len(PROMPTS)
        await _load_is_read(spec)


async def _load_is_read(spec: object) -> None:
    read = asyncio.Event()
    monitor = SystemMonitor(
        lambda: [spec],  # type: ignore[list-item]
        interval_s=0.02,
        timeout_s=5.0,
        read_host=HostReader().read,
        read_gpus=GpuReading,
    )
    monitor.subscribe(
        lambda snapshot: read.set() if (load := snapshot.instances.get("gpu")) and not load.error else None
    )
    running = asyncio.create_task(monitor.run())
    async with asyncio.timeout(IN_TIME_S):
        await read.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("way", [probe_health, read_catalog, read_facts, partial(ask, timeout_s=IN_TIME_S)])
async def test_whoever_asks_an_instance_says_which_name_cannot_be_resolved(way: object) -> None:
    spec = make_spec(host=NOWHERE, port=1)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(InstanceFailedError, match=RESOLUTION):
            await way(session, spec)  # type: ignore[operator]


async def test_a_request_for_such_an_instance_says_so_too() -> None:
    pool = UpstreamPool(Address(NOWHERE, 1), asyncio.get_running_loop())
    with pytest.raises(InstanceFailedError, match=f"no connection: {RESOLUTION}"):
        await pool.connect(IN_TIME_S)


@pytest.mark.parametrize("host", ["cpu..local", "a" * 64, "\ud800"])
async def test_a_host_that_no_configuration_could_have_is_an_error_as_any_other(host: str) -> None:
    spec = make_spec(host=host, port=1)
    with pytest.raises(InstanceFailedError, match="not a valid host name"):
        await UpstreamPool(spec.address, asyncio.get_running_loop()).connect(IN_TIME_S)
    with pytest.raises(LaunchFailedError, match=re.escape("services.gpu.host")):
        check_port(spec, spec.host, spec.port)
    async with aiohttp.ClientSession() as session:
        for way in (probe_health, read_catalog, read_facts, partial(ask, timeout_s=IN_TIME_S)):
            with pytest.raises(SyshaxError):
                await way(session, spec)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (OSError("Multiple exceptions: a, b"), "Multiple exceptions: a, b"),
        (OSError(), "OSError"),
        (UnicodeError("label empty or too long"), "'x' is not a valid host name"),
        (
            socket.gaierror(-3, "Temporary failure in name resolution"),
            (
                "the name 'x' cannot be resolved (Temporary failure in name resolution); "
                "see `host` in the configuration, DNS and /etc/hosts"
            ),
        ),
    ],
)
def test_reasons(error: OSError | UnicodeError, told: str) -> None:
    assert why_no_connection(error, "x") == told
