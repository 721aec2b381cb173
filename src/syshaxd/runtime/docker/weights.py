# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes quantised weights in a container of the instance's own image, which is removed afterwards."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

from syshaxd.core.types import InstanceSpec
from syshaxd.runtime.docker.api import ContainerApi
from syshaxd.runtime.docker.options import Program
from syshaxd.runtime.quantiser import failure
from syshaxd.system.importable import QUANTISER, package_folder

_SITE = "/opt/syshax-quantize"
_LAST_BYTES = 2000
_STDOUT = 1


class ContainerWorker:
    """A Worker."""

    def __init__(self, api: ContainerApi, spec: InstanceSpec, note: Callable[[str], None]) -> None:
        """Does no I/O yet.

        Args:
            api: The container engine.
            spec: The instance.
            note: Is called in the thread of `run` with what it waits for.
        """
        self._api = api
        self._spec = spec
        self._note = note
        self._killed = threading.Event()
        self._ident = ""

    def run(self, folder: Path, order: bytes, on_line: Callable[[bytes], None]) -> str:
        """See Worker. A missing image is fetched first."""
        rest, errors = b"", b""

        def hear(stream: int, data: bytes) -> None:
            nonlocal rest, errors
            if stream != _STDOUT:
                errors = (errors + data)[-_LAST_BYTES:]
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                on_line(line)

        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._api.fetch(self._spec, self._note, lambda: not self._killed.is_set())
        if self._killed.is_set():
            return "no longer wanted"
        code = self._api.run(self._spec, self._program(folder), order, on_start=self._started, on_output=hear)
        self._ident = ""  # it is gone: nothing is left to kill
        return failure(code, errors.decode(errors="replace").strip()) if code else ""

    def _program(self, folder: Path) -> Program:
        assert self._spec.weights is not None
        source = self._spec.weights.source
        return Program(
            argv=("python3", "-s", "-m", QUANTISER, os.fspath(folder)),
            env={"PYTHONPATH": _SITE, "PYTHONDONTWRITEBYTECODE": "1"},
            volumes=(
                f"{source}:{source}:ro",
                f"{folder.parent}:{folder.parent}",
                f"{package_folder(QUANTISER)}:{_SITE}/{QUANTISER}:ro",
            ),
        )

    def _started(self, ident: str) -> None:
        self._ident = ident
        if self._killed.is_set():
            self.kill()

    def kill(self) -> None:
        """See Worker."""
        self._killed.set()
        if self._ident:
            self._api.send(self._ident, "SIGKILL")
