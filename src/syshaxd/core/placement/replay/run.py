# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests through admission and two simulated devices, by events. Admission and rules are those of the daemon."""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.claims import Claim, Effect, Fleet, Granted, MoveStream
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.holdout import Holdout
from syshaxd.core.placement.replay.calibrated import calibration
from syshaxd.core.placement.replay.device import Device, Job
from syshaxd.core.placement.replay.profiles import DeviceProfile, Profile
from syshaxd.core.placement.replay.stream import Outcome, Stream
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Slot
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.types import Device as DeviceKind
from syshaxd.core.types import InstanceSpec, Role, RuntimeKind

_READING_INTERVAL_S = 1.0
_PAIRS = frozenset({("gpu", "cpu"), ("cpu", "gpu")})


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
        self.devices: Mapping[str, Device] = {"gpu": Device(profile.gpu), "cpu": Device(profile.cpu)}
        self.now_s = 0.0
        specs = tuple(_spec(role, device) for role, device in ((Role.GPU, profile.gpu), (Role.CPU, profile.cpu)))
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
        self._streams = [Stream(self, Outcome(traced), _request(traced, told_limits)) for traced in requests]
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

    def saves(self, source: Slot, stream: Stream) -> bool:
        """Devices."""
        handover, size = self._profile.handover, stream.context * self._profile.handover.token_bytes
        if self._arena_bytes[source.spec.name] + size > handover.arena_bytes:
            return False
        self._arena_bytes[source.spec.name] += size
        return True

    def hand_over(self, stream: Stream, source: Slot, *, saved: bool) -> None:
        """Devices."""
        handover, size = self._profile.handover, stream.context * self._profile.handover.token_bytes

        def arrive() -> None:
            if saved:
                self._arena_bytes[source.spec.name] -= size
            stream.compute(1 if saved else stream.context, stream.outcome.traced.answer_tokens - stream.made)

        self._at(self.now_s + handover.fixed_s + (size / handover.bytes_per_s if saved else 0.0), arrive)

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (at_s, self._serial, what))

    def _arrive(self, stream: Stream) -> None:
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

    def _end(self, stream: Stream) -> None:
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
        gpu, cpu, profile = self.devices["gpu"], self.devices["cpu"], self._profile
        gpu.slow(profile.gpu_interference if cpu.running else 0.0, self.now_s)
        cpu.slow(profile.cpu_interference if gpu.running else 0.0, self.now_s)

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


def _owner(job: Job) -> Stream:
    assert isinstance(job.owner, Stream)
    return job.owner


def _stream(claim: Claim) -> Stream:
    assert isinstance(claim.stream, Stream)
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
