# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a decision and the queue cost: 64 instances of 8 models, 5,000 requests in flight, queues of any length.

Run it from the repository's root: `.venv/bin/python benchmarks/admission/run.py`.
"""

import itertools
import random
import time
from collections.abc import Callable, Sequence

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.admission import Admission
from syshaxd.core.placement.claims import Claim, Effect, Fleet, Granted
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.slots import Grant
from syshaxd.core.types import Device, InstanceSpec, Role, RuntimeKind

MODELS, GPUS, CPUS, SLOTS, INFLIGHT = 8, 6, 2, 256, 5_000


def specs() -> tuple[InstanceSpec, ...]:
    """Six GPUs and two CPUs for each model."""
    roles = [Role.GPU] * GPUS + [Role.CPU] * CPUS
    return tuple(
        InstanceSpec(
            name=f"m{model}-{number}",
            role=role,
            device=Device.CUDA if role is Role.GPU else Device.CPU,
            runtime=RuntimeKind.EXTERNAL,
            model="",
            served_model=f"m{model}",
            host="127.0.0.1",
            port=1,
            max_num_seqs=SLOTS,
        )
        for model in range(MODELS)
        for number, role in enumerate(roles)
    )


class Bench:
    """An Admission with requests in flight, and some that wait."""

    def __init__(self, policy: str, *, per_model: int) -> None:
        all_specs = specs()
        self.by_model = {
            model: tuple(spec for spec in all_specs if spec.served_model == model)
            for model in {spec.served_model for spec in all_specs}
        }
        pairs = {
            (one.name, other.name) for its in self.by_model.values() for one, other in itertools.permutations(its, 2)
        }
        loads = {spec.name: InstanceLoad(read_at_s=1.0, running=70, kv_usage_ratio=0.3) for spec in all_specs}
        self.fleet = Fleet(
            {spec.name: spec for spec in all_specs},
            all_specs,
            lambda request, _: self.by_model[request.model],
            frozenset(pairs),
            Snapshot(instances=loads),
            0.0,
        )
        self.admission = Admission(Policy(name=policy), max_queue_size=10**9)
        self.grants: list[Grant] = []
        self.claims = [self.arrive(f"m{number % MODELS}") for number in range(per_model * MODELS)]

    def arrive(self, model: str) -> Claim:
        """A request comes."""
        request = InferenceRequest(
            request_id="", model=model, stream=True, prompt_tokens=500, conversation=random.randrange(1, 10_000)
        )
        claim = Claim(request)
        self.carry_out(self.admission.arrive(claim, self.fleet))
        return claim

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Keeps what is granted."""
        self.grants += [effect.grant for effect in effects if isinstance(effect, Granted)]

    def end_one(self) -> None:
        """A request ends, and others get its slot."""
        self.grants.pop(random.randrange(len(self.grants))).release()
        self.carry_out(self.admission.admit(self.fleet))


def microseconds(act: Callable[[], object], repeats: int = 5_000) -> float:
    """CPU time of one call: the least of five runs, as other programs on the host only add to it."""
    found = []
    for _ in range(5):
        began_s = time.process_time()
        for _ in range(repeats // 5):
            act()
        found.append((time.process_time() - began_s) / (repeats // 5) * 1e6)
    return min(found)


def measure_decisions(policy: str) -> None:
    """Prints what a decision costs, and a request's coming and going."""
    bench = Bench(policy, per_model=INFLIGHT // MODELS)
    request = bench.claims[0].request

    def turn() -> None:
        bench.arrive(f"m{random.randrange(MODELS)}")
        bench.end_one()

    print(f"{policy}: {sum(bench.admission.inflight.values())} in flight on {len(bench.fleet.specs)} instances")
    print(f"  a decision: {microseconds(lambda: bench.admission.decide(request, bench.fleet)):.0f} us")
    print(f"  a request comes and another ends: {microseconds(turn):.0f} us")


def measure_queue(waiting: int) -> None:
    """Prints what a queue of this length costs."""
    bench = Bench("gpu-only", per_model=0)
    room = GPUS * (SLOTS + SLOTS // 4)
    claims = [bench.arrive("m0") for _ in range(room + waiting)][room:]
    random.shuffle(claims)
    leaving = iter(claims)
    ends = microseconds(bench.end_one, 250)
    comes = microseconds(lambda: bench.arrive("m0"), 250)
    leaves = microseconds(lambda: bench.admission.give_up(next(leaving)), 250)
    print(
        f"{waiting} waiting: a slot is granted in {ends:.0f} us, one comes in {comes:.0f}, one leaves in {leaves:.1f}"
    )


def main() -> None:
    """Prints the figures."""
    random.seed(1)
    for policy in ("cost", "turn"):
        measure_decisions(policy)
    for waiting in (1_000, 10_000, 100_000):
        measure_queue(waiting)


if __name__ == "__main__":
    main()
