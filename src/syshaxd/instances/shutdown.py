# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Ends the supervision: stops all instances in time, dependants first, or leaves them running."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Protocol

from syshaxd.core.types import InstanceStatus, State

_log = logging.getLogger(__name__)
# Beyond draining and grace: for what a runtime does besides waiting.
_MARGIN_S = 10.0


class Commands(Protocol):
    """What is asked of the supervisor."""

    def status(self, name: str) -> InstanceStatus:
        """See Supervisor."""

    def stop(self, name: str, *, drain: bool) -> None:
        """See Supervisor."""

    async def wait_until(
        self, name: str, predicate: Callable[[InstanceStatus], bool], timeout_s: float
    ) -> InstanceStatus:
        """See Supervisor."""


async def end_all(
    supervisor: Commands, levels: Sequence[Iterable[str]], *, drain_timeout_s: float, stop_grace_s: float
) -> None:
    """Stops the levels from the last to the first; what has not ended in time is told in the log.

    Args:
        supervisor: It stops the instances.
        levels: Names; none depends on one of a later level.
        drain_timeout_s: In which running requests may end, in all; 0: they are cut off.
        stop_grace_s: In which a server may end by itself.
    """
    drain_until = asyncio.get_running_loop().time() + drain_timeout_s
    deadline = drain_until + stop_grace_s + _MARGIN_S
    for level in reversed(levels):
        if drain_timeout_s:
            _stop_all(supervisor, level, drain=True)
            await _settled(supervisor, level, {State.STOPPED}, drain_until)
        _stop_all(supervisor, level, drain=False)
        if not await _settled(supervisor, level, {State.STOPPED}, deadline):
            left = [status for status in map(supervisor.status, level) if status.state is not State.STOPPED]
            for status in left:
                _log.error("%s: did not stop in time: %s: %s", status.spec.name, status.state, status.reason)


async def settle(supervisor: Commands, names: Iterable[str], *, stop_grace_s: float) -> None:
    """Waits until what is being ended already has ended."""
    deadline = asyncio.get_running_loop().time() + stop_grace_s + _MARGIN_S
    await _settled(supervisor, names, set(State) - {State.DRAINING, State.STOPPING}, deadline)


def _stop_all(supervisor: Commands, names: Iterable[str], *, drain: bool) -> None:
    for name in names:
        supervisor.stop(name, drain=drain)


async def _settled(supervisor: Commands, names: Iterable[str], states: Set[State], deadline: float) -> bool:
    """Whether all these instances get into one of the states in time, with all commands so far taken up."""
    time = asyncio.get_running_loop().time
    try:
        for name in names:
            await supervisor.wait_until(name, lambda status: status.state in states, deadline - time())
    except TimeoutError:
        return False
    return True
