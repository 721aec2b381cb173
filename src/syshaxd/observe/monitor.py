# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""SystemMonitor: reads instances, GPUs and the host at intervals, and keeps the latest Snapshot in memory."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.loads import NO_LOAD, HostLoad, Snapshot
from syshaxd.core.types import InstanceSpec
from syshaxd.core.wire import vllm_metrics
from syshaxd.observe.devices import HostReader
from syshaxd.system.connecting import client_session, read_whole, why_no_answer
from syshaxd.system.gpus import GpuReader, GpuReading
from syshaxd.system.threads import in_thread

_log = logging.getLogger(__name__)
# A reading counts for at least this long, and for three intervals.
_LEAST_MAX_AGE_S = 10.0


class SystemMonitor:
    """Keeps the latest readings of everything.

    Sources are read independently: a slow or dead one delays no other, and keeps its last good values.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[InstanceSpec]],
        *,
        interval_s: float,
        timeout_s: float,
        read_host: Callable[[], HostLoad] | None = None,
        read_gpus: Callable[[], GpuReading] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Does not read anything yet.

        Args:
            targets: The instances to read; asked at every interval.
            interval_s: Seconds between two readings of a source.
            timeout_s: Seconds after which a reading counts as failed.
            read_host: Reads the host; may block. Default: through psutil.
            read_gpus: Reads the GPUs; may block, and never return. Default: through NVML.
            now: Monotonic clock, in seconds.
        """
        self._targets = targets
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._read_host = read_host or HostReader().read
        self._read_gpus = read_gpus or GpuReader().read
        self._now = now
        self._snapshot = Snapshot(max_age_s=max(_LEAST_MAX_AGE_S, 3 * interval_s + timeout_s))
        self._specs: dict[str, InstanceSpec] = {}
        self._readings: dict[str, vllm_metrics.MetricsReading] = {}
        self._host_error = ""
        self._subscribers: list[Callable[[Snapshot], None]] = []
        self._said: dict[str, str] = {}

    def latest(self) -> Snapshot:
        """Returns the latest readings, from memory."""
        return self._snapshot

    def subscribe(self, on_snapshot: Callable[[Snapshot], None]) -> None:
        """Has `on_snapshot` called with every new snapshot: one for each source that was read."""
        self._subscribers.append(on_snapshot)

    async def run(self) -> None:
        """Reads everything periodically, until cancelled."""
        running: dict[str, asyncio.Task[None]] = {}
        async with client_session() as session, asyncio.TaskGroup() as group:
            while True:
                for source, read in self._sources(session).items():
                    if source not in running or running[source].done():
                        running[source] = group.create_task(self._try_to_read(source, read))
                await asyncio.sleep(self._interval_s)

    async def _try_to_read(self, source: str, read: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """An unexpected error of one source does not stop the others."""
        try:
            await read()
        except Exception as error:  # noqa: BLE001 - see above
            self._say(source, error)

    def _say(self, source: str, error: Exception) -> None:
        """Logs an internal error with its traceback, once until it changes."""
        text = f"{type(error).__name__}: {error}"
        if self._said.get(source) != text:
            self._said[source] = text
            _log.error("%s: internal error: %s", source, text, exc_info=error)

    def _sources(self, session: aiohttp.ClientSession) -> dict[str, Callable[[], Coroutine[Any, Any, None]]]:
        before, self._specs = self._specs, {spec.name: spec for spec in self._targets()}
        specs = self._specs
        if gone := {name for name in self._snapshot.instances if specs.get(name) != before.get(name)}:
            for name in gone:
                self._readings.pop(name, None)
            self._publish(instances={k: load for k, load in self._snapshot.instances.items() if k not in gone})
        return {
            "host": self._update_host,
            "GPUs": self._update_gpus,
            **{f"instance {name}": partial(self._update_instance, session, spec) for name, spec in specs.items()},
        }

    async def _update_instance(self, session: aiohttp.ClientSession, spec: InstanceSpec) -> None:
        before = self._snapshot.instances.get(spec.name)
        reading: vllm_metrics.MetricsReading | None = None
        try:
            text = await _get(session, spec, "/metrics", self._timeout_s)
            reading = vllm_metrics.read(text, model=spec.served_model, at_s=self._now())
        except Exception as error:  # noqa: BLE001 - whatever it is: this instance's load can't be read now
            load = replace(before or NO_LOAD, error=str(error) or type(error).__name__)
            if before is None or not before.error:
                _log.info("cannot read the load of %s: %s", spec.name, load.error)
            if not isinstance(error, SyshaxError | OSError):
                self._say(f"the load of {spec.name}", error)
        else:
            load = vllm_metrics.load(reading, self._readings.get(spec.name))
            if load.error:
                if before is None or before.error != load.error:
                    _log.info("cannot read all of the load of %s: %s", spec.name, load.error)
            elif before is not None and before.error:
                _log.info("the load of %s is readable again", spec.name)
        if spec in self._targets():  # else it is another one now, which is at another address, say
            if reading is not None:
                self._readings[spec.name] = reading
            self._publish(instances={**self._snapshot.instances, spec.name: load})

    async def _update_host(self) -> None:
        try:
            host = await in_thread(self._read_host)
        except Exception as error:  # noqa: BLE001 - the kernel's files and psutil's reading of them may be odd
            if str(error) != self._host_error:
                self._host_error = str(error)
                _log.warning("cannot read the host's load: %s", error)
            self._publish(host=None)
        else:
            self._host_error = ""
            self._publish(host=host)

    async def _update_gpus(self) -> None:
        reading = in_thread(self._read_gpus)
        try:
            await asyncio.wait((reading,), timeout=self._timeout_s)
            if not reading.done():
                error = f"NVML has not answered for {self._timeout_s:g} s"
                _log.warning("cannot read GPUs: %s", error)
                self._publish(gpu_error=error)
            result = await reading
        except Exception as error:  # noqa: BLE001 - the driver's library may be odd
            self._say("GPUs", error)
            result = GpuReading((), f"{type(error).__name__}: {error}")
        finally:
            reading.cancel()
        read_at_s = self._snapshot.gpus_read_at_s if result.error else self._now()
        self._publish(gpus=result.gpus, gpu_error=result.error, gpus_read_at_s=read_at_s)

    def _publish(self, **changes: Any) -> None:
        self._snapshot = replace(self._snapshot, taken_at_s=self._now(), **changes)
        for on_snapshot in self._subscribers:
            try:
                on_snapshot(self._snapshot)
            except Exception as error:  # noqa: BLE001 - who listens must not break what it listens to
                self._say("a subscriber of the monitor", error)


async def probe_health(session: aiohttp.ClientSession, spec: InstanceSpec, *, timeout_s: float | None = None) -> None:
    """Returns if the instance is healthy.

    Args:
        session: What to ask with.
        spec: Whom to ask.
        timeout_s: The longest wait; None: the caller has a limit of its own.

    Raises:
        InstanceFailedError: It could not be reached, or its GET /health did not answer 200.
        InstanceTimeoutError: It did not answer within `timeout_s` seconds.
    """
    await _get(session, spec, "/health", timeout_s)


async def _get(session: aiohttp.ClientSession, spec: InstanceSpec, path: str, timeout_s: float | None) -> str:
    url = spec.address.url(path)
    try:
        async with session.get(
            url,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            # Compression on one host costs the instance more than it saves.
            headers={"Accept-Encoding": "identity", **own_headers(spec)},
        ) as response:
            text = (await read_whole(response)).decode("utf-8", "replace")
    except TimeoutError:
        raise InstanceTimeoutError(f"GET {url}: no answer within {timeout_s:g} s") from None
    except (aiohttp.ClientError, ValueError) as error:  # a host that can't be one is a ValueError
        raise InstanceFailedError(f"GET {url}: {why_no_answer(error, spec.host)}") from error
    if response.status != 200:
        raise InstanceFailedError(f"GET {url}: status {response.status} {text[:200]}".rstrip())
    return text
