# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What must hold when a fixture ends: nothing is in flight, queued or reserved any more."""

import asyncio
from contextlib import suppress

from syshaxd.serving.engine import Engine

_LIMIT_S = 5.0


async def assert_quiet(engine: Engine) -> None:
    """Lets cancelled tasks end, then finds fault with what a request has left behind."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_S):
            while engine.unreleased():
                await asyncio.sleep(0.002)
    assert not engine.unreleased()
