# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans which instance gets which GPUs: no more of a GPU's memory than it has, and GPUs of one node together."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ALWAYS = ""
"""The group of instances that run all the time."""
_MARGIN = 1e-9
"""For sums of decimal fractions such as 0.7 + 0.2 + 0.1."""
_UNKNOWN_DISTANCE = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that instances may get."""

    name: str
    node: int | None = None
    """The NUMA node that it is near to; None: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWish:
    """What an instance needs."""

    count: int
    share: float
    """Of the memory of each of its GPUs, 0 to 1."""
    present: tuple[str, ...] = ()
    """The GPUs that it has already."""
    group: str = ALWAYS
    """Instances of different groups never run together; those that always run are beside each group."""


def fits(shares: float) -> bool:
    """Whether a GPU's memory suffices for instances whose shares of it add up to this."""
    return shares <= 1 + _MARGIN


def shares_beside(used: Mapping[str, float], group: str) -> float:
    """The largest share of a GPU that is in use while an instance of this group runs, by group."""
    in_turns = [share for other, share in used.items() if other != ALWAYS and group in {ALWAYS, other}]
    return used.get(ALWAYS, 0.0) + max(in_turns, default=0.0)


def plan_gpus(
    gpus: Sequence[Gpu],
    wishes: Mapping[str, GpuWish],
    taken: Mapping[str, Mapping[str, float]],
    distance: Callable[[int, int], int],
) -> dict[str, tuple[str, ...]]:
    """Returns the names of each instance's GPUs; an instance for which there are too few is absent.

    An instance keeps the GPUs that it has, unless another would then get none. Instances get GPUs of their own while
    there are any, and share one only if their shares of its memory fit. Those that need most choose first. The GPUs of
    one instance are on one node if possible, otherwise on near ones; whole nodes are left to others.

    Args:
        gpus: All that may be given away, in order of preference.
        wishes: What is needed, by instance.
        taken: Shares of GPUs that others have, by name and by the group of these others.
        distance: Between two NUMA nodes.
    """
    ways = ((keep, pack) for keep in (True, False) for pack in (False, True))
    plans = (_plan(gpus, wishes, taken, distance, keep=keep, pack=pack) for keep, pack in ways)
    fullest: dict[str, tuple[str, ...]] = {}
    for plan in plans:
        if len(plan) == len(wishes):
            return plan
        fullest = max(fullest, plan, key=len)
    return fullest


def _plan(
    gpus: Sequence[Gpu],
    wishes: Mapping[str, GpuWish],
    taken: Mapping[str, Mapping[str, float]],
    distance: Callable[[int, int], int],
    *,
    keep: bool,
    pack: bool,
) -> dict[str, tuple[str, ...]]:
    """One plan; with `pack` on as few GPUs as possible."""
    used = {gpu.name: defaultdict(float, taken.get(gpu.name, {})) for gpu in gpus}
    plan: dict[str, tuple[str, ...]] = {}

    def has_room(name: str, wish: GpuWish) -> bool:
        return name in used and fits(shares_beside(used[name], wish.group) + wish.share)

    def give(instance: str, names: tuple[str, ...]) -> None:
        plan[instance] = names
        for name in names:
            used[name][wishes[instance].group] += wishes[instance].share

    for instance, wish in wishes.items():
        if keep and len(set(wish.present)) == wish.count and all(has_room(name, wish) for name in wish.present):
            give(instance, wish.present)
    waiting = [instance for instance in wishes if instance not in plan]
    for instance in sorted(waiting, key=lambda each: (-wishes[each].count, -wishes[each].share)):
        wish = wishes[instance]
        able = [gpu for gpu in gpus if has_room(gpu.name, wish)]
        if len(able) >= wish.count:
            shares = {gpu.name: sum(used[gpu.name].values()) for gpu in able}
            load = {name: -share if pack else share for name, share in shares.items()}
            limit = sorted(load.values())[wish.count - 1]
            give(instance, _near([gpu for gpu in able if load[gpu.name] <= limit], wish.count, distance))
    return {instance: plan[instance] for instance in wishes if instance in plan}


def _near(gpus: Sequence[Gpu], count: int, distance: Callable[[int, int], int]) -> tuple[str, ...]:
    """This many of the GPUs, as near each other as possible, in their own order."""
    on_node = {gpu.node: sum(other.node == gpu.node for other in gpus) for gpu in gpus}

    def between(one: int | None, other: int | None) -> int:
        if one is None or other is None:
            return 0 if one == other else _UNKNOWN_DISTANCE
        return distance(one, other)

    def around(centre: int | None) -> list[Gpu]:
        return sorted(gpus, key=lambda gpu: (between(centre, gpu.node), on_node[gpu.node], gpus.index(gpu)))[:count]

    def cost(chosen: Sequence[Gpu]) -> tuple[int, int]:
        spread = sum(between(one.node, other.node) for one in chosen for other in chosen)
        return spread, sum(on_node[gpu.node] for gpu in chosen)

    best = min((around(node) for node in on_node), key=cost)
    return tuple(gpu.name for gpu in gpus if gpu in best)
