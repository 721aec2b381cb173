# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What must hold when a fixture ends: nothing is in flight, queued or reserved any more."""

import asyncio
from contextlib import suppress

from syshaxd.engine import Engine

_LIMIT_S = 5.0


async def assert_quiet(engine: Engine) -> None:
    """Lets cancelled tasks end, then finds fault with what a request has left behind."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            while _left(engine):
                await asyncio.sleep(0.002)
    assert not _left(engine), _left(engine)


def _left(engine: Engine) -> str:
    status = engine.status()
    slots = {name: count for name, count in status.inflight.items() if count}
    running = [running.request.request_id for running in engine.requests.running]
    return f"slots {slots}, queued {status.queued}, requests {running}" if slots or status.queued or running else ""
