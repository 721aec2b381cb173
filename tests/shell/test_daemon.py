# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon itself: what of it may fail without ending it, and how it ends when something must not."""

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
import trustme

from syshaxd.core.errors import SyshaxError
from syshaxd.daemon import composition, program
from syshaxd.gateway import Gateway
from syshaxd.instances import binder
from syshaxd.instances.supervisor import Supervisor
from syshaxd.observe.monitor import SystemMonitor
from syshaxd.runtime.process import ProcessRuntime
from syshaxd.system import configfile
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.ports import free_port

CONFIG = """\
services:
  conductor:
    host: 127.0.0.1
    port: {port}
  gpu:
    runtime: external
    host: 127.0.0.1
    port: 9
  cpu:
    enabled: false
models:
  default: m
lifecycle:
  drain_timeout_s: 0.1
"""


@asynccontextmanager
async def serving(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, str] = MappingProxyType({})
) -> AsyncIterator[tuple[str, asyncio.Task[None]]]:
    """The daemon's URL and its task."""
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(folder))
    port = free_port()
    text = CONFIG.format(port=port)
    if changes:
        text = await asyncio.to_thread(configfile.edited, text, dict(changes))
    config = await asyncio.to_thread(configfile.parse_file, text)
    bound = await asyncio.to_thread(binder.bind, config)
    task = asyncio.create_task(program.serve(folder / "config.yaml", text, config, bound))
    try:
        yield f"http://127.0.0.1:{port}", task
    finally:
        if not task.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait((task,))


async def metrics_with(url: str, line: str) -> str:
    """The daemon's metrics, once they have such a line."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/metrics") as answer:
                    text = await answer.text()
            except aiohttp.ClientConnectionError:
                text = ""
            if line in text:
                return text
            await asyncio.sleep(0.05)


class _FailingMonitor(SystemMonitor):
    async def run(self) -> None:
        raise OverflowError("int too large to convert to float")


class _FailingSupervisor(Supervisor):
    left_running: bool | None = None

    async def run(self) -> None:
        raise RuntimeError("the supervisor has a fault")

    async def shutdown(self, *, leave_running: bool, drain: bool) -> None:
        type(self).left_running = leave_running
        await super().shutdown(leave_running=leave_running, drain=drain)


async def test_a_failing_side_task_is_counted_and_the_service_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(composition, "SystemMonitor", _FailingMonitor)
    async with serving(tmp_path, monkeypatch) as (url, task):
        text = await metrics_with(url, 'syshax_task_failures_total{task="monitor"} 2.0')
        assert 'syshax_task_failures_total{task="bindings"} 0.0' in text
        assert "syshax_event_loop_lag_seconds_count" in text
        assert not task.done()
    await task  # stopped as it was told
    assert any(message.startswith("monitor failed: OverflowError") for message in caplog.messages)


async def test_a_fault_of_the_supervision_ends_the_daemon_but_not_the_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(composition, "Supervisor", _FailingSupervisor)
    async with serving(tmp_path, monkeypatch) as (_, task):
        await asyncio.wait((task,))
    with pytest.raises(SyshaxError, match="the supervisor has a fault"):
        await task
    assert _FailingSupervisor.left_running is True
    assert any("the supervision of instances has failed" in message for message in caplog.messages)


async def test_errors_at_the_end_hide_neither_each_other_nor_why_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(method: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        async def fails(*args: Any) -> None:
            await method(*args)
            raise OSError("odd")

        return fails

    ended: list[bool] = []

    async def shutdown(self: Supervisor, *, leave_running: bool, drain: bool) -> None:
        ended.append(leave_running)
        await real_shutdown(self, leave_running=leave_running, drain=drain)

    real_shutdown = Supervisor.shutdown
    monkeypatch.setattr(Supervisor, "shutdown", shutdown)
    monkeypatch.setattr(Gateway, "stop", failing(Gateway.stop))
    monkeypatch.setattr(ProcessRuntime, "close", failing(ProcessRuntime.close))
    async with serving(tmp_path, monkeypatch) as (url, task):
        await metrics_with(url, "syshax")
    with pytest.raises(SyshaxError, match="not stop cleanly, see its log: odd"):
        await task
    assert ended == [False]
    for what in ("endpoint", "runtimes"):
        assert f"{what}: error while stopping" in caplog.text


async def test_an_error_while_closing_does_not_hide_why_it_could_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*args: object, **kwargs: object) -> None:
        raise OSError("odd")

    async def refuses(*args: object, **kwargs: object) -> None:
        raise SyshaxError("the port is taken")

    monkeypatch.setattr(Gateway, "start", refuses)
    monkeypatch.setattr(ProcessRuntime, "close", fails)
    async with serving(tmp_path, monkeypatch) as (_, task):
        with pytest.raises(SyshaxError, match="the port is taken"):
            await task


# Who may use it.


async def test_a_daemon_that_other_hosts_could_use_without_a_key_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, monkeypatch, {"services.conductor.host": "0.0.0.0"}) as (_, task):
        with pytest.raises(SyshaxError, match=r"services\.conductor\.host: at 0\.0\.0\.0, other hosts could use"):
            await task


async def test_a_daemon_with_keys_and_tls_serves_those_who_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = trustme.CA()
    cert = ca.issue_cert("localhost")
    await asyncio.to_thread(cert.private_key_pem.write_to_path, str(tmp_path / "key.pem"))
    await asyncio.to_thread(cert.cert_chain_pems[0].write_to_path, str(tmp_path / "cert.pem"))
    keys = await asyncio.to_thread(ApiKeys, tmp_path / "syshax" / "api_keys")
    secret = (await asyncio.to_thread(keys.create, "alice", access="admin")).secret
    changes = {
        "services.conductor.host": "0.0.0.0",
        "gateway.tls.cert": str(tmp_path / "cert.pem"),
        "gateway.tls.key": str(tmp_path / "key.pem"),
    }
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with serving(tmp_path, monkeypatch, changes) as (plain, task), aiohttp.ClientSession() as session:
        url = plain.replace("http://127.0.0.1", "https://localhost")
        while True:
            assert not task.done()
            try:
                async with session.get(f"{url}/live", ssl=trusting) as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
        for headers, status in (({}, 401), ({"Authorization": f"Bearer {secret}"}, 200)):
            async with session.get(f"{url}/metrics", headers=headers, ssl=trusting) as answer:
                assert answer.status == status
                text = await answer.text()
        assert 'syshax_tls_certificate_expiry_timestamp_seconds{file="cert"}' in text
        assert secret not in text
