# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A binding of an instance to CPUs and memory, and the forms in which it is written for each kind of vLLM."""

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
"""Those that a binding sets."""
VARIABLES = CPU_VARIABLES | {NRC, QUANTIZE, KV_SPACE}
"""Those that the rules look at."""


class Dialect(StrEnum):
    """Whose way of naming CPUs an instance understands."""

    PATCHED = "patched"
    """The sysHAX images' fused CPU kernels: one process, threads over all nodes, CUSTOM_CPU_AFFINITY."""
    STOCK = "stock"
    """vLLM's own CPU backend: a process a rank, each on one node, VLLM_CPU_OMP_THREADS_BIND."""
    PLAIN = "plain"
    """Anything else, such as an instance on a GPU: it runs wherever its CPU set lets it."""


def dialect_of(env: Mapping[str, str], *, on_cpu: bool) -> Dialect:
    """The dialect of an instance, told from what its environment sets."""
    if not on_cpu:
        return Dialect.PLAIN
    return Dialect.PATCHED if AFFINITY in env or FUSED in env else Dialect.STOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an instance is told about its CPUs, as it is written, right or wrong."""

    dialect: Dialect
    env: Mapping[str, str] = field(default_factory=dict)
    """Its environment; variables that have nothing to do with binding are let be."""
    cpuset_cpus: str = ""
    """CPUs of its container, or those that its process is started on; empty: all."""
    cpuset_mems: str = ""
    """Nodes from which its container takes memory; empty: all."""
    ranks: int = 1
    """Processes that share the model (tensor times pipeline parallel size on this host)."""

    def changes_to(self, other: "Settings") -> tuple[str, ...]:
        """What somebody must do to come from these settings to the others, a line each; empty if they are equal."""
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
    """The CPUs and memory on which an instance is to compute. All lists ascending."""

    dialect: Dialect
    groups: tuple[tuple[int, ...], ...]
    """CPUs of each rank's compute threads: one group with the patched and plain dialects."""
    cpuset: tuple[int, ...] = ()
    """CPUs to which the whole instance is confined, its other threads too. Empty: not confined."""
    memory_nodes: tuple[int, ...] = ()
    """Nodes from which its memory is to come. Empty: any."""

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs of all compute threads, ascending."""
        return tuple(sorted({cpu for group in self.groups for cpu in group}))

    @property
    def spare(self) -> tuple[int, ...]:
        """CPUs that are left for threads that do not compute (API server, scheduler, KV hand-over)."""
        return tuple(sorted(set(self.cpuset) - set(self.cpus)))

    def env(self) -> dict[str, str]:
        """The environment variables that say it, in its dialect."""
        match self.dialect:
            case Dialect.PATCHED:
                return {FUSED: "fused", THREADS: str(len(self.cpus)), AFFINITY: format_stepped(self.cpus)}
            case Dialect.STOCK:
                groups = "|".join(format_cpulist(group) for group in self.groups)
                # With a list of CPUs vLLM does not look at the number, but it says what the plan leaves free.
                return {OMP_BIND: groups} | ({RESERVED: str(len(self.spare))} if self.cpuset else {})
            case Dialect.PLAIN:
                return {}

    def settings(self, env: Mapping[str, str] | None = None) -> Settings:
        """The binding as settings; of `env` stays what does not speak of CPUs."""
        foreign = frozenset() if self.dialect is Dialect.PLAIN else CPU_VARIABLES
        kept = {key: value for key, value in (env or {}).items() if key not in foreign}
        return Settings(
            dialect=self.dialect,
            env=kept | self.env(),
            cpuset_cpus=format_cpulist(self.cpuset),
            cpuset_mems=format_cpulist(self.memory_nodes),
            ranks=len(self.groups),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What else there is on the host, and what the instance needs."""

    taken: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """CPUs of other instances and reservations, by their owner's name."""
    allowed_cpus: tuple[int, ...] | None = None
    """CPUs that the control group above the instance lets it use; None: all."""
    allowed_nodes: tuple[int, ...] | None = None
    """Nodes from which it may take memory; None: all."""
    model_bytes: int = 0
    """Weights of the whole model as they lie in memory; 0: not known."""
    kv_cache_bytes: int = 0
    """KV cache of each rank; 0: it takes what is left. See `memory_needs`."""

    def bytes_per_rank(self, ranks: int) -> int:
        """Memory that each of `ranks` processes needs."""
        return self.model_bytes // ranks + self.kv_cache_bytes
