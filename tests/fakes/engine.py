# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""InstanceOperations whose instances do what the test says, for the control plane and its clients."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace

from syshaxd.core.errors import NotFoundError
from syshaxd.core.loads import GpuLoad, HostLoad, InstanceLoad, Snapshot
from syshaxd.core.numa import BindingSettings, BindingStatus, Drift, DriftKind, Fault, Unverified, Verification
from syshaxd.core.parity import Agreement, Difference, Figures, ParityCause, ParityReport, PromptReport, Verdict
from syshaxd.core.report.engine_status import EngineStatus, HostTopology
from syshaxd.core.types import Device, Handle, InstanceSpec, InstanceStatus, Role, RuntimeKind, State
from syshaxd.serving.in_flight import RequestBook
from tests.core.topologies import KUNPENG

GIB = 2**30
DRIFT = Drift(
    kind=DriftKind.THREAD_OUTSIDE, detail="vllm (7) may run on CPU 40, not only on 0-39", tids=(7,), cpus=(40,)
)


def seen(*drifts: Drift) -> Verification:
    """A reading of an instance on the first two nodes."""
    return Verification(
        drifts=drifts,
        threads=90,
        threads_outside=len(drifts),
        cpus_planned=40,
        cpus_bound=40 - len(drifts),
        memory_bytes={0: 3 * GIB, 1: GIB},
        remote_memory_bytes=GIB,
        unreadable=("process 8",),
        walk_s=0.25,
    )


def spec(role: Role, **changes: object) -> InstanceSpec:
    base = InstanceSpec(
        name=str(role),
        role=role,
        device=Device.CUDA if role is Role.GPU else Device.CPU,
        runtime=RuntimeKind.PROCESS,
        model="/models/ds-32b",
        served_model="ds-32b",
        host="127.0.0.1",
        port=8001 if role is Role.GPU else 8002,
        argv=("vllm", "serve"),
        env=(("HF_TOKEN", "secret"),),
        cores=() if role is Role.GPU else tuple(range(40)),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


class _FakeParity:
    def __init__(self, engine: "FakeEngine") -> None:
        self._engine = engine

    async def compare(self, first: str, second: str) -> ParityReport:
        self._engine.role(first), self._engine.role(second)
        return self._engine.parity_reports[0]


class _FakeBindings:
    def __init__(self, engine: "FakeEngine") -> None:
        self._engine = engine

    async def topology(self) -> HostTopology:
        return self._engine.host

    async def check(self, name: str, settings: BindingSettings | None) -> tuple[Fault, ...]:
        self._engine.role(name)
        self._engine.checked.append((name, settings))
        return self._engine.faults

    async def verify(self, name: str) -> dict[str, Verification | Unverified]:
        return {self._engine.role(name): self._engine.seen[name]} if name else self._engine.seen


class FakeEngine:
    """Commands are noted; the instances change when the test says `become`, or by `react`."""

    def __init__(self) -> None:
        now_s = time.time()
        self.statuses = {
            role: InstanceStatus(
                spec=spec(role),
                state=State.READY,
                wanted=True,
                generation=1,
                since_s=now_s - 7980,
                handle=Handle(role, 1, "4242", now_s - 8000),
            )
            for role in Role
        }
        self.requests = RequestBook()
        self.registry = self.supervisor = self
        self.parity = _FakeParity(self)
        self.bindings = _FakeBindings(self)
        self.commands: list[tuple[object, ...]] = []
        self.watchers: list[asyncio.Queue[InstanceStatus]] = []
        self.react: Callable[[str, str], None] = lambda command, name: None
        self.lines = ["INFO loading", "INFO ready"]
        self.more_lines: asyncio.Queue[str] = asyncio.Queue()
        self.log_readers = 0
        self.error: Exception | None = None
        self.snapshot = full_snapshot()
        self.binding_faults: dict[str, tuple[str, ...]] = {}
        self.handover_refusals: dict[tuple[str, str], str] = {}
        self.parity_reports: tuple[ParityReport, ...] = ()
        self.binding_statuses: dict[str, BindingStatus] = {}
        self.host = HostTopology(topology=KUNPENG, owners={"cpu": tuple(range(40))})
        self.checked: list[tuple[str, BindingSettings | None]] = []
        self.faults: tuple[Fault, ...] = ()
        self.check_errors: dict[str, Exception] = {}
        """Why instances could not be started again."""
        self.seen: dict[str, Verification | Unverified] = {}

    def status(self) -> EngineStatus:
        if self.error is not None:
            raise self.error
        return EngineStatus(
            version="9.8.7",
            started_at_s=time.time() - 8005,
            endpoint="http://127.0.0.1:8010",
            queued=3,
            inflight={"gpu": 15, "cpu": 2},
            instances=tuple(self.statuses.values()),
            snapshot=self.snapshot,
            binding_faults=self.binding_faults,
            handover_refusals=self.handover_refusals,
            parity=self.parity_reports,
            bindings=self.binding_statuses,
        )

    def methods(self, path: str) -> frozenset[str] | None:
        return frozenset()

    async def drain(self, timeout_s: float) -> None:
        pass

    def become(self, name: str, state: State, **changes: object) -> None:
        role = self.role(name)
        self.statuses[role] = replace(self.statuses[role], state=state, since_s=time.time(), **changes)  # type: ignore[arg-type]
        for queue in self.watchers:
            queue.put_nowait(self.statuses[role])

    def start(self, name: str) -> None:
        self._command("start", name)

    def stop(self, name: str, *, drain: bool) -> None:
        self._command("stop", name, drain)

    async def check_restart(self, name: str) -> None:
        self.role(name)
        if name in self.check_errors:
            raise self.check_errors[name]

    def restart(self, name: str, *, drain: bool) -> None:
        self._command("restart", name, drain)

    async def watch(self, name: str) -> AsyncGenerator[InstanceStatus, None]:
        queue: asyncio.Queue[InstanceStatus] = asyncio.Queue()
        queue.put_nowait(self.statuses[self.role(name)])
        self.watchers.append(queue)
        try:
            while True:
                status = await queue.get()
                if status.spec.name == name:
                    yield status
        finally:
            self.watchers.remove(queue)

    def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncIterator[str]:
        self.role(name)
        return self._logs(tail, follow=follow)

    async def _logs(self, tail: int | None, *, follow: bool) -> AsyncIterator[str]:
        self.log_readers += 1
        try:
            for line in self.lines[len(self.lines) - (len(self.lines) if tail is None else tail) :]:
                yield line
            while follow:
                yield await self.more_lines.get()
        finally:
            self.log_readers -= 1

    def _command(self, command: str, name: str, *options: object) -> None:
        self.role(name)
        self.commands.append((command, name, *options))
        self.react(command, name)

    def role(self, name: str) -> Role:
        if name not in set(Role):
            raise NotFoundError(f"no instance {name!r}; available: gpu, cpu")
        return Role(name)


def parity_report(*, allowed: bool = True) -> ParityReport:
    return ParityReport(
        first="gpu",
        second="cpu",
        verdict=Verdict(
            Agreement.NOISE if allowed else Agreement.DIFFERS,
            ParityCause.ROUNDING if allowed else ParityCause.WEIGHTS,
            ("96.4% of 582 positions have the same likeliest token",)
            if allowed
            else ("only 0.2% of 647 positions have the same likeliest token", "over the bound: no request may move"),
            allowed=allowed,
        ),
        figures=Figures(
            positions=582,
            same_top_ratio=0.964,
            near_tie_ratio=0.034,
            clear_flip_ratio=0.002,
            prefill_distance=0.0175,
            decode_distance=0.0183,
            first_token_ratio=1.0,
            greedy_ratio=0.5,
            common_prefix_ratio=0.75,
        ),
        prompts=(
            PromptReport(
                prompt="The capital of France\nis",
                same_tokens=True,
                prefill_positions=27,
                decode_positions=9,
                same_top=35,
                near_ties=1,
                prefill_distance=0.012,
                decode_distance=0.011,
                generated_tokens=16,
                common_tokens=8,
                difference=Difference(8, 0.17, 0.12, near_tie=True),
            ),
            PromptReport(prompt="17 + 25 = 42", same_tokens=False),
        ),
        compared_at_s=1_700_000_000.0,
    )


def full_snapshot() -> Snapshot:
    now_s = time.monotonic()
    return Snapshot(
        taken_at_s=now_s - 0.25,
        instances={
            "gpu": InstanceLoad(
                read_at_s=now_s - 0.5,
                running=12,
                waiting=3,
                kv_usage_ratio=0.43,
                generation_tokens_per_s=812.5,
                prompt_tokens_per_s=90.0,
                preemptions=1,
            ),
            "cpu": InstanceLoad(read_at_s=now_s - 40.0, running=2, kv_usage_ratio=0.015, error="connection refused"),
        },
        gpus=(
            GpuLoad(
                index=0,
                name="NVIDIA A100-SXM4-80GB",
                uuid="GPU-0",
                busy_ratio=0.97,
                memory_used_bytes=70 * GIB,
                memory_total_bytes=80 * GIB,
                power_w=312.0,
                temperature_c=61.0,
            ),
            GpuLoad(
                index=1,
                name="NVIDIA A100-SXM4-80GB",
                uuid="GPU-1",
                busy_ratio=None,
                memory_used_bytes=0,
                memory_total_bytes=80 * GIB,
            ),
        ),
        gpu_error="GPU 2 is lost",
        host=HostLoad(
            cpu_count=160,
            cpu_busy_ratio=0.13,
            memory_used_bytes=21 * GIB,
            memory_total_bytes=512 * GIB,
            shm_used_bytes=GIB,
            shm_total_bytes=64 * GIB,
        ),
    )
