# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A topology as data for drawing it (the dashboard)."""

from collections.abc import Mapping, Sequence
from typing import Any

from syshaxd.core.numa.model import Node, NumaTopology


def picture(topology: NumaTopology, owners: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns the drawing's data, ready for JSON.

    Args:
        topology: The host.
        owners: CPUs by owner; offline CPUs are left out.

    Returns:
        `nodes` in order, each with `id`, `socket` (None if unknown), `memory_bytes` (None if unknown), `cores` (each a
        list of the CPUs that are its hardware threads) and `accelerators`; `owners`; `unplaced` accelerators, whose
        node is not known; `offline` CPUs.
    """
    online = set(topology.online)
    return {
        "nodes": [_node(node, topology) for node in topology.nodes],
        "owners": {name: sorted(online.intersection(cpus)) for name, cpus in owners.items()},
        "unplaced": _accelerators(None, topology),
        "offline": list(topology.offline),
    }


def _node(node: Node, topology: NumaTopology) -> dict[str, Any]:
    return {
        "id": node.id,
        "socket": next(
            (index for index, cpus in enumerate(topology.sockets) if node.cpus and node.cpus[0] in cpus), None
        ),
        "memory_bytes": node.memory_bytes,
        "cores": [list(core) for core in dict.fromkeys(topology.core_of(cpu) for cpu in node.cpus)],
        "accelerators": _accelerators(node.id, topology),
    }


def _accelerators(node: int | None, topology: NumaTopology) -> list[dict[str, str]]:
    return [
        {"kind": device.kind, "vendor": device.vendor, "address": device.address}
        for device in topology.accelerators
        if device.node == node
    ]
