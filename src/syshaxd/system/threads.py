# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs calls that may block forever in separate threads."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")


def in_thread(function: Callable[[], _Result]) -> asyncio.Future[_Result]:
    """Returns the future result of `function`, called in a thread of its own.

    The thread is a daemon: a driver call that never returns holds up no exit, as it would in asyncio.to_thread's pool.
    """
    outcome: concurrent.futures.Future[_Result] = concurrent.futures.Future()
    outcome.set_running_or_notify_cancel()

    def work() -> None:
        try:
            outcome.set_result(function())
        except Exception as error:  # noqa: BLE001  raised where the result is awaited
            outcome.set_exception(error)

    threading.Thread(target=work, name="reader", daemon=True).start()
    return asyncio.wrap_future(outcome)
