# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The order in which instances are started and, reversed, stopped."""

from collections.abc import Sequence

from syshaxd.core.types import InstanceSpec


def levels(specs: Sequence[InstanceSpec]) -> list[tuple[str, ...]]:
    """Names by depth: those that depend on nothing, those that depend on them, and so on."""
    depth: dict[str, int] = {}
    depends_on = {spec.name: spec.depends_on for spec in specs}

    def depth_of(name: str) -> int:
        if name not in depth:
            other = depends_on[name]
            depth[name] = 0 if other is None else depth_of(other) + 1
        return depth[name]

    names: dict[int, list[str]] = {}
    for spec in specs:
        names.setdefault(depth_of(spec.name), []).append(spec.name)
    return [tuple(names[level]) for level in sorted(names)]
