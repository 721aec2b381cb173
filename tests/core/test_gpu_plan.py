# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The plan of GPUs: none is promised twice, instances keep theirs, and those of one instance are near to each other."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.numa import ALWAYS, Gpu, GpuWish, fits, plan_gpus

EIGHT = tuple(Gpu(name=str(number), node=number // 4) for number in range(8))
WHOLE = 0.9


def distance(one: int, other: int) -> int:
    return 10 if one == other else 20 + abs(one - other)


def wish(count: int = 1, share: float = WHOLE, *present: str) -> GpuWish:
    return GpuWish(count=count, share=share, present=present)


def plan(gpus: tuple[Gpu, ...], **wishes: GpuWish) -> dict[str, tuple[str, ...]]:
    return plan_gpus(gpus, wishes, {}, distance)


@st.composite
def hosts(draw: st.DrawFn) -> tuple[Gpu, ...]:
    nodes = draw(st.lists(st.sampled_from([None, 0, 1, 2, 3]), max_size=10))
    return tuple(Gpu(name=str(number), node=node) for number, node in enumerate(nodes))


shares = st.sampled_from([0.1, 0.2, 0.3, 0.45, 0.5, 0.7, 0.9, 1.0])
names = st.sampled_from([str(number) for number in range(12)])
wishes = st.builds(
    GpuWish,
    count=st.integers(1, 8),
    share=shares,
    present=st.lists(names, max_size=4, unique=True).map(tuple),
    group=st.sampled_from([ALWAYS, ALWAYS, "x", "y"]),
)
fleets = st.dictionaries(st.sampled_from("abcdefgh"), wishes, max_size=6)


@given(hosts(), fleets, st.dictionaries(names, st.dictionaries(st.sampled_from([ALWAYS, "x"]), shares), max_size=4))
def test_no_gpu_is_promised_to_more_than_its_memory_holds(
    gpus: tuple[Gpu, ...], fleet: dict[str, GpuWish], taken: dict[str, dict[str, float]]
) -> None:
    found = plan_gpus(gpus, fleet, taken, distance)
    for gpu in gpus:
        users = [fleet[name] for name, its in found.items() if gpu.name in its]
        for group in {user.group for user in users}:
            before = taken.get(gpu.name, {})
            shares_of = {ALWAYS: before.get(ALWAYS, 0.0), group: before.get(group, 0.0)}
            for user in users:
                if user.group in shares_of:
                    shares_of[user.group] += user.share
            assert fits(sum(shares_of.values()))
    for name, its in found.items():
        assert len(set(its)) == fleet[name].count
        assert set(its) <= {gpu.name for gpu in gpus}


@given(hosts(), fleets)
def test_instances_that_need_whole_gpus_all_get_them_if_there_are_enough(
    gpus: tuple[Gpu, ...], fleet: dict[str, GpuWish]
) -> None:
    fleet = {name: replace(each, share=WHOLE, group=ALWAYS) for name, each in fleet.items()}
    found = plan_gpus(gpus, fleet, {}, distance)
    assert (len(found) == len(fleet)) == (sum(each.count for each in fleet.values()) <= len(gpus))


@given(hosts(), fleets, fleets)
def test_an_instance_that_stays_keeps_its_gpus(
    gpus: tuple[Gpu, ...], before: dict[str, GpuWish], after: dict[str, GpuWish]
) -> None:
    before = {name: replace(each, present=(), group=ALWAYS) for name, each in before.items()}
    first = plan_gpus(gpus, before, {}, distance)
    unchanged = {name: replace(before[name], present=its) for name, its in first.items()}
    assert plan_gpus(gpus, unchanged, {}, distance) == first
    new = {name: replace(each, share=WHOLE, group=ALWAYS) for name, each in after.items() if name not in before}
    second = plan_gpus(gpus, unchanged | new, {}, distance)
    if len(second) == len(unchanged) + len(new) and all(each.share == WHOLE for each in unchanged.values()):
        assert {name: second[name] for name in first} == first


@given(hosts(), st.integers(1, 4))
def test_the_gpus_of_an_instance_are_on_one_node_if_one_has_enough(gpus: tuple[Gpu, ...], count: int) -> None:
    found = plan(gpus, a=wish(count))
    nodes = {gpu.name: gpu.node for gpu in gpus}
    if any([*nodes.values()].count(node) >= count for node in nodes.values()):
        assert len({nodes[name] for name in found["a"]}) == 1


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ({"a": wish(2), "b": wish(4)}, {"a": ("4", "5"), "b": ("0", "1", "2", "3")}),
        ({"a": wish(3), "b": wish(1), "c": wish(4)}, {"a": ("4", "5", "6"), "b": ("7",), "c": ("0", "1", "2", "3")}),
        ({"a": wish(8, 0.8), "b": wish(1, 0.1)}, {"a": tuple("01234567"), "b": ("0",)}),
        ({"a": wish(1, 0.4), "b": wish(1, 0.4)}, {"a": ("0",), "b": ("1",)}),
        ({"a": wish(8), "b": wish(1, 0.2)}, {"a": tuple("01234567")}),
        (
            {"a": wish(4, WHOLE, "2", "3", "4", "5"), "b": wish(4)},
            {"a": ("2", "3", "4", "5"), "b": ("0", "1", "6", "7")},
        ),
        ({"a": wish(2, WHOLE, "8", "9")}, {"a": ("0", "1")}),
    ],
)
def test_plans_on_two_nodes_of_four(fleet: dict[str, GpuWish], expected: dict[str, tuple[str, ...]]) -> None:
    assert plan(EIGHT, **fleet) == expected


def test_gpus_are_packed_if_there_are_too_few_otherwise() -> None:
    fleet = {name: wish(1, share) for name, share in zip("abcde", (0.5, 0.5, 0.4, 0.3, 0.3), strict=True)}
    assert len(plan(EIGHT[:2], **fleet)) == 5


def test_an_instance_moves_only_if_another_would_get_none() -> None:
    assert plan(EIGHT[:2], a=wish(1, 0.5, "0"), b=wish(1, 0.5, "1"), c=wish(1)) == {
        "a": ("1",),
        "b": ("1",),
        "c": ("0",),
    }


def test_models_that_take_turns_share_gpus_only_if_there_are_too_few() -> None:
    a, b = (GpuWish(count=2, share=WHOLE, group=group) for group in ("a", "b"))
    assert plan(EIGHT[:4], a=a, b=b) == {"a": ("0", "1"), "b": ("2", "3")}
    assert plan(EIGHT[:3], a=a, b=b, c=wish()) == {"a": ("0", "1"), "b": ("0", "1"), "c": ("2",)}
    assert plan(EIGHT[:2], a=a, b=b, c=wish()).keys() == {"a", "b"}


def test_decimal_shares_of_a_whole_gpu_fit() -> None:
    assert plan(EIGHT[:1], a=wish(1, 0.7), b=wish(1, 0.2), c=wish(1, 0.1)).keys() == {"a", "b", "c"}
