# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is done to an instance: each action runs as a task, and tells its outcome as an event of the lifecycle.

An exception that was not expected is that instance's fault alone.
"""

import logging
from collections.abc import Callable

from syshaxd.core.errors import ConflictError, LaunchFailedError, SyshaxError
from syshaxd.core.lifecycle import Event, Exited, Launched, LaunchFailed, Terminate, TerminateFailed, WatchFailed
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec, State
from syshaxd.instances.instance import Instance
from syshaxd.runtime import InstanceRuntime
from syshaxd.system.descriptors import is_own_shortage

_log = logging.getLogger(__name__)
# For a server that was never ready: vLLM doesn't hear SIGTERM while its engine starts (seen for 40 s with 0.32).
_UNSERVED_GRACE_S = 1.0

Post = Callable[[Event], None]
"""Hands an event of the instance to the supervisor."""


async def check_launch(spec: InstanceSpec, runtime: InstanceRuntime, *, needs_port: bool) -> None:
    """Looks whether a launch would surely fail; see InstanceRuntime.check.

    Raises:
        ConflictError: It would.
    """
    try:
        await runtime.check(spec, needs_port=needs_port)
    except (SyshaxError, OSError) as error:
        raise ConflictError(f"{spec.name} keeps running: it could not be started again: {text_of(error)}") from error


async def launch(instance: Instance, generation: int, post: Post) -> None:
    """Launches a generation once the one before is gone, and waits for its end."""
    if instance.terminating is not None:
        await instance.terminating  # the last generation is gone, but its runtime may still tidy up
    if instance.lifecycle.state is not State.STARTING:
        post(LaunchFailed(generation, "no longer wanted", permanent=False))
        return
    try:
        handle = await instance.runtime.launch(instance.spec, generation)
    except (SyshaxError, OSError) as error:
        permanent = isinstance(error, LaunchFailedError) and error.permanent
        post(LaunchFailed(generation, text_of(error), permanent))
        return
    except Exception as error:  # noqa: BLE001 - it is this instance's fault alone
        _note_fault(instance, "launched")
        post(LaunchFailed(generation, _unexpected(error), permanent=not is_own_shortage(error)))
        return
    post(Launched(handle))
    await await_exit(instance, handle, post)


async def await_exit(instance: Instance, handle: Handle, post: Post) -> None:
    """Waits for the end of a generation that runs."""
    try:
        status = await instance.runtime.wait(handle)
    except (SyshaxError, OSError) as error:
        status = ExitStatus(cause=f"it can no longer be watched: {text_of(error)}")
    except Exception as error:  # noqa: BLE001 - it is this instance's fault alone
        _note_fault(instance, "watched")
        name, why = instance.spec.name, _unexpected(error)
        reason = f"it cannot be watched any more, and may still run: {why}; `syshaxctl restart {name}` replaces it"
        post(WatchFailed(handle.generation, reason))
        return
    post(Exited(handle.generation, status))


async def terminate(instance: Instance, effect: Terminate, stop_grace_s: float, post: Post) -> None:
    """Ends a generation."""
    grace_s = stop_grace_s if effect.served else min(stop_grace_s, _UNSERVED_GRACE_S)
    try:
        await instance.runtime.terminate(effect.handle, grace_s)
    except (SyshaxError, OSError) as error:
        post(TerminateFailed(effect.handle.generation, text_of(error)))
    except Exception as error:  # noqa: BLE001 - it is this instance's fault alone
        _note_fault(instance, "ended")
        post(TerminateFailed(effect.handle.generation, _unexpected(error)))


def _note_fault(instance: Instance, what: str) -> None:
    """Logs the current exception: an internal error, or one of a library."""
    name = instance.spec.name
    _log.exception("%s: could not be %s: unexpected error", name, what, extra={"instance": name})


def text_of(error: Exception) -> str:
    """What to tell of an error that was expected."""
    return str(error) or type(error).__name__


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
