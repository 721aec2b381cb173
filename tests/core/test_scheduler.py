# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Placement: each rule by example, and what holds for all loads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement import scheduler
from syshaxd.core.placement.decision import InferenceRequest, Reject, RunOn, Wait
from syshaxd.core.placement.rules import RULES, Policy, View
from syshaxd.core.types import InstanceSpec, Role
from tests.fakes.specs import external_spec


def _spec(name: str, role: Role, slots: int = 8) -> InstanceSpec:
    return external_spec(name, role=role, max_num_seqs=slots)


GPU, CPU = _spec("gpu", Role.GPU), _spec("cpu", Role.CPU)
REQUEST = InferenceRequest(request_id="r", model="m", stream=True)


def _load(**fields: float) -> InstanceLoad:
    return InstanceLoad(read_at_s=1.0, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpu", "cpu", "inflight", "instance", "reason"),
    [
        ({}, {}, {}, "gpu", "has room"),
        ({"running": 7}, {}, {"gpu": 7}, "gpu", "has room"),
        ({}, {}, {"gpu": 8}, "cpu", "8 of 8 slots"),
        ({"running": 8}, {}, {}, "cpu", "8 of 8 slots"),
        ({"running": 3, "waiting": 2}, {}, {"gpu": 5}, "cpu", "2 wait behind 3"),
        ({"waiting": 2}, {}, {"gpu": 2}, "gpu", "has room"),
        ({"running": 3, "kv_usage_ratio": 0.95}, {}, {"gpu": 3}, "cpu", "KV cache 95%"),
        ({"running": 8}, {"running": 8}, {"gpu": 8, "cpu": 8}, "gpu", "cpu: 8 of 8"),
        ({"running": 8}, {"waiting": 1}, {"gpu": 8}, "gpu", "cpu: 1 wait"),
        ({"running": 8}, {"running": 2, "generation_tokens_per_s": 3.0}, {"gpu": 8, "cpu": 2}, "gpu", "under 10"),
        ({"running": 8}, {"running": 2, "generation_tokens_per_s": 30.0}, {"gpu": 8, "cpu": 2}, "cpu", "has room"),
    ],
)
def test_each_rule(
    gpu: dict[str, float], cpu: dict[str, float], inflight: dict[str, int], instance: str, reason: str
) -> None:
    snapshot = Snapshot(instances={"gpu": _load(**gpu), "cpu": _load(**cpu)})
    policy = Policy(name="turn", cpu_throughput_threshold=10.0)
    view = View(policy=policy, snapshot=snapshot, inflight=inflight, candidates=(GPU, CPU))
    decision = scheduler.decide(view, REQUEST)
    assert isinstance(decision, RunOn)
    assert decision.instance == instance
    assert reason in "; ".join(decision.reasons)


def test_over_the_backlog_a_request_waits() -> None:
    full = View(policy=Policy(backlog_ratio=0.25), inflight={"gpu": 10, "cpu": 8}, candidates=(GPU, CPU))
    assert isinstance(scheduler.decide(full, REQUEST), Wait)
    assert isinstance(scheduler.decide(structs.replace(full, inflight={"gpu": 9, "cpu": 8}), REQUEST), RunOn)


def test_without_a_gpu_instance_the_cpu_serves_alone() -> None:
    decision = scheduler.decide(View(policy=Policy(), candidates=(CPU,)), REQUEST)
    assert decision == RunOn("cpu", ("no GPU instance is ready",))


def test_without_any_instance_it_is_refused() -> None:
    assert isinstance(scheduler.decide(View(policy=Policy()), REQUEST), Reject)


def test_a_pinned_request_waits_for_its_instance_or_is_refused() -> None:
    pinned = InferenceRequest(request_id="r", model="m", stream=True, pinned="cpu")
    view = View(policy=Policy(), candidates=(GPU, CPU))
    assert isinstance(scheduler.decide(view, pinned), RunOn)
    assert isinstance(scheduler.decide(structs.replace(view, inflight={"cpu": 10}), pinned), Wait)
    assert isinstance(scheduler.decide(structs.replace(view, candidates=(GPU,)), pinned), Reject)


loads = st.builds(
    InstanceLoad,
    read_at_s=st.just(1.0),
    running=st.integers(0, 20),
    waiting=st.integers(0, 20),
    kv_usage_ratio=st.floats(0, 1),
    generation_tokens_per_s=st.floats(0, 100),
)


@given(
    st.sampled_from(sorted(set(RULES) - {"cpu-only"})),
    st.dictionaries(st.sampled_from(["gpu", "cpu", "gpu2"]), loads),
    st.dictionaries(st.sampled_from(["gpu", "cpu", "gpu2"]), st.integers(0, 12)),
    st.lists(st.sampled_from([GPU, CPU, _spec("gpu2", Role.GPU, 3)]), unique=True),
)
def test_a_place_is_never_given_beyond_the_limit_and_never_withheld_below_it(
    policy: str, instances: dict[str, InstanceLoad], inflight: dict[str, int], candidates: list[InstanceSpec]
) -> None:
    view = View(
        policy=Policy(name=policy), snapshot=Snapshot(instances=instances), inflight=inflight, candidates=candidates
    )
    decision = scheduler.decide(view, REQUEST)
    rooms = {spec.name: scheduler.room(view, spec) for spec in candidates}
    if isinstance(decision, RunOn):
        assert rooms[decision.instance].has_place
        assert decision.reasons
    elif isinstance(decision, Wait):
        gpus = [spec for spec in candidates if spec.role is Role.GPU] or candidates
        assert not any(rooms[spec.name].has_place for spec in gpus)
    else:
        assert not candidates
