# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""In which order changed instances are exchanged: of each model one at a time, so that the others serve it."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from syshaxd.core.types import InstanceSpec

Round = tuple[str, ...]


def rounds(before: Sequence[InstanceSpec], after: Sequence[InstanceSpec], replaced: Sequence[str]) -> list[Round]:
    """Returns the instances to exchange together, round by round.

    Args:
        before: The present instances.
        after: The new ones.
        replaced: Those of both that differ.

    Returns:
        One round with all of them, if one needs what another one has, or depends on another one.
    """
    old, new = ({spec.name: spec for spec in specs} for specs in (before, after))
    if any(_is_bound_to_others(new[name], old) for name in replaced):
        return [tuple(replaced)]
    models: dict[str, list[str]] = {}
    for name in replaced:
        models.setdefault(new[name].served_model, []).append(name)
    return [tuple(name for name in names if name is not None) for names in zip_longest(*models.values())]


def mixed(
    before: Sequence[InstanceSpec], after: Sequence[InstanceSpec], exchanged: Sequence[str]
) -> list[InstanceSpec]:
    """The instances after some rounds: the present ones, of which some have their new settings already."""
    new = {spec.name: spec for spec in after}
    return [new[spec.name] if spec.name in exchanged else spec for spec in before]


def _is_bound_to_others(spec: InstanceSpec, old: Mapping[str, InstanceSpec]) -> bool:
    """Whether it depends on another instance, or needs what another one has now and did not share with it."""
    mine = old[spec.name]
    if spec.depends_on or mine.depends_on or any(other.depends_on == spec.name for other in old.values()):
        return True
    others = [other for name, other in old.items() if name != spec.name]
    return any(
        other.port == spec.port
        or _newly_shared(spec.gpus, mine.gpus, other.gpus)
        or _newly_shared(spec.cores, mine.cores, other.cores)
        for other in others
    )


def _newly_shared(new: Sequence[object], old: Sequence[object], theirs: Sequence[object]) -> bool:
    return bool(set(new) & set(theirs) - set(old))
