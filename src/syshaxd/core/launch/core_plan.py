# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans the cores of all instances with `cores: auto`: models that take turns may share them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from syshaxd.core.errors import ConfigError, ConfigFault, NoBindingError
from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    Constraints,
    Dialect,
    NumaTopology,
    plan_binding,
    reserve_cores,
    share_out,
)
from syshaxd.core.numa.binding import THREADS
from syshaxd.core.numa.reading import Cpus


@dataclass(frozen=True, slots=True)
class Turn:
    """An on-demand model and its group. Of a group, one model runs at a time."""

    group: int
    model: str

    def excludes(self, other: "Turn | None") -> bool:
        """Whether an instance of this model never runs beside one of the other."""
        return other is not None and self.group == other.group and self.model != other.model


def plan_cores(
    settings: Mapping[str, BindingSettings],
    constraints: Mapping[str, Constraints],
    topology: NumaTopology,
    *,
    gpu_cores: int,
    turns: Mapping[str, Turn],
) -> dict[str, Binding]:
    """Plans one instance after the other, GPU instances first: they need few cores, but near ones.

    Those that may have any number of threads share out what is left when all others are planned.

    Args:
        settings: Of the instances to plan.
        constraints: What limits each of them; CPUs are taken also by instances that it never runs beside.
        topology: The host.
        gpu_cores: What a GPU instance gets.
        turns: Which instances never run beside each other; one that is absent runs beside all.

    Raises:
        ConfigError: With each instance for which there is no binding.
    """
    planned: dict[str, Binding] = {}
    faults: list[ConfigFault] = []
    seats = _seats(settings, turns)
    for at, seat in enumerate(seats):
        later = [names[0] for names in seats[at + 1 :]]
        for name in seat:
            taken = {**constraints[name].taken, **{other: binding.cpuset for other, binding in planned.items()}}
            limits = replace(constraints[name], taken=_beside(name, taken, turns))
            try:
                if later and _is_open(settings[name]):
                    parts = share_out(topology, limits, len(seats) - at)
                    limits = replace(limits, taken={**limits.taken, **dict(zip(later, parts[1:], strict=True))})
                planned[name] = _plan(settings[name], limits, topology, gpu_cores)
            except NoBindingError as error:
                faults.append(ConfigFault(f"services.{name}.cores", f"{error}; set the cores of every instance"))
    if faults:
        raise ConfigError(tuple(faults))
    return planned


def _seats(settings: Mapping[str, BindingSettings], turns: Mapping[str, Turn]) -> list[list[str]]:
    """The instances in the order of planning; those that take turns at the same cores are together."""

    def rank(name: str) -> tuple[bool, bool]:
        return settings[name].dialect is not Dialect.PLAIN, _is_open(settings[name])

    by_group: dict[object, dict[str, list[str]]] = {}
    for name in settings:
        turn = turns.get(name)
        group: object = name if turn is None else (rank(name), turn.group)
        by_group.setdefault(group, {}).setdefault("" if turn is None else turn.model, []).append(name)
    seats = [
        [name for name in names if name is not None]
        for models in by_group.values()
        for names in zip_longest(*models.values())
    ]
    return sorted(seats, key=lambda names: rank(names[0]))


def _beside(name: str, taken: Mapping[str, Cpus], turns: Mapping[str, Turn]) -> dict[str, Cpus]:
    """What is taken of the CPUs while an instance runs."""
    turn = turns.get(name)
    return {other: cpus for other, cpus in taken.items() if turn is None or not turn.excludes(turns.get(other))}


def _is_open(settings: BindingSettings) -> bool:
    """Whether an instance takes as many CPUs as it gets."""
    return settings.dialect is not Dialect.PLAIN and not settings.env.get(THREADS)


def _plan(settings: BindingSettings, constraints: Constraints, topology: NumaTopology, gpu_cores: int) -> Binding:
    if settings.dialect is Dialect.PLAIN:
        cpus = reserve_cores(topology, {"gpu": gpu_cores}, constraints)["gpu"]
        return Binding(dialect=Dialect.PLAIN, groups=(cpus,), cpuset=cpus)
    threads = settings.env.get(THREADS, "")
    return plan_binding(
        topology,
        dialect=settings.dialect,
        threads=int(threads) if threads.isascii() and threads.isdecimal() else None,
        ranks=settings.ranks,
        constraints=constraints,
    )
