# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests through admission and two simulated devices, by events. Admission and rules are those of the daemon."""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.claims import Claim, Effect, Fleet, Granted, MoveStream
from syshaxd.core.placement.decision import InferenceRequest, Offload
from syshaxd.core.placement.holdout import Holdout
from syshaxd.core.placement.records import Cause, HandoverRecord
from syshaxd.core.placement.replay.calibrated import calibration
from syshaxd.core.placement.replay.device import Device, Job
from syshaxd.core.placement.replay.profiles import DeviceProfile, Profile
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.types import Device as DeviceKind
from syshaxd.core.types import InstanceSpec, Role, RuntimeKind

_READING_INTERVAL_S = 1.0
_PAIRS = frozenset({("gpu", "cpu"), ("cpu", "gpu")})


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


@dataclass(frozen=True, slots=True)
class Replayed:
    """A finished replay."""

    outcomes: Sequence[Outcome]
    arrivals_s: float
    """When the last request arrived."""
    tokens: int
    """Made up to then, by all devices."""
    preemptions: int
    """Of the GPU."""
    holdout: Holdout
    """What was measured of help by the CPU."""


def replay(
    profile: Profile,
    policy: Policy,
    requests: Sequence[TracedRequest],
    *,
    told_limits: bool = True,
    calibrated: bool = False,
) -> Replayed:
    """Replays requests until all are answered.

    Args:
        profile: The host.
        policy: Decides.
        requests: In the order of arrival.
        told_limits: Whether each request sends the length of its answer as its limit.
        calibrated: Whether placement begins with what `syshaxctl calibrate` would have measured.
    """
    return _Replay(profile, policy, requests, told_limits=told_limits, calibrated=calibrated).run()


class _Stream:
    """The answer to one request (a `MovableStream`)."""

    def __init__(self, replay_: "_Replay", outcome: Outcome, request: InferenceRequest) -> None:
        self._replay = replay_
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
            self._replay.release(left)

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
            self._replay.release(decode)
            self.compute(self.context, self.outcome.traced.answer_tokens - self.made)
            return False
        self.slot = decode
        self._replay.release(prefill)
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


class _Replay:
    def __init__(
        self,
        profile: Profile,
        policy: Policy,
        requests: Sequence[TracedRequest],
        *,
        told_limits: bool,
        calibrated: bool,
    ) -> None:
        self._profile = profile
        self.devices = {"gpu": Device(profile.gpu), "cpu": Device(profile.cpu)}
        self.now_s = 0.0
        specs = tuple(_spec(role, its) for role, its in ((Role.GPU, profile.gpu), (Role.CPU, profile.cpu)))
        self._specs = MappingProxyType({spec.name: spec for spec in specs})
        self._snapshot = Snapshot()
        self._fleet = self._new_fleet()
        self._admission = Admission(policy, max_queue_size=len(requests))
        if calibrated:
            for name in self._specs:
                self._admission.seed_estimates(list(calibration(specs, profile)), name)
        self._admission.on_release(self._on_release)
        self._released = False
        self._arena_bytes = dict.fromkeys(self._specs, 0)
        self._streams = [_Stream(self, Outcome(traced), _request(traced, told_limits)) for traced in requests]
        self._left = len(requests)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._arrived: tuple[float, int] = (0.0, 0)

    def run(self) -> Replayed:
        """Runs until all answers are complete."""
        for stream in self._streams:
            self._at(stream.outcome.traced.at_s, lambda stream=stream: self._arrive(stream))  # type: ignore[misc]
        self._at(_READING_INTERVAL_S, self._read)
        while self._left:
            due_s, device = self._events[0][0], None
            for candidate in self.devices.values():
                if candidate.next_s <= due_s:
                    due_s, device = candidate.next_s, candidate
            self.now_s = due_s
            if device is None:
                heapq.heappop(self._events)[2]()
            else:
                self._progress(device)
            self._readmit()
            self._interfere()
        arrivals_s, tokens = self._arrived
        outcomes = [stream.outcome for stream in self._streams]
        return Replayed(outcomes, arrivals_s, tokens, self.devices["gpu"].preemptions, self._admission.holdout)

    def release(self, slot: Slot) -> None:
        """Releases a slot, as the daemon does."""
        slot.release()

    def saves(self, source: Slot, stream: _Stream) -> bool:
        """Whether the source's arena has room for the stream's KV cache, which is kept there then."""
        its, size = self._profile.handover, stream.context * self._profile.handover.token_bytes
        if self._arena_bytes[source.spec.name] + size > its.arena_bytes:
            return False
        self._arena_bytes[source.spec.name] += size
        return True

    def hand_over(self, stream: _Stream, source: Slot, *, saved: bool) -> None:
        """Continues a stream at its present slot, once its KV cache has arrived if it was saved."""
        its, size = self._profile.handover, stream.context * self._profile.handover.token_bytes

        def arrive() -> None:
            if saved:
                self._arena_bytes[source.spec.name] -= size
            stream.compute(1 if saved else stream.context, stream.outcome.traced.answer_tokens - stream.made)

        self._at(self.now_s + its.fixed_s + (size / its.bytes_per_s if saved else 0.0), arrive)

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at_s, self._serial, what))

    def _arrive(self, stream: _Stream) -> None:
        self._arrived = self.now_s, sum(device.generated for device in self.devices.values())
        self._carry_out(self._admission.arrive(stream.claim, self._fleet))

    def _read(self) -> None:
        loads = {name: device.read(self.now_s) for name, device in self.devices.items()}
        self._snapshot = Snapshot(taken_at_s=self.now_s, instances=loads)
        self._fleet = self._new_fleet()
        self._carry_out(self._admission.observe_loads(self._fleet))
        self._carry_out(self._admission.migrate(self._fleet, ()))
        self._at(self.now_s + _READING_INTERVAL_S, self._read)

    def _progress(self, device: Device) -> None:
        done = device.progress(self.now_s)
        for job in done.spoke:
            _owner(job).spoke()
        for job in done.finished:
            stream = _owner(job)
            if stream.finished():
                self._end(stream)
        for job in done.left:
            _owner(job).left()

    def _end(self, stream: _Stream) -> None:
        assert stream.grant is not None
        outcome = stream.outcome
        outcome.end_s = self.now_s
        self._left -= 1
        self._admission.observe_help(stream.claim, self.now_s)
        self._admission.observe_answer(
            stream.claim.request, self.now_s - stream.placed_at_s, outcome.traced.answer_tokens, outcome.handovers
        )
        stream.grant.release()

    def _interfere(self) -> None:
        """Each device slows the other down while it computes."""
        gpu, cpu, its = self.devices["gpu"], self.devices["cpu"], self._profile
        gpu.slow(its.gpu_interference if cpu.running else 0.0, self.now_s)
        cpu.slow(its.cpu_interference if gpu.running else 0.0, self.now_s)

    def _on_release(self, name: str) -> None:
        self._released = True

    def _readmit(self) -> None:
        while self._released:
            self._released = False
            if self._admission.entries:
                self._carry_out(self._admission.admit(self._fleet))

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Granted():
                    _stream(effect.claim).begin(effect.grant)
                case MoveStream():
                    _stream(effect.claim).move(effect.slot, effect.cause)
                case _:
                    pass  # the history of decisions; none is refused, as the queue holds all

    def _new_fleet(self) -> Fleet:
        ready = tuple(self._specs.values())
        return Fleet(self._specs, ready, lambda request, tried: ready, _PAIRS, self._snapshot, self.now_s, self.now_s)


def _owner(job: Job) -> _Stream:
    assert isinstance(job.owner, _Stream)
    return job.owner


def _stream(claim: Claim) -> _Stream:
    assert isinstance(claim.stream, _Stream)
    return claim.stream


def _request(traced: TracedRequest, told_limits: bool) -> InferenceRequest:
    return InferenceRequest(
        request_id="",
        model=traced.model or "m",
        path=traced.path,
        stream=True,
        prompt_tokens=traced.prompt_tokens,
        max_tokens=traced.answer_tokens if told_limits else traced.max_tokens,
        whole_because="",
        movable=True,
        request_class=RequestClass.BATCH if traced.is_batch else RequestClass.INTERACTIVE,
    )


def _spec(role: Role, profile: DeviceProfile) -> InstanceSpec:
    return InstanceSpec(
        name=role.value,
        role=role,
        device=DeviceKind.CUDA if role is Role.GPU else DeviceKind.CPU,
        runtime=RuntimeKind.EXTERNAL,
        model="m",
        served_model="m",
        host="",
        port=1,
        max_num_seqs=profile.max_num_seqs,
    )
