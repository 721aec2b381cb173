# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Slots over all orders of taking, releasing, moving and failing: what is counted is what is held."""

from contextlib import ExitStack, suppress

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.loads import HostLoad, InstanceLoad, Snapshot
from syshaxd.core.placement.decision import RunOn
from syshaxd.core.placement.slots import Grant, Slot, Slots
from tests.fakes.specs import make_spec

GPU, CPU = make_spec("gpu"), make_spec("cpu")
STEPS = ("take", "add", "add late", "release slot", "release grant", "fail")


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([GPU, CPU]), st.integers(0, 100)), max_size=60))
def test_nothing_is_left_whatever_happens(steps: list[tuple[str, object, int]]) -> None:
    slots, released = Slots(), []
    with ExitStack() as stack:
        grants: list[tuple[Grant, list[Slot]]] = []
        for step, spec, pick in steps:
            assert spec in (GPU, CPU)
            if step == "take" or not grants:
                slot = slots.take(spec)  # type: ignore[arg-type]
                grant = Grant(RunOn("gpu"), (slot,), released=lambda: released.append(1))
                grants.append((stack.enter_context(grant), [slot]))
                continue
            grant, taken = grants[pick % len(grants)]
            match step:
                case "add":
                    taken.append(slots.take(spec))  # type: ignore[arg-type]
                    grant.add(taken[-1])
                case "add late":
                    grant.release()
                    grant.add(slots.take(spec))  # type: ignore[arg-type]
                    taken.clear()
                case "release slot":
                    taken[pick % len(taken)].release() if taken else None
                case "release grant":
                    grant.release()
                    taken.clear()
                case "fail":
                    with suppress(ZeroDivisionError), grant:
                        _ = 1 / 0
                    taken.clear()
    assert len(released) == len(grants)
    assert not slots.any_taken
    assert not any(slots.counts.values())


def test_a_slot_is_counted_once_however_often_it_is_released() -> None:
    slots, seen = Slots(), []
    slots.subscribe(seen.append)
    one, other = slots.take(GPU), slots.take(GPU)
    assert slots.count("gpu") == 2
    one.release()
    one.release()
    assert (slots.count("gpu"), seen) == (1, ["gpu"])
    other.release()
    assert (slots.count("gpu"), slots.count("cpu")) == (0, 0)


def test_only_a_reading_of_the_instance_itself_knows_what_has_ended_there() -> None:
    slots = Slots()
    reading = Snapshot(taken_at_s=1.0, instances={"gpu": InstanceLoad(read_at_s=1.0, running=8)})
    slots.observe_loads(reading)
    slots.take(GPU).release()
    host = HostLoad(
        cpu_count=1, cpu_busy_ratio=0, memory_used_bytes=0, memory_total_bytes=1, shm_used_bytes=0, shm_total_bytes=1
    )
    slots.observe_loads(Snapshot(taken_at_s=2.0, instances=reading.instances, host=host))
    assert slots.latest().ended["gpu"] == 1
    slots.observe_loads(Snapshot(taken_at_s=3.0, instances={"gpu": InstanceLoad(read_at_s=3.0, running=7)}))
    assert not slots.latest().ended.get("gpu")


def test_what_was_taken_at_one_moment_does_not_change() -> None:
    slots = Slots()
    before = slots.latest()
    slot = slots.take(GPU, 10.0)
    taken = slots.latest()
    assert taken is slots.latest(), "nothing has changed"
    slot.release()
    assert (before.counts, taken.counts, slots.latest().counts) == ({}, {"gpu": 1}, {"gpu": 0})
    assert (taken.ended, slots.latest().ended) == ({}, {"gpu": 1})
    assert (taken.kv_tokens, slots.latest().kv_tokens) == ({"gpu": 10.0}, {"gpu": 0.0})
