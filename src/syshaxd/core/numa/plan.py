# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Plans the best valid binding: cores near the accelerators for GPU instances, the rest in even shares."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from syshaxd.core.errors import NoBindingError
from syshaxd.core.numa.binding import Binding, Constraints, Dialect
from syshaxd.core.numa.model import NumaTopology

_GIB = 2**30

FreeCpus = Mapping[int, Sequence[int]]
"""One CPU of each free core, by node, in order of preference."""


def plan_binding(
    topology: NumaTopology,
    *,
    dialect: Dialect,
    threads: int | None = None,
    ranks: int = 1,
    constraints: Constraints | None = None,
) -> Binding:
    """Returns the best valid binding of an instance that computes on CPUs.

    With the patched dialect its threads are spread evenly over the nodes that together give the most CPUs. With the
    stock dialect each rank is on one node, all have equally many CPUs, and each leaves a core of its node to vLLM's
    other threads if it can.

    Args:
        topology: The host.
        dialect: `PATCHED` or `STOCK`.
        threads: Total number of compute threads; None: as many as possible.
        ranks: Processes that share the model; with the patched dialect it is always one.
        constraints: CPUs that are taken or not allowed, and the memory needed.

    Raises:
        NoBindingError: No binding has this shape. The message says which would.
    """
    constraints = constraints or Constraints()
    free = _free_cpus(topology, constraints)
    shapes = _shapes(topology, free, dialect, ranks, constraints)
    if threads is None:
        return _realise(topology, free, dialect, max(shapes, key=_Shape.preference))
    for shape in sorted(shapes, key=_Shape.preference, reverse=True):
        if (exact := shape.with_threads(threads)) is not None:
            return _realise(topology, free, dialect, exact)
    below, above = _neighbours(shapes, threads)
    raise NoBindingError(
        f"{threads} threads can't be shared out evenly over this host's free CPUs; "
        f"{' and '.join(str(count) for count in (below, above) if count)} can"
    )


def plan_nearest(
    topology: NumaTopology,
    *,
    dialect: Dialect,
    cpus: Collection[int],
    threads: int | None,
    ranks: int = 1,
    constraints: Constraints | None = None,
) -> Binding:
    """Returns the valid binding nearest to these CPUs and threads, which may be invalid or contradictory.

    Without a number of threads, it has as many as possible.

    Raises:
        NoBindingError: No binding at all is valid.
    """
    constraints = constraints or Constraints()
    if dialect is Dialect.PLAIN:
        return _plain(topology, cpus, constraints)
    free, wanted = _free_cpus(topology, constraints, prefer=cpus), set(cpus)
    anywhere = [(free, shape) for shape in _shapes(topology, free, dialect, ranks, constraints)]
    if threads is None:
        return _realise(topology, free, dialect, max((shape for _, shape in anywhere), key=_Shape.preference))
    on_same_nodes = {node: free[node] for node in topology.by_node(cpus) if node in free}
    candidates = [
        (on_same_nodes, shape) for shape in _shapes_if_any(topology, on_same_nodes, dialect, ranks, constraints)
    ]
    near = [(where, shape.nearest_to(threads)) for where, shape in candidates + anywhere]
    least = min(abs(shape.threads - threads) for _, shape in near)
    best = [(where, shape) for where, shape in near if abs(shape.threads - threads) == least]
    best.sort(key=lambda item: item[1].preference(), reverse=True)
    bindings = [_realise(topology, where, dialect, shape) for where, shape in best]
    return min(bindings, key=lambda binding: len(wanted.symmetric_difference(binding.cpus)))


def reserve_cores(
    topology: NumaTopology, cores: Mapping[str, int], constraints: Constraints | None = None
) -> dict[str, tuple[int, ...]]:
    """Returns CPUs reserved for others than the CPU instance: whole cores with all hardware threads.

    They are the last cores of the nodes nearest to the accelerators, round-robin over equally near nodes. Without
    accelerators they come from all nodes in turns, which costs the even shares of the rest the least.

    Args:
        topology: The host.
        cores: How many cores each owner gets, such as `{"gpu": 4, "daemon": 1}`.
        constraints: CPUs that are taken or not allowed; if they name nodes of GPUs, only these accelerators count.

    Raises:
        NoBindingError: There are not enough free cores.
    """
    constraints = constraints or Constraints()
    free = _free_cpus(topology, constraints)
    asked = sum(cores.values())
    if asked > (have := sum(map(len, free.values()))):
        raise NoBindingError(f"{asked} cores to reserve, but only {have} are free")
    line = chain.from_iterable(
        _in_turns([list(free[node]) for node in ring]) for ring in _rings(topology, free, constraints.gpu_nodes)
    )
    return {
        owner: tuple(sorted(cpu for _ in range(count) for cpu in topology.core_of(next(line))))
        for owner, count in cores.items()
    }


def share_out(topology: NumaTopology, constraints: Constraints, count: int) -> list[tuple[int, ...]]:
    """Divides the free CPUs into this many parts: of whole nodes if there are enough, else of whole cores.

    A part may be empty.
    """
    free = _free_cpus(topology, constraints)
    nodes = [[topology.core_of(cpu) for cpu in cpus] for cpus in free.values()]
    units = nodes if len(nodes) >= count else [[core] for cores in nodes for core in cores]
    bounds = [round(len(units) * part / count) for part in range(count + 1)]
    return [
        tuple(sorted(cpu for cores in units[start:end] for core in cores for cpu in core))
        for start, end in pairwise(bounds)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Numbers of nodes, groups and CPUs of a binding, before specific ones are chosen."""

    nodes: int
    groups_each: int
    """Groups on each node."""
    cpus_each: int
    """CPUs of each group; in a list of shapes: the maximum."""
    spare_each: int
    """Cores that each group leaves free on its node."""
    capable: tuple[int, ...]
    """Nodes whose memory suffices."""

    @property
    def threads(self) -> int:
        return self.nodes * self.groups_each * self.cpus_each

    @property
    def cores_on_node(self) -> int:
        return self.groups_each * (self.cpus_each + self.spare_each)

    def preference(self) -> tuple[int, int, int]:
        """Prefers a core for the other threads, then more threads, then more nodes."""
        return self.spare_each, self.threads, self.nodes

    def with_threads(self, threads: int) -> "_Shape | None":
        """The same with fewer CPUs, for exactly `threads`; None if impossible."""
        each, rest = divmod(threads, self.nodes * self.groups_each)
        return None if rest or not 1 <= each <= self.cpus_each else replace(self, cpus_each=each)

    def nearest_to(self, threads: int) -> "_Shape":
        """The same with the number of CPUs nearest to `threads`."""
        groups = self.nodes * self.groups_each
        return replace(self, cpus_each=min(max(1, (threads + groups // 2) // groups), self.cpus_each))


def _shapes(
    topology: NumaTopology, free: FreeCpus, dialect: Dialect, ranks: int, constraints: Constraints
) -> list[_Shape]:
    """Every shape that fits, with the most CPUs possible; at least one.

    Raises:
        NoBindingError: None fits.
    """
    if shapes := _shapes_if_any(topology, free, dialect, ranks, constraints):
        return shapes
    raise NoBindingError(_why_nothing_fits(free, ranks, constraints))


def _shapes_if_any(
    topology: NumaTopology, free: FreeCpus, dialect: Dialect, ranks: int, constraints: Constraints
) -> list[_Shape]:
    stock = dialect is Dialect.STOCK
    shapes = []
    for nodes in range(1, len(free) + 1):
        if stock and ranks % nodes:
            continue
        groups_each = ranks // nodes if stock else 1
        need = groups_each * constraints.bytes_per_rank(ranks) if stock else constraints.bytes_per_rank(1) // nodes
        capable = tuple(node for node in free if need <= (topology.node(node).memory_bytes or need))
        for spare in (1, 0) if stock else (0,):
            room = sorted((len(free[node]) // groups_each - spare for node in capable), reverse=True)
            if len(room) >= nodes and room[nodes - 1] >= 1:
                most = room[nodes - 1]
                shapes.append(
                    _Shape(nodes=nodes, groups_each=groups_each, cpus_each=most, spare_each=spare, capable=capable)
                )
    return shapes


def _why_nothing_fits(free: FreeCpus, ranks: int, constraints: Constraints) -> str:
    cores = sum(map(len, free.values()))
    if not cores:
        return "no core is free on a node with memory: other instances and reservations take them all"
    return (
        f"{ranks} rank{'s' if ranks > 1 else ''} with {constraints.bytes_per_rank(ranks) / _GIB:.1f} GiB each "
        f"can't be placed on the {cores} free cores of {len(free)} nodes: "
        "the memory of a node, or the number of its cores, is too small for a rank"
    )


def _neighbours(shapes: Sequence[_Shape], threads: int) -> tuple[int | None, int | None]:
    """The nearest possible numbers of threads below and above."""
    step = [shape.nodes * shape.groups_each for shape in shapes]
    counts = {
        group * each
        for shape, group in zip(shapes, step, strict=True)
        for each in (threads // group, threads // group + 1, shape.cpus_each)
        if 1 <= each <= shape.cpus_each
    }
    below = max((count for count in counts if count < threads), default=None)
    return below, min((count for count in counts if count > threads), default=None)


def _realise(topology: NumaTopology, free: FreeCpus, dialect: Dialect, shape: _Shape) -> Binding:
    """The binding of a shape, on nodes that are near to each other."""
    roomy = [node for node in shape.capable if len(free[node]) >= shape.cores_on_node]
    nodes = _closest(topology, roomy, shape.nodes)
    groups: list[tuple[int, ...]] = []
    spare: list[int] = []
    for node in nodes:
        cpus = sorted(free[node][: shape.cores_on_node])
        for _ in range(shape.groups_each):
            groups.append(tuple(cpus[: shape.cpus_each]))
            cpus = cpus[shape.cpus_each :]
        spare += cpus
    computing = tuple(sorted(chain.from_iterable(groups)))
    return Binding(
        dialect=dialect,
        groups=tuple(groups) if dialect is Dialect.STOCK else (computing,),
        cpuset=tuple(sorted([*computing, *spare])),
        memory_nodes=nodes,
    )


def _closest(topology: NumaTopology, nodes: Sequence[int], count: int) -> tuple[int, ...]:
    """A number of nodes, as near to each other as possible; ascending."""

    def constraints(centre: int) -> tuple[int, ...]:
        return tuple(sorted(sorted(nodes, key=lambda node: (topology.distance(centre, node), node))[:count]))

    def spread(chosen: tuple[int, ...]) -> int:
        return sum(topology.distance(a, b) for a in chosen for b in chosen)

    return min((constraints(node) for node in nodes), key=lambda chosen: (spread(chosen), chosen))


def _free_cpus(topology: NumaTopology, constraints: Constraints, prefer: Collection[int] = ()) -> dict[int, list[int]]:
    """Fully free cores on nodes with memory; nodes without any are left out.

    A core is represented by its first allowed CPU. CPUs in `prefer` come first, then all ascend.
    """
    taken = set(chain.from_iterable(constraints.taken.values()))
    allowed = set(topology.online if constraints.allowed_cpus is None else constraints.allowed_cpus)
    wanted = set(prefer)
    free: dict[int, list[tuple[bool, int]]] = {}
    for core in topology.cores:
        node = topology.node(topology.node_of(core[0]))
        usable = allowed.intersection(core)
        has_memory = node.has_memory and (constraints.allowed_nodes is None or node.id in constraints.allowed_nodes)
        if usable and has_memory and taken.isdisjoint(core):
            free.setdefault(node.id, []).append(min((cpu not in wanted, cpu) for cpu in usable))
    return {node: [cpu for _, cpu in sorted(free[node])] for node in sorted(free)}


def _plain(topology: NumaTopology, cpus: Collection[int], constraints: Constraints) -> Binding:
    """The available ones of the wanted CPUs; if none, as many free cores."""
    taken = set(chain.from_iterable(constraints.taken.values()))
    allowed = set(topology.online if constraints.allowed_cpus is None else constraints.allowed_cpus) & set(
        topology.online
    )
    wanted = set(cpus)
    nodes = {
        node.id
        for node in topology.nodes
        if node.has_memory and (constraints.allowed_nodes is None or node.id in constraints.allowed_nodes)
    }
    fit = sorted(cpu for cpu in allowed - taken if topology.node_of(cpu) in nodes)
    chosen = tuple(cpu for cpu in fit if cpu in wanted) or tuple(fit[: max(1, len(cpus))])
    if not chosen:
        raise NoBindingError("no CPU is free on a node with memory: other instances and reservations take them all")
    return Binding(dialect=Dialect.PLAIN, groups=(chosen,), cpuset=chosen, memory_nodes=tuple(topology.by_node(chosen)))


def _rings(topology: NumaTopology, free: FreeCpus, gpu_nodes: Collection[int]) -> list[list[int]]:
    """Nodes with free cores, grouped by their distance from these nodes or the nearest accelerator, nearest first."""
    near = gpu_nodes or [device.node for device in topology.accelerators if device.node is not None]
    homes = [node.id for node in topology.nodes if node.id in near]
    distances = {node: min((topology.distance(home, node) for home in homes), default=0) for node in free}
    return [[node for node in free if distances[node] == distance] for distance in sorted(set(distances.values()))]


def _in_turns(nodes: list[list[int]]) -> Iterator[int]:
    """The last core of each node, then the second to last, and so on; fuller nodes first, to even them out."""
    while any(nodes):
        fullest = max(nodes, key=len)
        yield fullest.pop()
