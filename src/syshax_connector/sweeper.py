# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Calls a function periodically in a separate thread, to remove what was abandoned."""

import logging
import threading
from collections.abc import Callable

_logger = logging.getLogger(f"vllm.{__name__}")


class Sweeper:
    """A thread that ends with the process, or when it is stopped."""

    def __init__(self, name: str, period_s: float, sweep: Callable[[], None]) -> None:
        """Starts it.

        Args:
            name: Of the thread.
            period_s: Between two sweeps.
            sweep: What to do. What it raises is logged once per kind, and it is called again.
        """
        self._stopped = False
        self._wake = threading.Event()
        self._period_s = period_s
        self._sweep = sweep
        self._said: set[str] = set()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; waits for a sweep that is under way."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def hurry(self) -> None:
        """Sweeps now."""
        self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._stopped:
                return
            try:
                self._sweep()
                self._said.clear()
            except Exception as error:  # noqa: BLE001 - a failed sweep must not end the sweeping
                if (what := repr(error)) not in self._said:
                    self._said.add(what)
                    _logger.warning("%s: %s; trying again every %g s", self._thread.name, error, self._period_s)
            self._wake.wait(self._period_s)
