# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import time

import pytest

from syshaxd.system.looplag import LATE_S, LoopLag


async def test_a_loop_that_stood_still_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    lags: list[float] = []
    lag = LoopLag(lags.append)
    begin_s = asyncio.get_running_loop().time()
    time.sleep(LATE_S + 0.4)  # noqa: ASYNC251 - the loop stands still: that is what is tried
    assert lag.was_late_since(begin_s)  # whoever asks first, before the loop has looked
    while not lags:
        await asyncio.sleep(0.01)
    assert lag.was_late_since(begin_s)
    assert max(lags) >= LATE_S
    assert any("event loop was blocked" in message for message in caplog.messages)
    assert not lag.was_late_since(asyncio.get_running_loop().time() + 1.0)
    lag.close()
