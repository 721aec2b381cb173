# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import json

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.numa import Accelerator, AcceleratorKind, Node, NumaTopology, picture
from tests.core.topologies import GIB, KUNPENG, on_any_host, topologies


def test_the_documented_server() -> None:
    drawn = picture(KUNPENG, {"cpu": range(4, 160), "gpu": range(4)}, {})
    assert [node["id"] for node in drawn["nodes"]] == [0, 1, 2, 3]
    assert drawn["nodes"][1]["cores"] == [[cpu] for cpu in range(40, 80)]
    assert drawn["owners"]["gpu"] == [0, 1, 2, 3]


def test_threads_sockets_and_accelerators() -> None:
    gpu = Accelerator(kind=AcceleratorKind.GPU, address="0000:17:00.0", vendor="NVIDIA", node=1)
    npu = Accelerator(kind=AcceleratorKind.NPU, address="0000:18:00.0", vendor="Huawei", node=None)
    host = NumaTopology(
        nodes=(Node(id=0, cpus=(0, 1, 4, 5), memory_bytes=GIB), Node(id=1, cpus=(2, 3)), Node(id=2, memory_bytes=GIB)),
        cores=((0, 4), (1, 5), (2,), (3,)),
        sockets=((0, 1, 4, 5), (2, 3)),
        offline=(6, 7),
        accelerators=(gpu, npu),
    )
    assert picture(host, {"cpu": (2, 3, 6)}, {"gpu": ("0000:17:00.0",)}) == {
        "nodes": [
            {"id": 0, "socket": 0, "memory_bytes": GIB, "cores": [[0, 4], [1, 5]], "accelerators": []},
            {
                "id": 1,
                "socket": 1,
                "memory_bytes": None,
                "cores": [[2], [3]],
                "accelerators": [{"kind": "gpu", "vendor": "NVIDIA", "address": "0000:17:00.0", "owners": ["gpu"]}],
            },
            {"id": 2, "socket": None, "memory_bytes": GIB, "cores": [], "accelerators": []},
        ],
        "owners": {"cpu": [2, 3]},
        "unplaced": [{"kind": "npu", "vendor": "Huawei", "address": "0000:18:00.0", "owners": []}],
        "offline": [6, 7],
    }


@on_any_host
@given(topologies(), st.data())
def test_each_online_cpu_is_drawn_once_on_its_node_and_each_accelerator_once(
    host: NumaTopology, data: st.DataObject
) -> None:
    cpus = data.draw(st.sets(st.integers(0, 1100)))
    drawn = json.loads(json.dumps(picture(host, {"one": tuple(cpus)}, {})))
    for node in drawn["nodes"]:
        assert sorted(cpu for core in node["cores"] for cpu in core) == [*host.node(node["id"]).cpus]
    assert drawn["owners"]["one"] == sorted(cpus.intersection(host.online))
    devices = [*drawn["unplaced"], *(device for node in drawn["nodes"] for device in node["accelerators"])]
    assert sorted(device["address"] for device in devices) == sorted(device.address for device in host.accelerators)
