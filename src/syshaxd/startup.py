# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the terminal shows at start: progress, the connectivity test, and the API's URL."""

import asyncio
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import aiohttp

from syshaxd.core import jsontext
from syshaxd.core.config import ModelParams
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.report.describe import device_text
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceSpec, InstanceStatus, RuntimeKind, State
from syshaxd.instances.registry import InstanceRegistry, RegisteredInstance
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.operations import InstanceOperations
from syshaxd.system.connecting import client_session

_log = logging.getLogger(__name__)
_FIRST_REPORT_S = 5.0
_LONGEST_PAUSE_S = 30.0
_TEST_TIMEOUT_S = 120.0
_CHAT = ("POST", "/v1/chat/completions")


async def watch_start(
    registry: InstanceRegistry,
    instances: InstanceOperations,
    params: ModelParams,
    *,
    key: str = "",
    is_testable: bool = True,
    dashboard: bool,
) -> str:
    """Reports progress until every wanted instance is ready or has failed, then tests each ready one that chats.

    Args:
        registry: The instances.
        instances: Their operations.
        params: The test's request.
        key: An API key for the test; empty: the endpoint needs none.
        is_testable: The endpoint serves clients without a certificate, as the test is.
        dashboard: There is one.

    Returns:
        Text for the terminal: where the API is, who plays which role, and a line to try it.
    """
    for name in registry.instances:
        await _wanted(registry, instances, name)
    pause_s = _FIRST_REPORT_S
    while _pending(registry):
        try:
            async with asyncio.timeout(pause_s):
                while _pending(registry):
                    await registry.changed()
        except TimeoutError:
            for status in _pending(registry):
                _log.info("%s", await progress(instances.supervisor, status))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    async with client_session(timeout=aiohttp.ClientTimeout(total=_TEST_TIMEOUT_S)) as session:
        if not is_testable:
            _log.info("connectivity test: skipped, as clients need a certificate (gateway.tls.client_ca)")
        chatting = [spec for spec in registry.ready if registry.instances[spec.name].catalog.serves_route(*_CHAT)]
        for spec in chatting if is_testable else ():
            headers = {"Authorization": f"Bearer {key}"} if key else own_headers(spec)
            await _chat(session, instances.endpoint, spec, params, headers=headers)
    models = tuple(dict.fromkeys(spec.served_model for spec in (*registry.ready, *registry.startable)))
    return _banner(
        instances.status(),
        models,
        chatting[0].served_model if chatting else "",
        await asyncio.to_thread(_syshaxctl),
        dashboard=dashboard,
        needs_key=bool(key),
    )


async def wait_for_adopted(registry: InstanceRegistry, instances: InstanceOperations, timeout_s: float) -> None:
    """Returns once it is known what an earlier daemon left running, and requests can go to what is ready of it.

    Args:
        registry: The instances.
        instances: Their supervisor runs.
        timeout_s: The longest wait.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            for name in registry.instances:
                await _wanted(registry, instances, name)
            while any(
                instance.status.state is State.READY and not instance.takes_requests
                for instance in registry.instances.values()
            ):
                await registry.changed()


def _is_undiscovered(instance: RegisteredInstance) -> bool:
    return instance.status.state is State.READY and not instance.takes_requests


def _pending(registry: InstanceRegistry) -> list[InstanceStatus]:
    return [
        instance.status
        for instance in registry.instances.values()
        if not instance.takes_requests and instance.status.wanted and instance.status.state is not State.FAILED
    ]


async def _wanted(registry: InstanceRegistry, instances: InstanceOperations, name: str) -> None:
    """Returns once the instance is wanted, as those are that no operator has stopped once the supervisor runs."""
    on_demand = {spec.name for spec in registry.startable}
    async with aclosing(instances.watch(name)) as statuses:
        async for status in statuses:
            waits = name in on_demand and status.reason  # it has one since the supervisor has looked for it
            if status.wanted or waits or status.state is State.FAILED or instances.is_stopped(name):
                return


async def progress(supervisor: Supervisor, status: InstanceStatus) -> str:
    """Where the start of an instance stands: what its log says last, else why the supervisor thinks it is not ready.

    The log of an external instance is not available here.
    """
    name, age_s = status.spec.name, time.time() - status.since_s
    said = status.reason
    if status.state is State.STARTING and status.spec.runtime is not RuntimeKind.EXTERNAL:
        async for line in supervisor.logs(name, tail=1, follow=False):
            said = "" if line.startswith("====") else line  # its own output has not begun
    return f"{name}: {status.state} for {age_s:.0f} s" + (f": {said.strip()[:110]}" if said else "")


async def _chat(
    session: aiohttp.ClientSession,
    endpoint: str,
    spec: InstanceSpec,
    params: ModelParams,
    *,
    headers: Mapping[str, str],
) -> None:
    name, model = spec.name, spec.served_model
    body = {
        "model": model,
        "messages": [{"role": "user", "content": params.test_prompt}],
        "max_tokens": params.test_tokens,
        "temperature": params.temperature,
    }
    started_s = time.monotonic()
    try:
        async with session.post(
            f"{endpoint}{_CHAT[1]}",
            json=body,
            headers={"X-Syshax-Instance": name, **headers},
            ssl=False,  # it is this process: its address need not be one that its certificate names
        ) as answer:
            said = jsontext.loads(await answer.text())
        if not answer.ok:
            raise InstanceFailedError(f"{answer.status}: {said['error']['message']}")
        content = said["choices"][0]["message"]["content"]
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError, InstanceFailedError) as error:
        look = f"`syshaxctl logs {name}` may say why"
        if spec.runtime is RuntimeKind.EXTERNAL:
            look = f"does {spec.address.url('/v1/models')} name {model}, as the configuration does?"
        _log.warning("connectivity test: %s failed: %s; %s", name, error, look, extra={"instance": name})
        return
    _log.info(
        "connectivity test: %s answered in %.1f s: %r",
        name,
        time.monotonic() - started_s,
        content,
        extra={"instance": name},
    )


def _banner(
    status: EngineStatus, models: Sequence[str], chats: str, syshaxctl: str, *, dashboard: bool, needs_key: bool
) -> str:
    endpoint = status.endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    serves = f"sysHAX serves the model{'s' if len(models) > 1 else ''} {', '.join(models)} at {endpoint}/v1"
    lines = ["", serves if models else f"No instance is ready: {endpoint}/v1 answers 503 until one is"]
    width = max((4, *(len(instance.spec.name) for instance in status.instances)))
    for instance in status.instances:
        device = device_text(instance.spec, status.snapshot)
        lines.append(f"  {instance.spec.name:<{width}} {instance.state:<9} on {device}, port {instance.spec.port}")
        if instance.state is State.FAILED:
            lines.append(f"       {instance.reason}; see `syshaxctl logs {instance.spec.name}`")
    lines += ["", *(_example(endpoint, chats, needs_key=needs_key) if chats else ())]
    lines += [f"Look inside: {syshaxctl} top{f', {endpoint}/dashboard' if dashboard else ''}      Stop: Ctrl-C", ""]
    return "\n".join(lines)


def _example(endpoint: str, model: str, *, needs_key: bool) -> list[str]:
    request = {
        "model": model,
        "messages": [{"role": "user", "content": "Write two sentences about Paris."}],
        "stream": True,
    }
    key = ' -H "Authorization: Bearer $OPENAI_API_KEY"' if needs_key else ""
    command = (
        f"curl {endpoint}/v1/chat/completions{key} -H \"Content-Type: application/json\" -d '{json.dumps(request)}'"
    )
    return ["Try it:", f"  {command}"]


def _syshaxctl() -> str:
    """How to call the program from a shell: by path if PATH does not contain the interpreter's folder."""
    beside = Path(sys.executable).with_name("syshaxctl")
    if shutil.which("syshaxctl") or not beside.exists():
        return "syshaxctl"
    with suppress(OSError, ValueError):  # it is not below this folder, or this folder has been removed
        beside = beside.relative_to(Path.cwd())
    return str(beside)
