# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the supervisor holds of one instance."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from syshaxd.core.errors import SyshaxError
from syshaxd.core.lifecycle import HOLDING, Adopted, Lifecycle, RestartPolicy
from syshaxd.core.secrets import safe_text, secret_values
from syshaxd.core.types import InstanceSpec, InstanceStatus, State
from syshaxd.instances.clock import Cancellable, Clock
from syshaxd.instances.prober import Prober
from syshaxd.runtime import InstanceRuntime

_log = logging.getLogger(__name__)
_LOG_LEVELS = {State.UNHEALTHY: logging.WARNING, State.BACKOFF: logging.WARNING, State.FAILED: logging.ERROR}


@dataclass(slots=True, eq=False)
class Instance:
    """One instance: where it stands, what is known of it outside, and what acts on it."""

    status: InstanceStatus
    runtime: InstanceRuntime
    policy: RestartPolicy
    lifecycle: Lifecycle
    prober: Prober
    timer: Cancellable | None = None
    terminating: asyncio.Task[None] | None = None

    @property
    def spec(self) -> InstanceSpec:
        """What it is."""
        return self.status.spec

    def cancel_timer(self) -> None:
        """Ends the timer, if one runs."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def update_status(self, now_s: float) -> bool:
        """Takes the lifecycle over into the status, and logs a new state. Returns whether anything is new."""
        old, now = self.status, self.lifecycle
        self.status = replace(
            old,
            state=now.state,
            wanted=now.wanted,
            reason=safe_text(now.reason, secret_values(self.spec.argv, self.spec.env)),
            generation=now.generation,
            attempts=now.attempts,
            since_s=old.since_s if now.state is old.state else now_s,
            handle=now.handle,
        )
        if now.state is not old.state:
            name, level = self.spec.name, _LOG_LEVELS.get(now.state, logging.INFO)
            text = f"{name}: {old.state} -> {now.state} ({self.status.since_s - old.since_s:.1f} s)"
            _log.log(level, "%s", f"{text}: {self.status.reason}" if now.reason else text, extra={"instance": name})
        return self.status != old

    async def is_at_work(self, computes: Callable[[int], Awaitable[bool]]) -> bool:
        """Whether it, which was ready, computes; `computes` tells that of a process, by its PID."""
        if self.lifecycle.state not in HOLDING or self.lifecycle.handle is None:
            return False
        try:
            pid = await self.runtime.pid(self.lifecycle.handle)
            return pid is not None and await computes(pid)
        except Exception:  # noqa: BLE001 - what can't be seen is not at work
            _log.exception("%s: cannot tell whether it is at work", self.spec.name, extra={"instance": self.spec.name})
            return False

    async def find(self, clock: Clock) -> Adopted | None:
        """What an earlier daemon left running of it; None: nothing."""
        extra = {"instance": self.spec.name}
        try:
            handle = await self.runtime.adopt(self.spec)
        except (SyshaxError, OSError) as error:
            _log.warning("%s: cannot tell whether it runs already: %s", self.spec.name, error, extra=extra)
            return None
        except Exception:  # noqa: BLE001 - a fault of ours with one instance must not end the others
            _log.exception("%s: cannot tell whether it runs already", self.spec.name, extra=extra)
            return None
        if handle is None:
            return None
        fault = await self.prober.ask()
        text = "%s: found running as generation %d (%s)"
        _log.info(text, handle.name, handle.generation, handle.ident, extra=extra)
        return Adopted(handle, healthy=fault is None, age_s=clock.time() - handle.started_at_s)
