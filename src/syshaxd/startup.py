# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the terminal shows at start: progress, the connectivity test, and the API's URL."""

import asyncio
import json
import logging
import shutil
import sys
import time
from contextlib import aclosing, suppress
from pathlib import Path

import aiohttp

from syshaxd.core.config import ModelParams
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.report.describe import device_text
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.serving.engine import Engine

_log = logging.getLogger(__name__)
_FIRST_REPORT_S = 5.0
_LONGEST_PAUSE_S = 30.0
_TEST_TIMEOUT_S = 120.0


async def watch_start(engine: Engine, model: str, params: ModelParams, *, dashboard: bool) -> str:
    """Reports progress until every wanted instance is ready or has failed, then tests each ready one with a chat.

    Returns:
        Text for the terminal: where the API is, who plays which role, and a line to try it.
    """
    for status in engine.status().instances:
        await _wanted(engine, status.spec.name)
    pause_s = _FIRST_REPORT_S
    while _pending(engine):
        try:
            async with asyncio.timeout(pause_s):
                while _pending(engine):
                    await engine.instances_changed()
        except TimeoutError:
            for status in _pending(engine):
                _log.info("%s", await progress(engine, status))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TEST_TIMEOUT_S)) as session:
        specs = {status.spec.name: status.spec for status in engine.status().instances}
        for name in engine.ready_instances():
            await _chat(session, engine.endpoint, specs[name], model, params)
    return _banner(engine, model, await asyncio.to_thread(_syshaxctl), dashboard=dashboard)


async def wait_for_adopted(engine: Engine, timeout_s: float) -> None:
    """Returns once it is known what an earlier daemon left running, and requests can go to what is ready of it.

    Args:
        engine: Its supervisor runs.
        timeout_s: The longest wait.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for status in engine.status().instances:
                await _wanted(engine, status.spec.name)
            while not _ready(engine).issubset(engine.ready_instances()):
                await engine.instances_changed()


def _ready(engine: Engine) -> set[str]:
    return {status.spec.name for status in engine.status().instances if status.state is State.READY}


def _pending(engine: Engine) -> list[InstanceStatus]:
    ready = engine.ready_instances()
    return [
        status
        for status in engine.status().instances
        if status.spec.name not in ready and status.wanted and status.state is not State.FAILED
    ]


async def _wanted(engine: Engine, name: str) -> None:
    """Returns once the instance is wanted, as those are that no operator has stopped once the supervisor runs."""
    async with aclosing(engine.watch_instance(name)) as statuses:
        async for status in statuses:
            if status.wanted or status.state is State.FAILED or engine.is_stopped(name):
                return


async def progress(engine: Engine, status: InstanceStatus) -> str:
    """Where the start of an instance stands: what its log says last, else why the supervisor thinks it is not ready.

    The log of an instance that somebody else starts is with them.
    """
    name, age_s = status.spec.name, time.time() - status.since_s
    said = status.reason
    if status.state is State.STARTING and status.spec.runtime is not RuntimeKind.EXTERNAL:
        async for line in engine.logs(name, tail=1, follow=False):
            said = "" if line.startswith("====") else line  # its own output has not begun
    return f"{name}: {status.state} for {age_s:.0f} s" + (f": {said.strip()[:110]}" if said else "")


async def _chat(
    session: aiohttp.ClientSession, endpoint: str, spec: InstanceSpec, model: str, params: ModelParams
) -> None:
    name = spec.name
    body = {
        "model": model,
        "messages": [{"role": "user", "content": params.test_prompt}],
        "max_tokens": params.test_tokens,
        "temperature": params.temperature,
    }
    started_s = time.monotonic()
    try:
        async with session.post(
            f"{endpoint}/v1/chat/completions", json=body, headers={"X-Syshax-Instance": name, **own_headers(spec)}
        ) as answer:
            said = json.loads(await answer.text())
        if not answer.ok:
            raise InstanceFailedError(f"{answer.status}: {said['error']['message']}")
        content = said["choices"][0]["message"]["content"]
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError, InstanceFailedError) as error:
        look = f"`syshaxctl logs {name}` may tell why"
        if spec.runtime is RuntimeKind.EXTERNAL:
            look = f"does {spec.address.url('/v1/models')} name {model} (models.default)?"
        _log.warning("connectivity test: %s failed: %s; %s", name, error, look, extra={"instance": name})
        return
    _log.info(
        "connectivity test: %s answered in %.1f s: %r",
        name,
        time.monotonic() - started_s,
        content,
        extra={"instance": name},
    )


def _banner(engine: Engine, model: str, syshaxctl: str, *, dashboard: bool) -> str:
    status = engine.status()
    endpoint = engine.endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    ready = engine.ready_instances()
    serves = f"sysHAX serves the model {model} at {endpoint}/v1"
    lines = ["", serves if ready else f"No instance is ready: {endpoint}/v1 answers 503 until one is"]
    for instance in status.instances:
        device = device_text(instance.spec, status.snapshot)
        lines.append(f"  {instance.spec.name:<4} {instance.state:<9} on {device}, port {instance.spec.port}")
        if instance.state is State.FAILED:
            lines.append(f"       {instance.reason}; see `syshaxctl logs {instance.spec.name}`")
    lines += ["", *(_example(endpoint, model) if ready else ())]
    lines += [f"Look inside: {syshaxctl} top{f', {endpoint}/dashboard' if dashboard else ''}      Stop: Ctrl-C", ""]
    return "\n".join(lines)


def _example(endpoint: str, model: str) -> list[str]:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "Write two sentences about Paris."}],
        "stream": True,
    }
    command = f"curl {endpoint}/v1/chat/completions -H \"Content-Type: application/json\" -d '{json.dumps(request)}'"
    return ["Try it:", f"  {command}"]


def _syshaxctl() -> str:
    """How a shell here finds the program: beside the interpreter, where the PATH need not lead."""
    beside = Path(sys.executable).with_name("syshaxctl")
    if shutil.which("syshaxctl") or not beside.exists():
        return "syshaxctl"
    with suppress(OSError, ValueError):  # it is not below this folder, or this folder has been removed
        beside = beside.relative_to(Path.cwd())
    return str(beside)
