# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A topology as data for drawing it (the dashboard)."""

from collections.abc import Mapping, Sequence
from typing import Any

from syshaxd.core.numa.draw import device_owners
from syshaxd.core.numa.model import Node, NumaTopology


def picture(
    topology: NumaTopology, owners: Mapping[str, Sequence[int]], gpu_owners: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Returns the drawing's data, ready for JSON.

    Args:
        topology: The host.
        owners: CPUs by owner; offline CPUs are left out.
        gpu_owners: PCI addresses of GPUs by owner.

    Returns:
        `nodes` in order, each with `id`, `socket` (None if unknown), `memory_bytes` (None if unknown), `cores` (each a
        list of the CPUs that are its hardware threads) and `accelerators`, each with its `owners`; `owners` of CPUs;
        `unplaced` accelerators, whose node is not known; `offline` CPUs.
    """
    online, drawn = set(topology.online), device_owners(gpu_owners)
    return {
        "nodes": [_node(node, topology, drawn) for node in topology.nodes],
        "owners": {name: sorted(online.intersection(cpus)) for name, cpus in owners.items()},
        "unplaced": _accelerators(None, topology, drawn),
        "offline": list(topology.offline),
    }


def _node(node: Node, topology: NumaTopology, drawn: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "id": node.id,
        "socket": next(
            (index for index, cpus in enumerate(topology.sockets) if node.cpus and node.cpus[0] in cpus), None
        ),
        "memory_bytes": node.memory_bytes,
        "cores": [list(core) for core in dict.fromkeys(topology.core_of(cpu) for cpu in node.cpus)],
        "accelerators": _accelerators(node.id, topology, drawn),
    }


def _accelerators(node: int | None, topology: NumaTopology, drawn: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    return [
        {
            "kind": device.kind,
            "vendor": device.vendor,
            "address": device.address,
            "owners": drawn.get(device.address, []),
        }
        for device in topology.accelerators
        if device.node == node
    ]
