# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which on-demand models are started and stopped, as a pure rule: what is seen in, effects out.

`OnDemand.step` is called whenever something may have changed, and compares what is wanted with what is seen:

- A request for a model that is down starts it. What it needs must be free: nothing is promised twice.
- What does not fit makes room: the model that has been idle longest is stopped. If all are busy, the one that has been
  up longest gets no new requests, and is stopped when those that run have ended. Each stays up for `min_up_s`.
- Models that wait for room get it in the order in which they began to wait. Room that the first one waits for is not
  given to others.
- A model without a request for `idle_ttl_s` is stopped.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from syshaxd.core.backoff import backoff_s
from syshaxd.core.lifecycle.on_demand_models import (
    Cause,
    Effect,
    OnDemandPlan,
    Phase,
    RefuseWaiting,
    Seen,
    StartModel,
    StopModel,
)

_ROUNDING = 1e-9
_RETRY_S = 60.0
"""For requests that only an operator can help."""
_HOLDING = frozenset((Phase.UP, Phase.STARTING, Phase.ENDING, Phase.RETRYING))
"""Its needs are taken."""


@dataclass(slots=True)
class _Record:
    """What is remembered of a model."""

    phase: Phase = Phase.DOWN
    up_since_s: float = 0.0
    used_s: float = 0.0
    """The last moment with a request."""
    waiting_since_s: float | None = None
    """Since when requests wait for it to be started; None: none do."""
    yields_to: str = ""
    """It gets no new requests, as this model waits for its room."""
    ordered: Phase | None = None
    """A start or a stop that does not show yet."""
    launches: int = 0
    """When it was ordered."""
    failures: int = 0
    """Failed starts in a row."""
    retry_at_s: float = 0.0
    waits_for: str = ""
    """Why it is not started although requests wait, for a person."""


class OnDemand:
    """The rule, with what it remembers."""

    def __init__(self, plan: OnDemandPlan) -> None:
        """Begins with all models down."""
        self._plan = plan
        self._models = {model.name: model for model in plan.models}
        self._records = {model.name: _Record() for model in plan.models}
        self._seen: Mapping[str, Seen] = {}
        self._now_s = 0.0
        self._wake_at_s = math.inf

    def replace(self, plan: OnDemandPlan) -> None:
        """Applies other models or settings; what is remembered of models that stay is kept."""
        self._plan = plan
        self._models = {model.name: model for model in plan.models}
        self._records = {name: self._records.get(name) or _Record() for name in self._models}

    # Questions.

    @property
    def held(self) -> frozenset[str]:
        """Models whose instances get no new requests, as they are about to stop."""
        return frozenset(name for name, record in self._records.items() if self._is_held(record))

    @property
    def wake_at_s(self) -> float:
        """When `step` is to be called although nothing has changed; infinite: never."""
        return self._wake_at_s

    def explain(self, name: str) -> str:
        """Where a model stands, for a person."""
        record, seen = self._records[name], self._seen.get(name, Seen())
        waiting = f" for {seen.queued} request{'' if seen.queued == 1 else 's'}" if seen.queued else ""
        if not seen.available:
            return "an operator has stopped it"
        if record.waiting_since_s is not None and record.waits_for:
            return f"waits for room{waiting}: {record.waits_for}"
        if record.yields_to:
            return f"gets no new requests: {record.yields_to} waits for its room"
        texts = {
            Phase.DOWN: "stopped; a request starts it",
            Phase.STARTING: f"starting{waiting}",
            Phase.UP: "up",
            Phase.ENDING: "stopping",
            Phase.RETRYING: f"failed: {seen.reason}",
            Phase.FAILED: f"failed: {seen.reason}; a request starts it again",
        }
        return texts[record.phase]

    # The event.

    def step(self, seen: Mapping[str, Seen], now_s: float) -> list[Effect]:
        """Something may have changed, or `wake_at_s` is reached.

        Args:
            seen: What is known of each model.
            now_s: Monotonic.
        """
        self._seen, self._now_s, self._wake_at_s = seen, now_s, math.inf
        effects: list[Effect] = []
        for name, record in self._records.items():
            self._note(record, seen[name])
            effects += self._refused(name, record)
        effects += self._start_waiting()
        effects += self._stop_unused()
        return effects

    def _note(self, record: _Record, seen: Seen) -> None:
        """Takes over what is seen."""
        if record.ordered is not None and self._shows(record, seen):
            record.ordered = None
        before, record.phase = record.phase, record.ordered or seen.phase
        if record.phase is not before:
            if record.phase is Phase.UP:
                record.up_since_s = record.used_s = self._now_s
                record.failures = 0
            elif record.phase in {Phase.RETRYING, Phase.FAILED}:
                record.failures += 1
                pause_s = backoff_s(record.failures, first_s=self._plan.backoff_base_s, cap_s=self._plan.backoff_cap_s)
                record.retry_at_s = self._now_s + pause_s
            elif record.phase is not Phase.ENDING:
                record.yields_to = ""
        if seen.queued or seen.inflight:
            record.used_s = self._now_s
        waits = seen.queued and (record.phase not in {Phase.UP, Phase.STARTING, Phase.RETRYING} or record.yields_to)
        if not waits:
            record.waiting_since_s, record.waits_for = None, ""
        elif record.waiting_since_s is None:
            record.waiting_since_s = self._now_s

    @staticmethod
    def _shows(record: _Record, seen: Seen) -> bool:
        if record.ordered is Phase.STARTING:
            return seen.launches != record.launches or seen.phase is Phase.STARTING or not seen.available
        return seen.phase in {Phase.ENDING, Phase.DOWN} or seen.launches != record.launches

    def _refused(self, name: str, record: _Record) -> Iterator[RefuseWaiting]:
        """Refuses what waits for a model that does not start."""
        seen = self._seen[name]
        if not seen.queued:
            return
        left_s = max(1.0, math.ceil(record.retry_at_s - self._now_s))
        if not seen.available:
            yield RefuseWaiting(name, f"the model {name} was stopped by an operator", _RETRY_S)
        elif lacking := self._lacking(name, Counter()):
            what = " and ".join(lacking.values())
            yield RefuseWaiting(name, f"the model {name} can't be started: it needs {what}", _RETRY_S)
        elif record.phase is Phase.RETRYING or (record.phase is Phase.FAILED and self._now_s < record.retry_at_s):
            yield RefuseWaiting(name, f"the model {name} could not be started: {seen.reason}", left_s)
        else:
            return
        record.waiting_since_s = None

    # Room.

    def _start_waiting(self) -> Iterator[Effect]:
        """Starts what waits, in order, and makes room for it."""
        taken = Counter[str]()
        for name, record in self._records.items():
            if record.phase in _HOLDING:
                taken.update(self._models[name].needs)
        waiting = [
            (record.waiting_since_s, name)
            for name, record in self._records.items()
            if record.waiting_since_s is not None and record.phase in {Phase.DOWN, Phase.FAILED}
        ]
        yielding: dict[str, str] = {}
        spared: set[str] = set()
        for _, name in sorted(waiting):
            record = self._records[name]
            if not self._lacking(name, taken):
                record.ordered, record.launches = Phase.STARTING, self._seen[name].launches
                record.phase, record.waiting_since_s, record.waits_for = Phase.STARTING, None, ""
                yield StartModel(name, self._seen[name].queued)
            else:
                yielding = dict.fromkeys(self._victims(name, taken, spared), name) | yielding
            taken.update(self._models[name].needs)  # also while it waits: others do not get its room
            spared.add(name)
        for name, record in self._records.items():
            if record.ordered is not Phase.ENDING:
                record.yields_to = yielding.get(name, "")

    def _victims(self, waiter: str, taken: Mapping[str, float], spared: set[str]) -> list[str]:
        """The models that are to make room for one that waits; none while the room is on its way, or must not be made.

        Args:
            waiter: What waits.
            taken: What is taken of each resource, and reserved for those that wait longer.
            spared: Those that wait, or have just been started.
        """
        left = Counter(taken)
        coming = [name for name, record in self._records.items() if record.phase is Phase.ENDING]
        for name in coming:
            left.subtract(self._models[name].needs)
        found: list[str] = []
        early_at_s = math.inf
        for name in sorted(self._records, key=self._victim_order):
            lacking = self._lacking(waiter, left)
            if not lacking:
                break
            if name in spared or not lacking.keys() & self._models[name].needs.keys():
                continue
            if (at_s := self._ends_at_s(name)) <= self._now_s:
                found.append(name)
                left.subtract(self._models[name].needs)
            else:
                early_at_s = min(early_at_s, at_s)
        enough = not self._lacking(waiter, left)
        names = found if enough else self._holders(self._lacking(waiter, taken))
        self._records[waiter].waits_for = f"that of {', '.join(names or coming) or 'others'} must come free"
        if not enough:
            self._wake_at_s = min(self._wake_at_s, early_at_s)
            return []
        return found

    def _holders(self, resources: Iterable[str]) -> list[str]:
        """The models that have something of these resources now."""
        holding = [name for name, record in self._records.items() if record.phase in _HOLDING]
        return [name for name in holding if not self._models[name].needs.keys().isdisjoint(resources)]

    def _victim_order(self, name: str) -> tuple[bool, bool, float]:
        """What has never come up first; then what is idle, longest first; then what has been up longest."""
        record, seen = self._records[name], self._seen[name]
        busy = bool(seen.inflight or seen.queued)
        return record.phase is Phase.UP, busy, record.up_since_s if busy else record.used_s

    def _ends_at_s(self, name: str) -> float:
        """When a model may be stopped for another one's sake; infinite: not in its phase."""
        record, seen = self._records[name], self._seen[name]
        if record.ordered is not None:
            return math.inf
        match record.phase:
            case Phase.UP:
                return record.up_since_s + self._models[name].min_up_s
            case Phase.RETRYING:
                return self._now_s
            case Phase.STARTING if not seen.queued:
                return self._now_s
        return math.inf

    def _lacking(self, name: str, taken: Mapping[str, float]) -> dict[str, str]:
        """Of which resources a model needs more than is free, and how much."""
        lacking = {}
        for resource, needed in self._models[name].needs.items():
            limit = self._plan.capacity.get(resource, math.inf)
            if taken.get(resource, 0.0) + needed > limit * (1 + _ROUNDING) + _ROUNDING:
                lacking[resource] = f"{needed:.3g} {resource}, of {max(0.0, limit):.3g}"
        return lacking

    # Stops.

    def _stop_unused(self) -> Iterator[StopModel]:
        """Stops what is to make room and has answered everything, and what is not used any more."""
        for name, record in self._records.items():
            seen, ttl_s = self._seen[name], self._models[name].idle_ttl_s
            if record.ordered is not None or record.phase not in {Phase.UP, Phase.STARTING, Phase.RETRYING}:
                continue
            if record.yields_to:
                if not seen.inflight:
                    yield self._stop(name, Cause.ROOM, f"stopped to make room for {record.yields_to}")
            elif record.phase is Phase.UP and ttl_s is not None and not (seen.queued or seen.inflight):
                if self._now_s >= record.used_s + ttl_s:
                    yield self._stop(name, Cause.IDLE, f"stopped after {ttl_s:g} s without a request")
                else:
                    self._wake_at_s = min(self._wake_at_s, record.used_s + ttl_s)

    def _stop(self, name: str, cause: Cause, text: str) -> StopModel:
        record = self._records[name]
        record.ordered, record.phase, record.launches = Phase.ENDING, Phase.ENDING, self._seen[name].launches
        return StopModel(name, cause, f"{text}; a request starts it again")

    @staticmethod
    def _is_held(record: _Record) -> bool:
        return bool(record.yields_to) or record.phase is Phase.ENDING
