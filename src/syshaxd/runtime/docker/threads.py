# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The two kinds of thread that read endless streams of the container engine: its events, and a container's output."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from docker.errors import APIError, DockerException
from docker.types import CancellableStream

from syshaxd.core.errors import SyshaxError
from syshaxd.runtime.docker.api import ContainerApi
from syshaxd.runtime.logfile import open_private

_log = logging.getLogger(__name__)
_RETRY_S = 1.0
_JOIN_TIMEOUT_S = 5.0
# What a stream raises when the engine goes away, or when it is closed from another thread.
_BROKEN = (requests.RequestException, DockerException, APIError, OSError, ValueError, AttributeError)


class _Reader:
    """A thread that reads a stream which another one may close."""

    def __init__(self, name: str) -> None:
        self._stopping = threading.Event()
        self._stream: CancellableStream[Any] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it still reads."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the reading, and returns when it has ended. Blocking."""
        self._stopping.set()
        if self._stream is not None:
            with suppress(*_BROKEN):
                self._stream.close()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_TIMEOUT_S)

    def drain(self, timeout_s: float) -> None:
        """Returns when the stream has ended by itself, or after the time. Blocking."""
        self._thread.join(timeout_s)

    def _let_go(self) -> None:
        """What has been read to its end, or cut off, still holds its socket; the SDK has no public way to close it."""
        if self._stream is not None:
            with suppress(*_BROKEN):
                self._stream._response.close()  # type: ignore[attr-defined]

    def _open(self, stream: "CancellableStream[Any]") -> "CancellableStream[Any]":
        self._stream = stream
        if self._stopping.is_set():
            stream.close()
        return stream

    def _run(self) -> None:
        raise NotImplementedError


class EventReader(_Reader):
    """Tells of containers that ended, and of the engine's coming and going. Callbacks come in its thread."""

    def __init__(
        self,
        api: ContainerApi,
        *,
        ended: Callable[[str], None],
        connected: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        """Touches nothing yet.

        Args:
            api: The engine.
            ended: Called with the id of a container that has ended.
            connected: Called when events come from now on; what happened before may have been missed.
            lost: Called with the reason when there is no connection.
        """
        super().__init__("docker events")
        self._api = api
        self._ended = ended
        self._connected = connected
        self._lost = lost

    def _run(self) -> None:
        while not self._stopping.is_set():
            reason = f"the connection to {self._api.host} ended"
            try:
                stream = self._open(self._api.events())
                self._connected()
                for event in stream:
                    self._ended(event["id"])
            except SyshaxError as error:
                reason = str(error)
            except _BROKEN as error:
                reason = f"{reason}: {error}"
            finally:
                self._let_go()
            if not self._stopping.is_set():
                self._lost(reason)
                self._stopping.wait(_RETRY_S)


class OutputReader(_Reader):
    """Appends a container's output to a file."""

    def __init__(self, api: ContainerApi, ident: str, path: Path, *, since_s: float | None) -> None:
        """Touches nothing yet.

        Args:
            api: The engine.
            ident: The container.
            path: The file.
            since_s: Unix time from which on; None: the beginning.
        """
        super().__init__(f"output of {ident[:12]}")
        self._api = api
        self._ident = ident
        self._path = path
        self._since_s = since_s
        self.read_until_s = since_s or time.time()
        """Unix time of the last piece."""

    def _run(self) -> None:
        try:
            with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
                for piece in self._open(self._api.output(self._ident, since_s=self._since_s)):
                    os.write(file.fileno(), piece)
                    self.read_until_s = time.time()
        except (*_BROKEN, SyshaxError) as error:
            if not self._stopping.is_set():
                _log.debug("output of %s: %s", self._ident[:12], error)
        finally:
            self._let_go()
