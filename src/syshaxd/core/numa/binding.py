# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Bindings of instances to CPUs and memory, and how each kind of vLLM spells them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from syshaxd.core.numa.cpulist import format_cpulist, format_stepped

AFFINITY = "CUSTOM_CPU_AFFINITY"
THREADS = "OMP_NUM_THREADS"
FUSED = "INFERENCE_OP_MODE"
NRC = "NRC"
QUANTIZE = "SYSHAX_QUANTIZE"
OMP_BIND = "VLLM_CPU_OMP_THREADS_BIND"
RESERVED = "VLLM_CPU_NUM_OF_RESERVED_CPU"
KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
CPU_VARIABLES = frozenset({AFFINITY, THREADS, FUSED, OMP_BIND, RESERVED})
"""Variables that a binding sets."""
VARIABLES = CPU_VARIABLES | {NRC, QUANTIZE, KV_SPACE}
"""Variables that the rules check."""


class Dialect(StrEnum):
    """How an instance is given its CPUs."""

    PATCHED = "patched"
    """The sysHAX images' fused CPU kernels: one process, threads over all nodes, CUSTOM_CPU_AFFINITY."""
    STOCK = "stock"
    """vLLM's own CPU backend: a process a rank, each on one node, VLLM_CPU_OMP_THREADS_BIND."""
    PLAIN = "plain"
    """Anything else, such as an instance on a GPU: it runs anywhere in its CPU set."""


def dialect_of(env: Mapping[str, str], *, on_cpu: bool) -> Dialect:
    """The dialect of an instance, inferred from its environment."""
    if not on_cpu:
        return Dialect.PLAIN
    return Dialect.PATCHED if AFFINITY in env or FUSED in env else Dialect.STOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class BindingSettings:
    """An instance's CPU settings as written, valid or not."""

    dialect: Dialect
    env: Mapping[str, str] = field(default_factory=dict)
    """Its environment; variables unrelated to binding are ignored."""
    cpuset_cpus: str = ""
    """CPUs of its container, or on which its process is started; empty: all."""
    cpuset_mems: str = ""
    """Nodes from which its container allocates memory; empty: all."""
    ranks: int = 1
    """Processes that share the model (tensor times pipeline parallel size on this host)."""

    def changes_to(self, other: "BindingSettings") -> tuple[str, ...]:
        """The changes that turn these settings into the others, one line each; empty if equal."""
        before = dict(self.env) | {"cpuset_cpus": self.cpuset_cpus, "cpuset_mems": self.cpuset_mems}
        after = dict(other.env) | {"cpuset_cpus": other.cpuset_cpus, "cpuset_mems": other.cpuset_mems}
        before, after = ({key: value for key, value in all_.items() if value} for all_ in (before, after))
        lines = [f"{key}={value}" for key, value in after.items() if before.get(key) != value]
        lines += [f"unset {key}" for key in before if key not in after]
        if self.ranks != other.ranks:
            lines.append(f"tensor-parallel-size={other.ranks}")
        return tuple(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """The CPUs and memory planned for an instance. All lists ascending."""

    dialect: Dialect
    groups: tuple[tuple[int, ...], ...]
    """CPUs of each rank's compute threads: one group with the patched and plain dialects."""
    cpuset: tuple[int, ...] = ()
    """CPUs to which all of the instance's threads are confined. Empty: not confined."""
    memory_nodes: tuple[int, ...] = ()
    """Nodes for its memory. Empty: any."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs of all compute threads, ascending."""
        return tuple(sorted({cpu for group in self.groups for cpu in group}))

    @property
    def spare(self) -> tuple[int, ...]:
        """CPUs left for threads that do not compute (API server, scheduler, KV hand-over)."""
        return tuple(sorted(set(self.cpuset) - set(self.cpus)))

    def env(self) -> dict[str, str]:
        """The environment variables that express it, in its dialect."""
        match self.dialect:
            case Dialect.PATCHED:
                return {FUSED: "fused", THREADS: str(len(self.cpus)), AFFINITY: format_stepped(self.cpus)}
            case Dialect.STOCK:
                groups = "|".join(format_cpulist(group) for group in self.groups)
                # vLLM ignores the number if CPUs are listed, but it documents what the plan leaves free.
                return {OMP_BIND: groups} | ({RESERVED: str(len(self.spare))} if self.cpuset else {})
            case Dialect.PLAIN:
                return {}

    def settings(self, env: Mapping[str, str] | None = None) -> BindingSettings:
        """The binding as settings; keeps variables of `env` that are not about CPUs."""
        foreign = frozenset() if self.dialect is Dialect.PLAIN else CPU_VARIABLES
        kept = {key: value for key, value in (env or {}).items() if key not in foreign}
        return BindingSettings(
            dialect=self.dialect,
            env=kept | self.env(),
            cpuset_cpus=format_cpulist(self.cpuset),
            cpuset_mems=format_cpulist(self.memory_nodes),
            ranks=len(self.groups),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Constraints on a binding: what others use, what is allowed, and the memory needed."""

    taken: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """CPUs of other instances and reservations, by owner."""
    allowed_cpus: tuple[int, ...] | None = None
    """CPUs that the parent cgroup allows; None: all."""
    allowed_nodes: tuple[int, ...] | None = None
    """Nodes from which it may allocate memory; None: all."""
    model_bytes: int = 0
    """Size of the whole model's weights in memory; 0: unknown."""
    kv_cache_bytes: int = 0
    """KV cache of each rank; 0: it takes what is left. See `memory_needs`."""
    gpu_nodes: tuple[int, ...] = ()
    """Nodes that its GPUs are near to; empty: unknown, or it has none."""

    def bytes_per_rank(self, ranks: int) -> int:
        """Memory that each of `ranks` processes needs."""
        return self.model_bytes // ranks + self.kv_cache_bytes
