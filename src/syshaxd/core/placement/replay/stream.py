# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The answer to one request of a replay, on its way through the simulated devices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest, Offload
from syshaxd.core.placement.records import Cause, HandoverRecord
from syshaxd.core.placement.replay.device import Device, Job
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import InstanceSpec


@dataclass(slots=True, eq=False)
class Outcome:
    """How one request fared. Times are seconds since the start of the replay."""

    traced: TracedRequest
    places: tuple[str, ...] = ()
    first_s: float = math.nan
    end_s: float = math.nan
    handovers: list[HandoverRecord] = field(default_factory=list)

    @property
    def to_first_s(self) -> float:
        """Seconds to the first token."""
        return self.first_s - self.traced.at_s

    @property
    def whole_s(self) -> float:
        """Seconds to the end of the answer."""
        return self.end_s - self.traced.at_s

    @property
    def token_s(self) -> float:
        """Mean seconds between two tokens."""
        return (self.end_s - self.first_s) / max(1, self.traced.answer_tokens - 1)


class Devices(Protocol):
    """The devices, and the time."""

    devices: Mapping[str, Device]
    now_s: float

    def saves(self, source: Slot, stream: "Stream") -> bool:
        """Whether the source's arena has room for the stream's KV cache, which is kept there then."""

    def hand_over(self, stream: "Stream", source: Slot, *, saved: bool) -> None:
        """Continues a stream at its present slot, once its KV cache has arrived if it was saved."""


class Stream:
    """The answer to one request (a `MovableStream`)."""

    def __init__(self, replay: Devices, outcome: Outcome, request: InferenceRequest) -> None:
        self._replay = replay
        self.outcome = outcome
        self.claim = Claim(request, stream=self)
        self.grant: Grant | None = None
        self.may_return = True
        self.slot: Slot | None = None
        self.job: Job | None = None
        self.made = 0
        """Tokens, but for those of the present job."""
        self.placed_at_s = 0.0
        self.stopped_at_s = 0.0
        self._target: tuple[Slot, Cause] | None = None
        self._left: Slot | None = None
        self.prefills = False

    @property
    def spec(self) -> InstanceSpec | None:
        """MovableStream: of an offload, the instance of the answer, also while another one computes the prompt."""
        slot = self.grant.slots[1] if self.prefills and self.grant is not None else self.slot
        return None if slot is None else slot.spec

    @property
    def tokens(self) -> int:
        """MovableStream."""
        return self.made + (self.device.made(self.job) if self.job else 0)

    @property
    def context(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.outcome.traced.prompt_tokens + self.made

    @property
    def device(self) -> Device:
        """That on which it is."""
        assert self.slot is not None
        return self._replay.devices[self.slot.spec.name]

    @property
    def may_move(self) -> bool:
        """MovableStream: until the present instance has spoken, it may be loading what the last one handed over."""
        return self.job is not None and not self.prefills and self._target is None and self.device.made(self.job) > 0

    def move(self, target: Slot, cause: Cause) -> bool:
        """MovableStream."""
        if not self.may_move or self.grant is None or self.job is None:
            target.release()
            return False
        self.grant.add(target)
        self._target = target, cause
        self.device.leave(self.job, self._replay.now_s)
        return True

    def begin(self, grant: Grant) -> None:
        """The request got its slots."""
        self.grant, self.placed_at_s = grant, self._replay.now_s
        self.outcome.places = grant.placement.places
        self.slot = grant.slots[0]
        self.prefills = isinstance(grant.placement, Offload)
        self.compute(self.context, 1 if self.prefills else self.outcome.traced.answer_tokens)

    def compute(self, uncomputed: int, wanted: int) -> None:
        """Queues a job on the present device."""
        self.job = Job(self, self.context, uncomputed, wanted)
        self.device.add(self.job, self._replay.now_s)

    def spoke(self) -> None:
        """The present device made its first token."""
        now_s = self._replay.now_s
        if math.isnan(self.outcome.first_s):
            self.outcome.first_s = now_s
        handovers = self.outcome.handovers
        if handovers and handovers[-1].gap_s is None:
            handovers[-1] = replace(handovers[-1], gap_s=now_s - self.stopped_at_s)
        left, self._left = self._left, None
        if left is not None:
            left.release()

    def finished(self) -> bool:
        """The present job is complete; returns whether the answer is."""
        self._stop()
        if self.made >= self.outcome.traced.answer_tokens:
            self.slot = None
            return True
        assert self.grant is not None
        self.prefills = False
        prefill, decode = self.grant.slots[0], self.grant.slots[1]
        if not self._replay.saves(prefill, self):
            # The save was refused: the answer continues where its prompt was computed.
            decode.release()
            self.compute(self.context, self.outcome.traced.answer_tokens - self.made)
            return False
        self.slot = decode
        prefill.release()
        self._hand_over(prefill, Cause.OFFLOAD, saved=True)
        return False

    def left(self) -> None:
        """It has left its device with a token."""
        assert self._target is not None
        self._stop()
        source, (target, cause) = self.slot, self._target
        assert source is not None
        self._target, self._left, self.slot = None, source, target
        self._hand_over(source, cause, saved=self._replay.saves(source, self))

    def _stop(self) -> None:
        assert self.job is not None
        self.made += self.job.made
        self.job, self.stopped_at_s = None, self._replay.now_s

    def _hand_over(self, source: Slot, cause: Cause, *, saved: bool) -> None:
        assert self.slot is not None
        record = HandoverRecord(
            source=source.spec.name,
            target=self.slot.spec.name,
            cause=cause,
            known_tokens=self.context,
            asked=True,
            cached_tokens=self.context - 1 if saved else 0,
        )
        self.outcome.handovers.append(record)
        self._replay.hand_over(self, source, saved=saved)
