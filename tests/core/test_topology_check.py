# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is wrong with a binding is found, all at once, and what is proposed instead is right."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from syshaxd.core.errors import NoBindingError
from syshaxd.core.numa import (
    BindingSettings,
    Constraints,
    Dialect,
    Fault,
    Node,
    NumaTopology,
    Rule,
    check_binding,
    memory_needs,
    plan_binding,
    plan_nearest,
)
from syshaxd.core.numa.cpulist import parse_cpulist
from tests.core.topologies import GIB, KUNPENG, on_any_host, topologies

SERVER = replace(
    KUNPENG,
    nodes=tuple(
        replace(node, memory_bytes=64 * GIB, distances=distances)
        for node, distances in zip(
            KUNPENG.nodes, ((10, 12, 20, 22), (12, 10, 22, 24), (20, 22, 10, 12), (22, 24, 12, 10)), strict=True
        )
    ),
)
SMT = NumaTopology(  # two nodes of four cores; CPUs 8-15 are the second threads of 0-7; CPUs 16 and 17 are switched off
    nodes=(
        Node(id=0, cpus=(0, 1, 2, 3, 8, 9, 10, 11), memory_bytes=8 * GIB),
        Node(id=1, cpus=(4, 5, 6, 7, 12, 13, 14, 15), memory_bytes=8 * GIB),
    ),
    cores=tuple((cpu, cpu + 8) for cpu in range(8)),
    offline=(16, 17),
)
EDGES = NumaTopology(  # node 2 has no memory, node 3 no CPUs
    nodes=(
        Node(id=0, cpus=(0, 1), memory_bytes=GIB),
        Node(id=1, cpus=(2, 3), memory_bytes=GIB),
        Node(id=2, cpus=(4,), memory_bytes=0),
        Node(id=3, memory_bytes=GIB),
    ),
    cores=tuple((cpu,) for cpu in range(5)),
    offline=(5,),
)
DOCUMENTED = {
    "NRC": "4",
    "INFERENCE_OP_MODE": "fused",
    "OMP_NUM_THREADS": "160",
    "CUSTOM_CPU_AFFINITY": "0-159",
    "SYSHAX_QUANTIZE": "q4_0",
}


def patched(threads: int | str, cpus: str, **more: str) -> BindingSettings:
    env = {"INFERENCE_OP_MODE": "fused", "OMP_NUM_THREADS": str(threads), "CUSTOM_CPU_AFFINITY": cpus}
    return BindingSettings(dialect=Dialect.PATCHED, env=env | more)


def stock(groups: str, ranks: int = 1, **more: str) -> BindingSettings:
    return BindingSettings(dialect=Dialect.STOCK, env={"VLLM_CPU_OMP_THREADS_BIND": groups} | more, ranks=ranks)


def rules(faults: tuple[Fault, ...]) -> set[Rule]:
    return {fault.rule for fault in faults}


def blocking(settings: BindingSettings, topology: NumaTopology, constraints: Constraints | None = None) -> list[Fault]:
    return [fault for fault in check_binding(settings, topology, constraints) if fault.blocking]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (patched(160, "0-159"), set()),
        (BindingSettings(dialect=Dialect.PATCHED, env=DOCUMENTED), set()),
        (patched(128, "0-31,40-71,80-111,120-151"), set()),
        (patched(80, "0-158:2"), set()),
        (patched(4, "0,40,80,120"), set()),
        (patched(80, "0-79"), {Rule.NODE_ORDER}),  # valid by the documented rules, but two nodes lie idle
        (patched(159, "0-159"), {Rule.THREADS}),
        (patched(320, "0-159"), {Rule.THREADS}),
        (patched(159, "0-158"), {Rule.BALANCE}),
        (patched(160, "0-158"), {Rule.THREADS, Rule.BALANCE}),
        (patched(120, "0-39,40-79,80-99,120-139"), {Rule.BALANCE}),
        (patched(161, "0-160"), {Rule.EXISTS}),
        (patched("many", "0-159"), {Rule.SYNTAX}),
        (patched("", "0-159"), {Rule.THREADS}),
        (patched(160, "0-159,5"), {Rule.SYNTAX}),
        (patched(160, "0..159"), {Rule.SYNTAX}),
        (patched(160, "159-0"), {Rule.SYNTAX}),
        (patched(160, "0-159:0"), {Rule.SYNTAX}),
        (patched(160, "8:2"), {Rule.SYNTAX}),
        (patched(160, "0-159", NRC="3"), {Rule.NRC}),
        (patched(160, "0-159", NRC=""), {Rule.NRC}),
        (patched(160, "0-159", SYSHAX_QUANTIZE="q4_1"), {Rule.QUANTIZE}),
        (patched(160, "0-159", INFERENCE_OP_MODE="None"), {Rule.FUSED}),
        (patched(160, "0-159", VLLM_CPU_OMP_THREADS_BIND="auto"), {Rule.NO_EFFECT}),
        (replace(patched(160, "0-159"), cpuset_cpus="0-151"), {Rule.CPUSET}),
        (replace(patched(160, "0-159"), cpuset_mems="0-2"), {Rule.CPUSET}),
        (replace(patched(160, "0-159"), cpuset_mems="0-4"), {Rule.EXISTS}),
        (replace(patched(160, "0-159"), cpuset_cpus="0-159,", cpuset_mems="x"), {Rule.SYNTAX}),
    ],
)
def test_the_rules_on_the_documented_server(settings: BindingSettings, expected: set[Rule]) -> None:
    assert rules(check_binding(settings, SERVER)) == expected


@pytest.mark.parametrize(
    ("settings", "topology", "expected"),
    [
        # SMT
        (patched(8, "0-7"), SMT, set()),
        (patched(8, "8-15"), SMT, set()),
        (patched(16, "0-15"), SMT, {Rule.SMT, Rule.NODE_ORDER}),
        (patched(4, "0,8,4,12"), SMT, {Rule.SMT, Rule.NODE_ORDER}),
        (patched(10, "0-7,16-17"), SMT, {Rule.ONLINE}),
        # nodes without memory or CPUs
        (patched(4, "0-3"), EDGES, {Rule.NODE_ORDER}),
        (patched(3, "0,2,4"), EDGES, {Rule.MEMORYLESS, Rule.NODE_ORDER}),
        (replace(patched(4, "0-3"), cpuset_mems="0-1"), EDGES, {Rule.NODE_ORDER}),
        (replace(patched(4, "0-3"), cpuset_mems="0-1,3"), EDGES, {Rule.CPULESS, Rule.NODE_ORDER}),
        (replace(patched(4, "0-3"), cpuset_mems="0-2"), EDGES, {Rule.MEMORYLESS, Rule.NODE_ORDER}),
        (patched(6, "0-5"), EDGES, {Rule.BALANCE, Rule.MEMORYLESS, Rule.ONLINE, Rule.NODE_ORDER}),
        # stock vLLM
        (stock("auto"), SERVER, set()),
        (stock(""), SERVER, set()),
        (stock("auto", ranks=4), SERVER, set()),
        (stock("auto", ranks=5), SERVER, {Rule.RANKS}),
        (stock("auto", ranks=3), EDGES, {Rule.CPULESS}),
        (replace(stock("auto"), cpuset_cpus="0-39", cpuset_mems="1"), SERVER, {Rule.CPULESS, Rule.CPUSET}),
        (stock("nobind", OMP_NUM_THREADS="160"), SERVER, set()),
        (stock("nobind", OMP_NUM_THREADS="161"), SERVER, {Rule.THREADS}),
        (stock("nobind", OMP_NUM_THREADS="0"), SERVER, {Rule.THREADS}),
        (stock("0-38|40-78", ranks=2), SERVER, set()),
        (stock("0-38|40-78|80-118|120-158", ranks=4), SERVER, set()),
        (stock("0-19|20-39", ranks=2), SERVER, set()),
        (stock("0-39|40-79"), SERVER, {Rule.RANKS}),
        (stock("0-79"), SERVER, {Rule.RANK_NODE}),
        (stock("0-39|40-60", ranks=2), SERVER, {Rule.BALANCE}),
        (stock("0-39|39-78", ranks=2), SERVER, {Rule.OVERLAP, Rule.RANK_NODE, Rule.BALANCE}),
        (stock("0-39|", ranks=2), SERVER, {Rule.SYNTAX}),
        (stock("0-38:2"), SERVER, {Rule.SYNTAX}),
        (stock("all"), SERVER, {Rule.SYNTAX}),
        (stock("0-38", OMP_NUM_THREADS="39"), SERVER, {Rule.NO_EFFECT}),
        (stock("0-38", VLLM_CPU_NUM_OF_RESERVED_CPU="1"), SERVER, {Rule.NO_EFFECT}),
        (replace(stock("0-38", VLLM_CPU_NUM_OF_RESERVED_CPU="1"), cpuset_cpus="0-39"), SERVER, set()),
        (stock("auto", VLLM_CPU_NUM_OF_RESERVED_CPU="2"), SERVER, set()),
        (stock("auto", VLLM_CPU_NUM_OF_RESERVED_CPU="-2"), SERVER, {Rule.SYNTAX}),
        (stock("auto", VLLM_CPU_KVCACHE_SPACE="4.5"), SERVER, {Rule.SYNTAX}),
        (stock("0-7,8-15"), SMT, {Rule.SMT, Rule.RANK_NODE}),
        # an instance on a GPU
        (BindingSettings(dialect=Dialect.PLAIN), SERVER, set()),
        (BindingSettings(dialect=Dialect.PLAIN, env={"OMP_NUM_THREADS": "999"}, cpuset_cpus="36-39"), SERVER, set()),
        (BindingSettings(dialect=Dialect.PLAIN, cpuset_cpus="158-160"), SERVER, {Rule.EXISTS}),
        (BindingSettings(dialect=Dialect.PLAIN, cpuset_cpus="0-3", cpuset_mems="1"), SERVER, {Rule.CPUSET}),
    ],
)
def test_the_rules_elsewhere(settings: BindingSettings, topology: NumaTopology, expected: set[Rule]) -> None:
    faults = check_binding(settings, topology)
    assert rules(faults) == expected
    for fault in faults:
        assert fault.proposal is not None
        assert blocking(fault.proposal, topology) == []


@pytest.mark.parametrize(
    ("settings", "constraints", "expected"),
    [
        (patched(160, "0-159"), Constraints(taken={"gpu": (36, 37)}), {Rule.OVERLAP}),
        (patched(144, "0-35,40-75,80-115,120-155"), Constraints(taken={"gpu": (36, 37, 38, 39)}), set()),
        (patched(160, "0-159"), Constraints(allowed_cpus=tuple(range(80))), {Rule.CPUSET}),
        (patched(160, "0-159"), Constraints(allowed_nodes=(0, 1)), {Rule.CPUSET}),
        (patched(160, "0-159"), Constraints(model_bytes=256 * GIB), set()),
        (patched(160, "0-159"), Constraints(model_bytes=257 * GIB), {Rule.MEMORY}),
        (patched(160, "0-159"), Constraints(model_bytes=200 * GIB, kv_cache_bytes=60 * GIB), {Rule.MEMORY}),
        (stock("auto"), Constraints(allowed_cpus=tuple(range(40)), allowed_nodes=(0,)), set()),
        (stock("auto"), Constraints(taken={"gpu": (3,)}), {Rule.OVERLAP}),
        (stock("auto"), Constraints(model_bytes=64 * GIB), set()),
        (stock("auto"), Constraints(model_bytes=64 * GIB, kv_cache_bytes=GIB), {Rule.MEMORY}),
        (stock("auto", ranks=4), Constraints(model_bytes=200 * GIB, kv_cache_bytes=10 * GIB), set()),
        (stock("auto", ranks=4), Constraints(model_bytes=200 * GIB, kv_cache_bytes=15 * GIB), {Rule.MEMORY}),
        (stock("0-19|20-39", ranks=2), Constraints(model_bytes=60 * GIB, kv_cache_bytes=3 * GIB), {Rule.MEMORY}),
        (BindingSettings(dialect=Dialect.PLAIN, cpuset_cpus="0-3"), Constraints(taken={"cpu": (3, 4)}), {Rule.OVERLAP}),
        (replace(stock("0-3"), cpuset_cpus="0-4"), Constraints(taken={"gpu": (4,)}), {Rule.OVERLAP}),
    ],
)
def test_the_rules_beside_others(settings: BindingSettings, constraints: Constraints, expected: set[Rule]) -> None:
    assert rules(check_binding(settings, SERVER, constraints)) == expected


def test_a_fault_tells_rule_part_reason_and_a_proposal() -> None:
    settings = patched(160, "0-158,160", NRC="8")
    exists, balance, nrc = check_binding(settings, SERVER)
    assert str(exists) == "[exists] CUSTOM_CPU_AFFINITY: CPU 160: this host has CPUs 0-159"
    assert str(balance).startswith("[balance] CUSTOM_CPU_AFFINITY: node 0 gives 40, node 1 gives 40, node 2 gives 40, ")
    assert str(nrc).startswith("[nrc] NRC=8: ")
    assert exists.proposal == balance.proposal == nrc.proposal
    assert exists.proposal is not None
    assert settings.changes_to(exists.proposal) == ("NRC=4", "CUSTOM_CPU_AFFINITY=0-159")


@pytest.mark.parametrize(
    ("settings", "constraints", "changes"),
    [
        (patched(159, "0-159"), Constraints(), ("OMP_NUM_THREADS=160",)),
        (patched(158, "0-79,82-159"), Constraints(), ("OMP_NUM_THREADS=160", "CUSTOM_CPU_AFFINITY=0-159")),
        (
            patched(160, "0-159"),
            Constraints(taken={"gpu": (36, 37, 38, 39)}),
            ("OMP_NUM_THREADS=144", "CUSTOM_CPU_AFFINITY=0-35,40-75,80-115,120-155"),
        ),
        (patched(80, "80-159", SYSHAX_QUANTIZE="q2"), Constraints(), ("SYSHAX_QUANTIZE=q8_0",)),
        (patched(160, "0-160"), Constraints(), ("CUSTOM_CPU_AFFINITY=0-159",)),
        (
            replace(patched(160, "0-159"), cpuset_cpus="0-79"),
            Constraints(allowed_cpus=tuple(range(80))),
            ("OMP_NUM_THREADS=80", "CUSTOM_CPU_AFFINITY=0-79", "cpuset_mems=0-1"),
        ),
        (stock("0-79"), Constraints(), ("VLLM_CPU_OMP_THREADS_BIND=0-39",)),
        (
            stock("auto"),
            Constraints(model_bytes=100 * GIB),
            (
                "VLLM_CPU_OMP_THREADS_BIND=0-38|40-78|80-118|120-158",
                "tensor-parallel-size=4",
            ),
        ),
    ],
)
def test_proposals_stay_near_to_what_was_wanted(
    settings: BindingSettings, constraints: Constraints, changes: tuple[str, ...]
) -> None:
    proposal = check_binding(settings, SERVER, constraints)[0].proposal
    assert proposal is not None
    assert settings.changes_to(proposal) == changes


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        (patched(1, "0"), (64 * GIB, 0)),
        (patched(1, "0", SYSHAX_QUANTIZE="q8_0"), (34 * GIB, 0)),
        (patched(1, "0", SYSHAX_QUANTIZE="q4_0", VLLM_CPU_KVCACHE_SPACE="40"), (18 * GIB, 0)),
        (stock("auto", VLLM_CPU_KVCACHE_SPACE="40"), (64 * GIB, 40 * GIB)),
        (stock("auto", VLLM_CPU_KVCACHE_SPACE="4.5"), (64 * GIB, 0)),
    ],
)
def test_settings_tell_how_much_memory_is_needed(settings: BindingSettings, needs: tuple[int, int]) -> None:
    assert memory_needs(settings, 64 * GIB) == needs


def test_there_is_no_proposal_where_nothing_can_be_right() -> None:
    faults = check_binding(patched(160, "0-159"), SERVER, Constraints(model_bytes=1000 * GIB))
    assert [fault.part for fault in faults] == ["node 0", "node 1", "node 2", "node 3"]
    assert {fault.proposal for fault in faults} == {None}


Plant = Callable[[st.DataObject, NumaTopology, BindingSettings, Constraints], tuple[BindingSettings, Constraints]]


def cpus_of(settings: BindingSettings) -> tuple[int, ...]:
    return parse_cpulist(settings.env["CUSTOM_CPU_AFFINITY"])


def with_env(settings: BindingSettings, **env: str) -> BindingSettings:
    return replace(settings, env=dict(settings.env) | env)


def with_cpus(settings: BindingSettings, cpus: set[int]) -> BindingSettings:
    assume(cpus)
    return with_env(settings, CUSTOM_CPU_AFFINITY=",".join(map(str, cpus)), OMP_NUM_THREADS=str(len(cpus)))


def plant_nrc(
    _: st.DataObject, __: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    return with_env(settings, NRC="8"), constraints


def plant_quantize(
    _: st.DataObject, __: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    return with_env(settings, SYSHAX_QUANTIZE="int4"), constraints


def plant_unfused(
    _: st.DataObject, __: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    env = {key: value for key, value in settings.env.items() if key != "INFERENCE_OP_MODE"}
    return replace(settings, env=env), constraints


def plant_unknown_cpu(
    _: st.DataObject, __: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    return with_cpus(settings, {*cpus_of(settings), 99999}), constraints


def plant_offline_cpu(
    _: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    assume(topology.offline)
    return with_cpus(settings, {*cpus_of(settings), *topology.offline[:1]}), constraints


def plant_sibling(
    data: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    used = [core for core in topology.cores if len(core) > 1 and set(core) & set(cpus_of(settings))]
    assume(used)
    return with_cpus(settings, {*cpus_of(settings), *data.draw(st.sampled_from(used))}), constraints


def plant_memoryless(
    _: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    bare = [cpu for node in topology.nodes if not node.has_memory for cpu in node.cpus]
    assume(bare)
    return with_cpus(settings, {*cpus_of(settings), bare[0]}), constraints


def plant_imbalance(
    data: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    by_node = topology.by_node(cpus_of(settings))
    assume(len(by_node) > 1 and max(map(len, by_node.values())) > 1)
    cpus = data.draw(st.sampled_from([cpus for cpus in by_node.values() if len(cpus) > 1]))
    return with_cpus(settings, set(cpus_of(settings)) - {cpus[0]}), constraints


def plant_neighbour(
    data: st.DataObject, _: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    cpu = data.draw(st.sampled_from(cpus_of(settings)))
    return settings, replace(constraints, taken={"other": (cpu,)})


def plant_container(
    _: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    rest = set(topology.online) - {cpus_of(settings)[0]}
    assume(rest)
    return replace(settings, cpuset_cpus=",".join(map(str, rest))), constraints


def plant_control_group(
    _: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    return settings, replace(constraints, allowed_cpus=tuple(set(topology.online) - {cpus_of(settings)[0]}))


def plant_huge_model(
    _: st.DataObject, topology: NumaTopology, settings: BindingSettings, constraints: Constraints
) -> tuple[BindingSettings, Constraints]:
    assume(any(topology.node(node).memory_bytes for node in topology.by_node(cpus_of(settings))))
    return settings, replace(constraints, model_bytes=2**50)


# In an order in which a later one does not undo an earlier one.
PLANTS: Mapping[Rule, Plant] = {
    Rule.NRC: plant_nrc,
    Rule.QUANTIZE: plant_quantize,
    Rule.FUSED: plant_unfused,
    Rule.BALANCE: plant_imbalance,
    Rule.EXISTS: plant_unknown_cpu,
    Rule.ONLINE: plant_offline_cpu,
    Rule.SMT: plant_sibling,
    Rule.MEMORYLESS: plant_memoryless,
    Rule.OVERLAP: plant_neighbour,
    Rule.CPUSET: plant_container,
    Rule.MEMORY: plant_huge_model,
}


@pytest.mark.parametrize("rule", PLANTS)
@on_any_host
@given(topology=topologies(max_cpus=256), data=st.data())
def test_every_planted_fault_is_found(rule: Rule, topology: NumaTopology, data: st.DataObject) -> None:
    check_plants({rule}, topology, data)


@on_any_host
@given(topologies(max_cpus=256), st.sets(st.sampled_from(list(PLANTS)), min_size=2, max_size=4), st.data())
def test_all_planted_faults_are_found_at_once(topology: NumaTopology, planted: set[Rule], data: st.DataObject) -> None:
    assume(not {Rule.BALANCE} < planted)  # what else is planted may even it out
    check_plants(planted, topology, data)


@on_any_host
@given(topologies(max_cpus=256), st.data())
def test_a_control_group_is_a_limit_like_a_container(topology: NumaTopology, data: st.DataObject) -> None:
    settings, constraints = plant_control_group(data, topology, planned(topology), Constraints())
    assert Rule.CPUSET in rules(check_binding(settings, topology, constraints))


def planned(topology: NumaTopology) -> BindingSettings:
    try:
        return plan_binding(topology, dialect=Dialect.PATCHED).settings({"NRC": "2"})
    except NoBindingError:
        assume(False)
        raise


def check_plants(planted: set[Rule], topology: NumaTopology, data: st.DataObject) -> None:
    settings, constraints = planned(topology), Constraints()
    for rule, plant in PLANTS.items():
        if rule in planted:
            settings, constraints = plant(data, topology, settings, constraints)
    faults = check_binding(settings, topology, constraints)
    assert rules(faults) >= planted
    (proposal,) = {id(fault.proposal): fault.proposal for fault in faults}.values()
    if proposal is not None:
        assert blocking(proposal, topology, constraints) == []
    else:
        with pytest.raises(NoBindingError):
            plan_nearest(topology, dialect=Dialect.PATCHED, cpus=(), threads=None, constraints=constraints)


ANY_TEXT = st.text("0123456789-,:| autonbid", max_size=12)


@on_any_host
@given(
    topologies(max_cpus=64),
    st.sampled_from(Dialect),
    st.dictionaries(
        st.sampled_from(
            [
                "CUSTOM_CPU_AFFINITY",
                "OMP_NUM_THREADS",
                "VLLM_CPU_OMP_THREADS_BIND",
                "VLLM_CPU_NUM_OF_RESERVED_CPU",
                "NRC",
            ]
        ),
        ANY_TEXT,
    ),
    ANY_TEXT,
    ANY_TEXT,
    st.integers(1, 5),
)
def test_any_settings_can_be_checked_and_proposals_pass(
    topology: NumaTopology, dialect: Dialect, env: dict[str, str], cpus: str, mems: str, ranks: int
) -> None:
    settings = BindingSettings(dialect=dialect, env=env, cpuset_cpus=cpus, cpuset_mems=mems, ranks=ranks)
    for fault in check_binding(settings, topology):
        if fault.proposal is not None:
            assert blocking(fault.proposal, topology) == []
