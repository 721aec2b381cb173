# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans on any host: they pass the check, they are as good as can be, and they can be written and read again."""

from itertools import chain

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syshaxd.core.errors import NoBindingError, TopologyError
from syshaxd.core.numa import (
    Binding,
    BindingSettings,
    Constraints,
    Dialect,
    Node,
    NumaTopology,
    Rule,
    binding_of,
    check_binding,
    dialect_of,
    draw_topology,
    plan_binding,
    read_settings,
    reserve_cores,
)
from syshaxd.core.numa.cpulist import format_cpulist, format_stepped, parse_cpulist
from tests.core.topologies import GIB, KUNPENG, on_any_host, topologies

COMPUTING = st.sampled_from((Dialect.PATCHED, Dialect.STOCK))


@st.composite
def any_constraints(draw: st.DrawFn, topology: NumaTopology) -> Constraints:
    """Neighbours, limits and a model of some size."""
    online = topology.online
    allowed = draw(st.none() | st.sets(st.sampled_from(online), min_size=1))
    nodes = [node.id for node in topology.nodes]
    return Constraints(
        taken={"other": tuple(sorted(draw(st.sets(st.sampled_from(online), max_size=len(online) // 2))))},
        allowed_cpus=None if allowed is None else tuple(sorted(allowed)),
        allowed_nodes=draw(st.none() | st.just(tuple(nodes)) | st.just(tuple(nodes[: len(nodes) // 2 + 1]))),
        model_bytes=draw(st.sampled_from((0, GIB, 20 * GIB))),
        kv_cache_bytes=draw(st.sampled_from((0, 2 * GIB))),
    )


@on_any_host
@given(topologies(), COMPUTING, st.integers(1, 8), st.none() | st.integers(1, 300), st.data())
def test_whatever_is_planned_passes_the_check(
    topology: NumaTopology, dialect: Dialect, ranks: int, threads: int | None, data: st.DataObject
) -> None:
    constraints = data.draw(any_constraints(topology))
    ranks = ranks if dialect is Dialect.STOCK else 1
    try:
        binding = plan_binding(topology, dialect=dialect, ranks=ranks, threads=threads, constraints=constraints)
    except NoBindingError:
        return
    faults = check_binding(binding.settings({"NRC": "4", "SYSHAX_QUANTIZE": "q4_0"}), topology, constraints)
    assert [fault for fault in faults if fault.rule is not Rule.NODE_ORDER] == []
    assert threads in (None, len(binding.cpus))
    assert len(binding.groups) == ranks
    assert len({len(group) for group in binding.groups}) == 1


@on_any_host
@given(topologies(), COMPUTING, st.integers(1, 400))
def test_a_number_of_threads_that_does_not_go_is_answered_with_those_that_do(
    topology: NumaTopology, dialect: Dialect, threads: int
) -> None:
    try:
        plan_binding(topology, dialect=dialect, threads=threads)
    except NoBindingError as error:
        assume("can't be shared out evenly" in str(error))
        others = [int(word) for word in str(error).split(";")[1].split() if word.isdecimal()]
        assert others
        for other in others:
            assert len(plan_binding(topology, dialect=dialect, threads=other).cpus) == other


@on_any_host
@given(topologies())
def test_the_patched_plan_has_as_many_threads_as_can_be(topology: NumaTopology) -> None:
    cores = [
        sum(core[0] in node.cpus for core in topology.cores) for node in topology.nodes if node.cpus and node.has_memory
    ]
    cores.sort(reverse=True)
    assume(cores)
    best = max(count * cores[count - 1] for count in range(1, len(cores) + 1))
    assert len(plan_binding(topology, dialect=Dialect.PATCHED).cpus) == best


@on_any_host
@given(topologies(odd=False), st.integers(1, 4))
def test_the_stock_plan_gives_each_rank_a_node_and_leaves_it_a_core(topology: NumaTopology, ranks: int) -> None:
    assume(ranks <= len(topology.nodes))
    binding = plan_binding(topology, dialect=Dialect.STOCK, ranks=ranks)
    assert [len(topology.by_node(group)) for group in binding.groups] == [1] * ranks
    if len(topology.nodes[0].cpus) > len(topology.cores[0]):  # more than one core a node
        assert len(binding.spare) == ranks


@on_any_host
@given(topologies(), st.integers(0, 9), st.integers(0, 3))
def test_reserved_cores_are_whole_distinct_and_near_the_accelerators(
    topology: NumaTopology, for_gpu: int, for_daemon: int
) -> None:
    try:
        reserved = reserve_cores(topology, {"gpu": for_gpu, "daemon": for_daemon})
    except NoBindingError:
        return
    cpus = [*reserved["gpu"], *reserved["daemon"]]
    assert len(cpus) == len(set(cpus))
    assert set(cpus) == set(chain.from_iterable(topology.core_of(cpu) for cpu in cpus))
    homes = {device.node for device in topology.accelerators} - {None}
    if homes and cpus:

        def nearest(cpu: int) -> int:
            return min(topology.distance(home, topology.node_of(cpu)) for home in homes if home is not None)

        usable = [cpu for node in topology.nodes if node.has_memory for cpu in node.cpus]
        assert max(map(nearest, cpus)) <= min(map(nearest, set(usable) - set(cpus)), default=1000)


def test_without_accelerators_reservations_come_from_all_nodes_in_turns() -> None:
    assert reserve_cores(KUNPENG, {"gpu": 4, "daemon": 1}) == {"gpu": (39, 79, 119, 159), "daemon": (38,)}


@on_any_host
@given(st.sets(st.integers(0, 1023), min_size=1))
def test_lists_of_cpus_round_trip(cpus: set[int]) -> None:
    assert set(parse_cpulist(format_cpulist(cpus))) == cpus
    assert set(parse_cpulist(format_stepped(cpus))) == cpus
    assert len(format_stepped(cpus)) <= len(format_cpulist(cpus))


@pytest.mark.parametrize(
    ("cpus", "text"),
    [
        (range(8), "0-7"),
        (range(0, 40, 2), "0-38:2"),
        ([0, 2], "0,2"),
        ([5], "5"),
        ([0, 1, 2, 4, 6, 8], "0-2,4-8:2"),
        ([68, 76, 84, 85, 86], "68,76,84-86"),
        ([], ""),
    ],
)
def test_steps_are_written_where_there_are_some(cpus: list[int], text: str) -> None:
    assert format_stepped(cpus) == text


@on_any_host
@given(topologies(), COMPUTING, st.integers(1, 4))
def test_bindings_round_trip_through_their_settings(topology: NumaTopology, dialect: Dialect, ranks: int) -> None:
    try:
        binding = plan_binding(topology, dialect=dialect, ranks=ranks if dialect is Dialect.STOCK else 1)
    except NoBindingError:
        return
    settings = binding.settings({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "7"})
    assert settings.env["HF_HUB_OFFLINE"] == "1"
    assert dialect_of(settings.env, on_cpu=True) is dialect
    assert binding_of(read_settings(settings, topology), topology) == binding


def test_an_instance_on_a_gpu_keeps_its_environment_and_gets_a_cpu_set() -> None:
    binding = Binding(dialect=Dialect.PLAIN, groups=((36, 37),), cpuset=(36, 37), memory_nodes=(0,))
    assert binding.settings({"OMP_NUM_THREADS": "2"}) == BindingSettings(
        dialect=Dialect.PLAIN, env={"OMP_NUM_THREADS": "2"}, cpuset_cpus="36-37", cpuset_mems="0"
    )
    assert dialect_of({"CUSTOM_CPU_AFFINITY": "0"}, on_cpu=False) is Dialect.PLAIN


def test_changes_are_told_line_by_line() -> None:
    before = BindingSettings(dialect=Dialect.STOCK, env={"A": "1", "B": "2"}, ranks=1)
    after = BindingSettings(dialect=Dialect.STOCK, env={"A": "3"}, cpuset_cpus="0-3", ranks=2)
    assert before.changes_to(after) == ("A=3", "cpuset_cpus=0-3", "unset B", "tensor-parallel-size=2")
    assert after.changes_to(after) == ()


@pytest.mark.parametrize(
    ("nodes", "cores", "message"),
    [
        ([], [], "one or more nodes"),
        ([Node(id=1, cpus=(0,)), Node(id=0)], [(0,)], "ascending"),
        ([Node(id=0)], [], "no node has an online CPU"),
        ([Node(id=0, cpus=(0,)), Node(id=1, cpus=(0,))], [(0,)], "CPU 0: in more than one node"),
        ([Node(id=0, cpus=(0, 1))], [(0, 1), (1,)], "CPU 1: in more than one core"),
        ([Node(id=0, cpus=(0, 1))], [(0,)], "CPU 1: on a node but in no core"),
        ([Node(id=0, cpus=(0,), distances=(10, 20))], [(0,)], "node 0 has 2 distances, but there are 1 nodes"),
    ],
)
def test_a_topology_that_contradicts_itself_is_refused(
    nodes: list[Node], cores: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(TopologyError, match=message):
        NumaTopology(nodes=tuple(nodes), cores=tuple(cores))


def test_a_cpu_is_online_or_offline() -> None:
    with pytest.raises(TopologyError, match="CPU 0: said to be both"):
        NumaTopology(nodes=(Node(id=0, cpus=(0,)),), cores=((0,),), offline=(0,))


def test_the_documented_server_is_drawn_with_its_owners() -> None:
    assert draw_topology(KUNPENG, {"gpu": range(36, 40), "cpu": range(36)}) == (
        "160 CPUs, 160 cores, 4 NUMA nodes, 2 sockets, no SMT",
        "socket 0",
        "  node 0: CPUs 0-39, memory unknown",
        "       0 cccccccc cccccccc cccccccc cccccccc ccccgggg",
        "  node 1: CPUs 40-79, memory unknown",
        "      40 ........ ........ ........ ........ ........",
        "socket 1",
        "  node 2: CPUs 80-119, memory unknown",
        "      80 ........ ........ ........ ........ ........",
        "  node 3: CPUs 120-159, memory unknown",
        "     120 ........ ........ ........ ........ ........",
        "g gpu  c cpu  . free",
    )


def test_owners_of_the_same_cpus_are_drawn_as_one() -> None:
    assert "a a, b  c c  . free" in draw_topology(KUNPENG, {"a": range(4), "b": range(4), "c": range(4, 8)})


@on_any_host
@given(topologies())
def test_anything_can_be_drawn_and_every_cpu_is_in_the_drawing(topology: NumaTopology) -> None:
    lines = draw_topology(topology, {"": topology.online[:3], "cpu": topology.online[3:]})
    cells = "".join(line.split(maxsplit=1)[1] for line in lines if line.strip()[:1].isdecimal() and "CPU" not in line)
    drawn = [cell for cell in cells if cell in ("a", "c")]
    assert len(drawn) == len(topology.online)


@pytest.mark.parametrize(("nodes", "cores", "threads"), [(32, 32, 1), (32, 16, 2), (1, 1024, 1), (8, 32, 4)])
def test_the_largest_hosts(nodes: int, cores: int, threads: int) -> None:
    all_cores = [tuple(range(first, first + threads)) for first in range(0, nodes * cores * threads, threads)]
    shares = [all_cores[node * cores : (node + 1) * cores] for node in range(nodes)]
    topology = NumaTopology(
        nodes=tuple(Node(id=node, cpus=tuple(chain.from_iterable(share))) for node, share in enumerate(shares)),
        cores=tuple(all_cores),
    )
    assert len(topology.online) == 1024
    plan = plan_binding(topology, dialect=Dialect.PATCHED)
    assert len(plan.cpus) == nodes * cores
    assert check_binding(plan.settings(), topology) == ()
    wrong = BindingSettings(dialect=Dialect.PATCHED, env={"CUSTOM_CPU_AFFINITY": "0-1024", "OMP_NUM_THREADS": "1023"})
    proposal = check_binding(wrong, topology)[0].proposal
    assert proposal is not None
    assert check_binding(proposal, topology) == ()
