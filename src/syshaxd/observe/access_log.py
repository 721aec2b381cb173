# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The access log: one line of JSON for each request of a client, written beside the event loop."""

import asyncio
import json
import logging
import os
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from syshaxd.core.placement.records import RequestRecord
from syshaxd.core.secrets import safe_text

_log = logging.getLogger(__name__)
STDERR = "stderr"
_FLUSH_INTERVAL_S = 0.5
_MAX_WAITING = 100_000
_MODE = 0o640


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A client and its request."""

    client: str
    """The client's address."""
    method: str
    path: str
    """Without the query, which may hold anything."""
    model: str = ""
    key: str = ""
    """The name of the API key."""


class AccessLog:
    """Collects lines and writes them every half second. Lives in one event loop.

    A file that was moved away is created again, so it can be rotated without a signal. Lines that the disk does not
    take in time are dropped and counted.
    """

    def __init__(self, target: str) -> None:
        """`target`: a file's path, or `stderr`."""
        self._target = target
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._fault = ""

    def request(self, caller: Caller, record: RequestRecord) -> None:
        """Adds a request that has ended."""
        ttft_s = None if record.ttft_s is None else round(record.ttft_s, 6)
        self._add(
            caller,
            record.request_id,
            record.status,
            outcome=record.outcome,
            placement=record.placement,
            stream=record.stream,
            queue_s=round(record.queue_s, 6),
            ttft_s=ttft_s,
            duration_s=round(record.duration_s, 6),
            prompt_tokens=record.tokens_in,
            generation_tokens=record.tokens_out,
            retries=record.retries,
            handovers=[str(handover.cause) for handover in record.handovers],
        )

    def refused(self, caller: Caller, request_id: str, status: int) -> None:
        """Adds a request that was refused before anything was read of it."""
        self._add(caller, request_id, status)

    def _add(self, caller: Caller, request_id: str, status: int, **more: Any) -> None:
        if len(self._lines) >= _MAX_WAITING:
            self._dropped += 1
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": safe_text(request_id),
            "client": caller.client,
            "key": caller.key,
            "method": caller.method,
            "path": safe_text(caller.path),
            "model": safe_text(caller.model),
            "status": status,
            **more,
        }
        self._lines.append(json.dumps(line))

    async def run(self) -> None:
        """Writes for ever; what is left when it is cancelled is written at once."""
        try:
            while True:
                await asyncio.sleep(_FLUSH_INTERVAL_S)
                if self._lines:
                    await asyncio.to_thread(self._write, self._take())
        finally:
            await asyncio.to_thread(self._write, self._take())

    def _take(self) -> Sequence[str]:
        lines, self._lines = self._lines, deque()
        return lines

    def _write(self, lines: Sequence[str]) -> None:
        if not lines:
            return
        data = "".join(f"{line}\n" for line in lines)
        try:
            if self._target == STDERR:
                sys.stderr.write(data)
                sys.stderr.flush()
            else:
                _append(self._target, data.encode())
        except (OSError, ValueError) as error:
            self._dropped += len(lines)
            self._say(f"gateway.access_log: {self._target} cannot be written: {error}")
            return
        dropped, self._dropped = self._dropped, 0
        if dropped:
            _log.warning("gateway.access_log: %d requests are missing in %s", dropped, self._target)
        self._fault = ""

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            _log.warning("%s", fault)


def _append(path: str, data: bytes) -> None:
    # A pipe that nobody reads must not keep the daemon from ending.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, _MODE)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        with suppress(OSError):
            os.close(fd)
