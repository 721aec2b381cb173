# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Waits for states of other processes, which send no event."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.05


def until(state: Callable[[], T], limit_s: float, what: str | Callable[[], str]) -> T:
    """Asks again until the state is true; returns what is true of it."""
    deadline_s = time.monotonic() + limit_s
    while not (value := state()):
        _check(deadline_s, limit_s, what)
        time.sleep(_PAUSE_S)
    return value


async def until_async(state: Callable[[], Awaitable[T]], limit_s: float, what: str | Callable[[], str]) -> T:
    """As `until`, without blocking the event loop."""
    deadline_s = time.monotonic() + limit_s
    while not (value := await state()):
        _check(deadline_s, limit_s, what)
        await asyncio.sleep(_PAUSE_S)
    return value


def _check(deadline_s: float, limit_s: float, what: str | Callable[[], str]) -> None:
    if time.monotonic() > deadline_s:
        raise AssertionError(f"not within {limit_s:g} s: {what if isinstance(what, str) else what()}")
