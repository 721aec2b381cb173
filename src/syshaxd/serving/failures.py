# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Failures of instances under requests: what they tell of the instance, of the request, and whether to try again."""

import asyncio
from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError, SyshaxError
from syshaxd.core.placement.retries import HARMLESS_S, Suspects, Trials
from syshaxd.core.placement.retry_budget import RetryBudget
from syshaxd.core.types import InstanceStatus, State
from syshaxd.instances.breakers import Breakers
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.request import Request

_ASKED_TO_END = frozenset((State.DRAINING, State.STOPPING, State.STOPPED))
_TOO_FEW = "a request may have ended an instance, and only one is ready"


class Failures:
    """Counts the failures of each request. Lives in one event loop."""

    def __init__(
        self, registry: InstanceRegistry, supervisor: Supervisor, breakers: Breakers, budget: RetryBudget
    ) -> None:
        self._registry = registry
        self._supervisor = supervisor
        self._breakers = breakers
        self.budget = budget
        self._suspects = Suspects()
        self._trials = Trials()
        self._on_trial: dict[Request, asyncio.TimerHandle] = {}
        self._states: dict[str, State] = {}
        self._ending: set[str] = set()
        """Instances that have ended, though the supervisor does not know it yet."""
        self._given_up: set[str] = set()
        """Instances that are being ended as they no longer answer probes; a process that died is none of them."""
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        supervisor.subscribe(self._on_status)
        registry.subscribe(self._wake)

    def begin(self, request: Request) -> None:
        """A request has come.

        Raises:
            InstanceFailedError: Such a request may have ended an instance lately, and only one is ready.
        """
        self.budget.earn()
        if self._suspects.knows(request.path, request.body, self._loop.time()):
            request.tries.remember()
            if len(self._ready) < 2 <= len(self._registry.specs):
                raise InstanceFailedError(f"such {_TOO_FEW}: it is not tried")

    def end(self, request: Request, *, failed: bool) -> None:
        """A request has ended: its content is remembered if it may end instances, or forgotten if it was answered."""
        if not request.tries.suspect:
            return
        if failed:
            self._suspects.add(request.path, request.body, self._loop.time())
        else:
            self._suspects.forget(request.path, request.body)

    async def note(
        self, request: Request, instance: str, error: SyshaxError, *, progressed: bool, ran_s: float
    ) -> None:
        """An instance has failed a request.

        Args:
            request: The request.
            instance: The instance.
            error: What it has failed with.
            progressed: It had made some of the answer.
            ran_s: For how long it had run the request.
        """
        if request.expired:
            return  # the instance may have done well
        self._supervisor.report_failure(instance)
        self._breakers.failed(instance, str(error))
        ended = await self._has_ended(instance, error)
        unresponsive = instance in self._given_up
        request.tries.failed(error, ended=ended, unresponsive=unresponsive, begun=progressed, ran_s=ran_s)
        self._end_trial(request, harmless=not ended)

    async def _has_ended(self, instance: str, error: SyshaxError) -> bool:
        """Whether an instance that has failed a request ends of itself."""
        if not isinstance(error, InstanceFailedError) or not error.reached:
            return False
        if self._states.get(instance) in _ASKED_TO_END and instance not in self._given_up:
            return False
        if self._states.get(instance) is not State.READY:
            return True
        # Its connections break, or its server says that the engine has died, before anyone knows of its end.
        asking = self._asking.get(instance)
        if asking is None:
            asking = self._asking[instance] = asyncio.create_task(self._supervisor.is_well(instance))
            asking.add_done_callback(lambda _: self._asking.pop(instance, None))
        is_well = await asyncio.shield(asking)
        if not is_well and self._states.get(instance) is State.READY:
            self._ending.add(instance)
        return not is_well

    def answered_badly(self, instance: str, status: int) -> None:
        """An instance has answered with an error of its own, which went to the client."""
        self._supervisor.report_failure(instance)
        self._breakers.failed(instance, f"the instance answered {status}")

    def spend_retry(self, why: str) -> None:
        """Raises InstanceFailedError if so many requests fail that no more are tried again."""
        reserve = 2 * sum(spec.max_num_seqs for spec in self._registry.specs.values())
        if not self.budget.spend(reserve, self._loop.time()):
            raise InstanceFailedError(f"{why}; too many requests fail to try each on another (system.retry_ratio)")

    def check(self, request: Request, instance: str, error: SyshaxError) -> None:
        """Raises InstanceFailedError if a request that an instance has failed must not be tried again."""
        if refusal := request.tries.refusal():
            raise InstanceFailedError(f"instance {instance}: {error}; {refusal}: it is not tried again")

    async def clear(self, request: Request, instance: str, error: SyshaxError, *, within_s: float) -> None:
        """Returns when a request that an instance has failed may be tried again: at once, unless it is suspect.

        Raises:
            InstanceFailedError: It is suspect, and in that time no second instance was ready for it.
        """
        if not request.tries.suspect:
            return
        try:
            async with asyncio.timeout(within_s):
                while len(self._ready) < 2 or not self._trials.may_begin:
                    await self._changed.wait()
        except TimeoutError:
            raise InstanceFailedError(
                f"instance {instance}: {error}; such {_TOO_FEW}, or others are tried: not tried again in {within_s:g} s"
            ) from None
        self._trials.begin()
        harmless: Callable[[], None] = lambda: self._end_trial(request, harmless=True)  # noqa: E731
        self._on_trial[request] = self._loop.call_later(HARMLESS_S, harmless)
        request.on_answer = harmless

    def leave(self, request: Request) -> None:
        """A request is over, however it has ended."""
        self._end_trial(request, harmless=True)

    @property
    def _ready(self) -> set[str]:
        return {spec.name for spec in self._registry.ready} - self._ending

    def _end_trial(self, request: Request, *, harmless: bool) -> None:
        timer = self._on_trial.pop(request, None)
        if timer is not None:
            timer.cancel()
            request.on_answer = None
            self._trials.end(harmless=harmless)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _on_status(self, status: InstanceStatus) -> None:
        name, before = status.spec.name, self._states.get(status.spec.name)
        self._states[name] = status.state
        if status.state is not State.READY:
            self._ending.discard(name)
        if status.state is State.STOPPING and before is State.UNHEALTHY and status.wanted:
            self._given_up.add(name)
        elif status.state in {State.STARTING, State.READY}:
            self._given_up.discard(name)
