# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs commands that need the daemon: connects to it and turns its errors into messages and exit codes."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import click

from syshaxd.client import ControlClient, SlowError, UnreachableError
from syshaxd.core.errors import SyshaxError
from syshaxd.system import rundir

_INTERRUPTED = 130

Work = Callable[[ControlClient], Coroutine[Any, Any, None]]


class _UnreachableException(click.ClickException):
    exit_code = 3


def run(socket: Path | None, work: Work) -> None:
    """Runs the work with a connected client; every error becomes a message and an exit code."""
    path = rundir.find_socket(socket)

    async def with_client() -> None:
        if threading.current_thread() is threading.main_thread():
            # asyncio.run's handler misses a signal that arrives just before the loop sleeps; the loop's own handler
            # wakes it.
            task = cast("asyncio.Task[None]", asyncio.current_task())
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        async with ControlClient(path) as client:
            await work(client)

    try:
        asyncio.run(with_client())
    except UnreachableError as error:
        advice = "" if isinstance(error, SlowError) else _advice(path)
        raise _UnreachableException(f"{error}{advice}") from None
    except SyshaxError as error:
        raise click.ClickException(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.exceptions.Exit(_INTERRUPTED) from None


def _advice(path: Path) -> str:
    if rundir.forbidden(path):
        return (
            "\nThis user may not use the socket: try `sudo syshaxctl`, use the account that runs the daemon, or join "
            "the socket's group (`sudo usermod -aG syshax USER`, then log in again)."
        )
    return (
        "\nStart it: `systemctl start syshaxd` as a service, `syshax run` by hand, `make run` in a source tree."
        "\nIf it uses another socket, name it with --socket."
    )
