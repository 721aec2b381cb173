# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What reads endless streams of the container engine: its events, and a container's output."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from docker.errors import DockerException
from docker.types import CancellableStream

from syshaxd.core.errors import SyshaxError
from syshaxd.runtime.docker.api import ContainerApi
from syshaxd.runtime.logfile import open_private

_log = logging.getLogger(__name__)
_JOIN_TIMEOUT_S = 5.0
# What a stream raises when the engine goes away.
_AWAY = (requests.RequestException, DockerException, OSError, SyshaxError)


class _Stream:
    """A stream that one thread reads, and another may cut."""

    def __init__(self) -> None:
        self.is_cut = False
        self._stream: CancellableStream[Any] | None = None

    def hold(self, stream: "CancellableStream[Any]") -> "CancellableStream[Any]":
        """Returns the stream, which is to be read now."""
        self._stream = stream
        if self.is_cut:
            stream.close()
        return stream

    def cut(self) -> None:
        """Ends the reading."""
        self.is_cut = True
        if self._stream is not None:
            with suppress(Exception):
                self._stream.close()

    def let_go(self) -> None:
        """What has been read to its end, or cut, still holds its socket; the SDK has no public way to close it."""
        if self._stream is not None:
            with suppress(Exception):
                self._stream._response.close()  # type: ignore[attr-defined]


class EventReader:
    """Tells of containers that ended, and of the engine's coming and going. Callbacks come in the caller's thread."""

    def __init__(self, api: ContainerApi, *, ended: Callable[[str], None], connected: Callable[[], None]) -> None:
        """Does no I/O yet.

        Args:
            api: The engine.
            ended: Called with the id of a container that has ended.
            connected: Called when events come from now on; what happened before may have been missed.
        """
        self._stream = _Stream()
        self._api = api
        self._ended = ended
        self._connected = connected

    def read(self) -> str:
        """Reads events until the connection ends, and returns why it did. Blocking.

        Raises:
            Exception: An event that makes no sense, say: a fault of the engine's, or of ours.
        """
        reason = f"the connection to {self._api.host} ended"
        try:
            stream = self._stream.hold(self._api.events())
            self._connected()
            for event in stream:
                self._ended(event["id"])
        except SyshaxError as error:
            return str(error)
        except Exception as error:
            if not self._stream.is_cut and not isinstance(error, _AWAY):
                raise
            return f"{reason}: {error}"
        finally:
            self._stream.let_go()
        return reason

    def stop(self) -> None:
        """Ends the reading. Blocking."""
        self._stream.cut()


class OutputReader:
    """A thread that appends a container's output to a file."""

    def __init__(self, api: ContainerApi, ident: str, path: Path, *, since_s: float | None) -> None:
        """Does no I/O yet.

        Args:
            api: The engine.
            ident: The container.
            path: The file.
            since_s: Unix time from which on; None: the beginning.
        """
        self._stream = _Stream()
        self._thread = threading.Thread(target=self._run, name=f"output of {ident[:12]}", daemon=True)
        self._api = api
        self._ident = ident
        self._path = path
        self._since_s = since_s
        self.read_until_s = since_s or time.time()
        """Unix time of the last piece."""

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether it still reads."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ends the reading, and returns when it has ended. Blocking."""
        self._stream.cut()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_TIMEOUT_S)

    def drain(self, timeout_s: float) -> None:
        """Returns when the stream has ended by itself, or after the time. Blocking."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0) as file:
                for piece in self._stream.hold(self._api.output(self._ident, since_s=self._since_s)):
                    os.write(file.fileno(), piece)
                    self.read_until_s = time.time()
        except Exception as error:  # noqa: BLE001 - it is tried again while the container runs
            if not self._stream.is_cut:
                foreseen = isinstance(error, _AWAY)
                level, trace = (logging.DEBUG, None) if foreseen else (logging.ERROR, error)
                _log.log(level, "output of container %s: %s", self._ident[:12], error, exc_info=trace)
        finally:
            self._stream.let_go()
