# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Notices that the process which started this one is gone."""

import os
import sys
import threading
from collections.abc import Callable


def when_orphaned(end: Callable[[], object]) -> None:
    """Has `end` called, in a thread of its own, once the standard input is closed. Call it after reading the order."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        end()

    threading.Thread(target=wait, daemon=True).start()
