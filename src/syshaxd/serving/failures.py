# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Failures of instances that run requests: what they say about the instance and the request, and what to retry."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError, UnavailableError
from syshaxd.core.placement.retries import MAX_ENDS, TRIAL_S, Suspects, Trials
from syshaxd.core.placement.retry_budget import RetryBudget
from syshaxd.core.types import InstanceStatus, State
from syshaxd.instances.breakers import Breakers
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.instances.supervisor import Supervisor
from syshaxd.serving.request import Request

_log = logging.getLogger(__name__)
_ASKED_TO_END = frozenset((State.DRAINING, State.STOPPING, State.STOPPED))
_UNWELL = frozenset((State.UNHEALTHY, State.BACKOFF, State.FAILED))
_GUARD = (
    "it may have ended an instance, and runs only while two instances of its model are ready, few such requests at a "
    "time"
)
_RETRY_AFTER_S = 10.0


class WithdrawnError(InstanceFailedError):
    """A suspect was withdrawn because no second instance is ready any more. Its instance has not failed."""


@dataclass(slots=True, eq=False)
class _Trial:
    """A suspect that is tried, until it is answered."""

    timer: asyncio.TimerHandle | None = None
    """Expires when the suspect no longer keeps others waiting."""
    keeps_waiting: bool = True
    instance: str = ""
    """The instance that runs it."""
    scope: asyncio.Timeout | None = None
    """Ends it; None: it does not run."""


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
        self._on_trial: dict[Request, _Trial] = {}
        self._states: dict[str, State] = {}
        self._ending: set[str] = set()
        """Instances that have ended before the supervisor knows it."""
        self._given_up: set[str] = set()
        """Instances that are being ended because they answer no probes, not because their process died."""
        self._asking: dict[str, asyncio.Task[bool]] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        supervisor.subscribe(self._on_status)
        registry.subscribe(self._wake)

    # Requests.

    def begin(self, request: Request) -> None:
        """Counts a new request, and recognises a suspect."""
        self.budget.earn()
        if self._suspects.knows(request.path, request.body, self._loop.time()):
            request.tries.remember()

    def answered(self, request: Request) -> None:
        """A request was answered, so it does not end instances."""
        if request.tries.suspect:
            self._suspects.forget(request.path, request.body)

    def leave(self, request: Request) -> None:
        """A request is over, whatever its outcome."""
        self._end_trial(request, harmless=False)

    async def run(self, request: Request, instance: str, segment: Callable[[], Awaitable[None]]) -> None:
        """Makes a segment of a request's answer.

        Raises:
            WithdrawnError: The request is suspect, it has no answer yet, and no second instance is ready any more.
            InstanceFailedError: What `segment` raises.
            InstanceTimeoutError: As above.
        """
        try:
            if (trial := self._on_trial.get(request)) is None:
                await segment()
            else:
                trial.instance = instance
                await self._run_trial(request, trial, segment)
        except asyncio.CancelledError:
            if not request.status:
                self._abandon(request, instance)
            raise

    async def _run_trial(self, request: Request, trial: _Trial, segment: Callable[[], Awaitable[None]]) -> None:
        withdrawn = WithdrawnError(f"it was withdrawn: {_GUARD}")
        if not self._has_second(request):
            raise withdrawn
        if trial.timer is None:
            trial.timer = self._loop.call_later(TRIAL_S, self._let_others_begin, trial)
        scope = asyncio.timeout(None)
        try:
            async with scope:
                trial.scope = scope
                await segment()
        except TimeoutError:
            if not scope.expired():
                raise
            raise withdrawn from None
        finally:
            trial.scope = None

    def _abandon(self, request: Request, instance: str) -> None:
        """A client gets no answer, and may send the request again, while the instance may yet end of it."""
        now_s = self._loop.time()
        self._suspects.abandon(instance, request.path, request.body, now_s)
        if self._states.get(instance) in _UNWELL:
            self._suspects.blame_abandoned(instance, now_s)

    async def note(self, request: Request, instance: str, error: SyshaxError, *, begun: bool) -> None:
        """Notes that an instance failed a request.

        Args:
            request: The request.
            instance: The instance.
            error: What it has failed with.
            begun: Some of the answer had come, from this instance or from another one before.
        """
        if isinstance(error, WithdrawnError):
            self._end_trial(request, harmless=False)
            return
        if isinstance(error, InstanceTimeoutError) and not begun:
            self._abandon(request, instance)
        if request.expired:
            return  # the instance may be healthy
        self._supervisor.report_failure(instance)
        self._breakers.failed(instance, str(error))
        ended = await self._has_ended(instance, error)
        request.tries.failed(error, ended=ended, begun=begun)
        self._end_trial(request, harmless=not ended)
        if ended and request.tries.suspect:
            self._trials.harmed()
            harmful = request.tries.harmful
            self._suspects.add(request.path, request.body, self._loop.time(), harmful=harmful)

    async def _has_ended(self, instance: str, error: SyshaxError) -> bool:
        """Whether an instance that failed a request is ending without having been asked to."""
        if not isinstance(error, InstanceFailedError) or not error.reached:
            return False
        if self._states.get(instance) in _ASKED_TO_END and instance not in self._given_up:
            return False
        if self._states.get(instance) is not State.READY:
            return True
        # Connections break, or the server reports a dead engine, before the supervisor knows of the end.
        asking = self._asking.get(instance)
        if asking is None:
            asking = self._asking[instance] = asyncio.create_task(self._supervisor.is_well(instance))
            asking.add_done_callback(lambda _: self._asking.pop(instance, None))
        is_well = await asyncio.shield(asking)
        if not is_well and self._states.get(instance) is State.READY:
            self._ending.add(instance)
            self._suspects.blame_abandoned(instance, self._loop.time())
            self._wake()
        return not is_well

    def answered_badly(self, instance: str, status: int) -> None:
        """Notes that an instance answered with an error of its own, which the client got."""
        self._supervisor.report_failure(instance)
        self._breakers.failed(instance, f"the instance answered {status}")

    def spend_retry(self, why: str) -> None:
        """Takes a retry from the budget. Raises InstanceFailedError if the budget is used up."""
        reserve = 2 * sum(spec.max_num_seqs for spec in self._registry.specs.values())
        if not self.budget.spend(reserve, self._loop.time()):
            raise InstanceFailedError(
                f"{why}; too many requests are failing to try each on another (system.retry_ratio)"
            )

    def check_start_over(
        self, request: Request, instance: str, error: SyshaxError, why: str, *, last_try: bool
    ) -> None:
        """Raises SyshaxError if a request must not be tried again, although the client has none of its answer."""
        if isinstance(error, InstanceTimeoutError):
            raise InstanceTimeoutError(why) from error
        if not isinstance(error, WithdrawnError):
            self.check(request, why)
            if last_try:
                raise InstanceFailedError(why) from error
            self.spend_retry(why)
        where = "again beside a second instance" if request.tries.suspect else "another"
        extra = {"instance": instance, "request_id": request.id}
        _log.warning("request %s: %s; trying %s", request.id, why, where, extra=extra)
        request.retries += 1

    def check(self, request: Request, why: str) -> None:
        """Raises InstanceFailedError if a request that an instance failed must not be tried again."""
        if refusal := request.tries.refusal():
            raise InstanceFailedError(f"{why}; {refusal}: it is not tried again")

    async def clear(self, request: Request, why: str, *, within_s: float) -> None:
        """Returns when a request may be tried: at once, unless it is suspect.

        Raises:
            UnavailableError: It is suspect, and in that time no second instance was ready for it, or none can be.
            InstanceFailedError: It is suspect, it has failed, and its model has one instance only.
        """
        if not request.tries.suspect:
            return
        if len(self._registry.peers(request.inference)) < 2:
            if request.tries.has_failed:
                raise InstanceFailedError(why)
            return  # there is no other instance to protect from it
        try:
            async with asyncio.timeout(within_s):
                self._check_may_be_tried(request, why)
                while not self._may_begin_trial(request):
                    await self._changed.wait()
                    self._check_may_be_tried(request, why)
        except TimeoutError:
            text = f"{why}; {_GUARD}: not within {within_s:g} s"
            raise UnavailableError(text, retry_after_s=_RETRY_AFTER_S) from None
        self._trials.begin()
        self._on_trial[request] = _Trial()
        request.on_answer = partial(self._end_trial, request, harmless=True)

    @property
    def _ready(self) -> set[str]:
        return {spec.name for spec in self._registry.ready} - self._ending

    def _has_second(self, request: Request) -> bool:
        """Two instances of its model are ready: one may end, and the other serves."""
        ready = self._ready
        return sum(peer.spec.name in ready for peer in self._registry.peers(request.inference)) >= 2

    def _may_begin_trial(self, request: Request) -> bool:
        # Placement may still choose an instance that is ending, which would count as a second end of its request.
        ending = any(peer.spec.name in self._ending for peer in self._registry.peers(request.inference))
        return not ending and self._has_second(request) and self._trials.may_begin

    def _check_may_be_tried(self, request: Request, why: str) -> None:
        """Raises UnavailableError if waiting cannot help."""
        left_s = self._suspects.refused_for_s(request.path, request.body, self._loop.time())
        if left_s:
            text = f"{MAX_ENDS} instances ended while they ran such requests: none is tried for {left_s:.0f} s"
            raise UnavailableError(f"{why}; {text}", retry_after_s=left_s)
        statuses = [peer.status for peer in self._registry.peers(request.inference)]
        if sum(status.wanted and status.state is not State.FAILED for status in statuses) < 2:
            raise UnavailableError(f"{why}; {_GUARD}: no second one is to run", retry_after_s=_RETRY_AFTER_S)

    # Trials.

    def _let_others_begin(self, trial: _Trial) -> None:
        trial.keeps_waiting = False
        self._trials.end(harmless=True)
        self._wake()

    def _end_trial(self, request: Request, *, harmless: bool) -> None:
        trial = self._on_trial.pop(request, None)
        if trial is None:
            return
        request.on_answer = None
        if trial.timer is not None:
            trial.timer.cancel()
        if trial.keeps_waiting:
            self._trials.end(harmless=harmless)
            self._wake()

    def _withdraw_if_alone(self, request: Request, trial: _Trial) -> None:
        # If its own instance is not ready, that may be its doing: it fails there, and that is counted.
        if trial.scope is not None and trial.instance in self._ready and not self._has_second(request):
            trial.scope.reschedule(self._loop.time())
            trial.scope = None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        for request, trial in self._on_trial.items():
            self._withdraw_if_alone(request, trial)

    def _on_status(self, status: InstanceStatus) -> None:
        name, before = status.spec.name, self._states.get(status.spec.name)
        self._states[name] = status.state
        if status.state is not State.READY and name in self._ending:
            self._ending.discard(name)
            self._wake()
        if status.state is State.STOPPING and before is State.UNHEALTHY and status.wanted:
            self._given_up.add(name)
        elif status.state in {State.STARTING, State.READY}:
            self._given_up.discard(name)
        if status.state in _UNWELL:
            self._suspects.blame_abandoned(name, self._loop.time())
