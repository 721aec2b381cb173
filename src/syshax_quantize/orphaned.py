# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Notices that the process which started this one is gone."""

import os
import sys
import threading
from collections.abc import Callable

_ORPHANED = 3


def end_when_orphaned(clear: Callable[[], object] = lambda: None) -> None:
    """From here on this process ends once its standard input is closed. To be called after the order was read.

    `clear`: is called before, in another thread.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        clear()
        os._exit(_ORPHANED)

    threading.Thread(target=wait, daemon=True).start()
