# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether an instance that does not answer is computing, by the CPU time of its processes."""

import asyncio
from functools import partial

from syshaxd.core.errors import SyshaxError
from syshaxd.system import host
from syshaxd.system.threads import in_thread

_LOOK_S = 1.0
# Of one CPU. An idle server uses a few hundredths for its timers.
_LEAST_RATIO = 0.2


async def is_at_work(pid: int) -> bool:
    """Watches a process and all that descend from it for a second; what can't be seen is not at work."""
    clock = asyncio.get_running_loop()
    try:
        began_s, before_s = clock.time(), await in_thread(partial(host.cpu_time_s, pid))
        await asyncio.sleep(_LOOK_S)
        used_s = await in_thread(partial(host.cpu_time_s, pid)) - before_s
    except (SyshaxError, OSError, ValueError):
        return False
    return used_s >= _LEAST_RATIO * (clock.time() - began_s)
