# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads the host's topology, thread affinities and memory placement from /sys and /proc.

Functions take the root folder as an argument, so that a copy of another host's files can be read too. A
file that is missing or odd is an error that names it; it never counts as empty.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from syshaxd.core.errors import ProcessGoneError, SyshaxError, TopologyError
from syshaxd.core.numa import Accelerator, AcceleratorKind, Memory, Node, NumaTopology, NumaUsage, Thread, Weights
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.system import smallfile

_ROOT = Path("/")
_CPUS = "sys/devices/system/cpu"
_NODES = "sys/devices/system/node"
_PCI = "sys/bus/pci/devices"
_KIB = 1024

_MEM_TOTAL = re.compile(r"^(?:Node \d+ )?MemTotal:\s+(\d+) kB$", re.MULTILINE)
_STATUS_FIELD = re.compile(r"^(\w+):\t(.*)$", re.MULTILINE)
_PAGES = re.compile(r" N(\d+)=(\d+)")
_PAGE_SIZE = re.compile(r" kernelpagesize_kB=(\d+)")
_MAPPING = re.compile(r"[0-9a-f]+ \S+( .*)?")
# Files that count as memory: shared segments, whose pages belong to the processes as the heap does.
_SHARED_MEMORY = re.compile(r" file=(?:/dev/shm/|/memfd:|/SYSV|/dev/zero|/anon_hugepage|anon_inode:)")

_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x19e5": "Huawei"}
_DISPLAY, _DISPLAY_3D, _ACCELERATOR = "0x03", "0x0302", "0x12"

_MOST_DIGITS = 18
T = TypeVar("T")


def topology(root: Path = _ROOT) -> NumaTopology:
    """Returns the topology of the host whose /sys is under `root`.

    A kernel without NUMA shows no nodes: then all CPUs and all memory are one node.

    Raises:
        TopologyError: A file is missing or not valid; the message names it.
    """
    online = _cpulist(root / _CPUS / "online")
    present = _cpulist(root / _CPUS / "present")
    if (root / _NODES).is_dir():
        nodes = tuple(_node(root / _NODES / f"node{node}", node) for node in _cpulist(root / _NODES / "online"))
    else:
        nodes = (Node(id=0, cpus=online, memory_bytes=_memory_bytes(root / "proc/meminfo"), distances=(10,)),)
    return NumaTopology(
        nodes=nodes,
        cores=_groups(root, online, ("core_cpus_list", "thread_siblings_list")),
        sockets=_groups(root, online, ("package_cpus_list", "core_siblings_list")),
        offline=tuple(cpu for cpu in present if cpu not in set(online)),
        accelerators=tuple(_accelerators(root / _PCI)),
    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a process's cgroup and affinity allow."""

    cpus: tuple[int, ...]
    nodes: tuple[int, ...]


def allowed(pid: int | str = "self", root: Path = _ROOT) -> Allowed:
    """Returns the CPUs on which a process may run and the nodes from which it may allocate memory.

    Raises:
        ProcessGoneError: It has ended.
        TopologyError: The kernel's answer is not valid.
    """
    path = root / "proc" / str(pid) / "status"
    fields = _status(path)
    return Allowed(_allowed_list(path, fields, "Cpus_allowed_list"), _allowed_list(path, fields, "Mems_allowed_list"))


def weights(folder: Path) -> Weights:
    """Returns a model's weights on disk: its safetensors files, else its GGUF or PyTorch files.

    Raises:
        SyshaxError: There are none, or the model's config.json can't be read.
    """
    for pattern in ("*.safetensors", "*.gguf", "*.bin"):
        if sizes := [path.stat().st_size for path in folder.glob(pattern)]:
            return Weights(stored_bytes=sum(sizes), dtype=_dtype(folder / "config.json"))
    raise SyshaxError(f"{folder} holds no weights (*.safetensors, *.gguf, *.bin): is it the folder of a model?")


def _dtype(path: Path) -> str:
    """Type of the weights; empty if they are packed or there is no such file."""
    try:
        config = smallfile.read_json(path)
        return "" if "quantization_config" in config else str(config.get("dtype") or config.get("torch_dtype") or "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SyshaxError(f"can't read {path}, a model's configuration: {error}") from error


def process_tree(pid: int, root: Path = _ROOT) -> tuple[int, ...]:
    """Returns a process and all that descend from it, parents first.

    Raises:
        ProcessGoneError: It has ended.
    """
    children: dict[int, list[int]] = {}
    for path in (root / "proc").iterdir():
        if path.name.isdecimal():
            try:
                parent = int(_status(path / "status")["PPid"])
            except (ProcessGoneError, TopologyError, ValueError):
                continue  # it ended meanwhile, or another user's process can't be read
            children.setdefault(parent, []).append(int(path.name))
    if not (root / "proc" / str(pid)).is_dir():
        raise ProcessGoneError(f"process {pid} has ended")
    tree = [pid]
    for member in tree:
        tree += sorted(children.get(member, []))
    return tuple(tree)


def cpu_time_s(pid: int, root: Path = _ROOT) -> float:
    """Returns the CPU time, in seconds, of a process and all that descend from it.

    Raises:
        ProcessGoneError: It has ended.
        TopologyError: The kernel's answer is not valid.
    """
    ticks = 0
    for member in process_tree(pid, root):
        path = root / "proc" / str(member) / "stat"
        try:
            # The name, which is in brackets, may itself hold blanks and brackets.
            fields = _proc(path).rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        except ProcessGoneError:
            continue
        except (ValueError, IndexError):
            raise TopologyError(f"{path} does not show the CPU time") from None
    return ticks / os.sysconf("SC_CLK_TCK")


def placement(pid: int, root: Path = _ROOT) -> NumaUsage:
    """Returns affinities and memory placement of a process and its descendants.

    To answer for the memory the kernel walks all page tables: for tens of gigabytes that takes a good part of a second,
    during which the process can't map memory. Ask seldom.

    Raises:
        ProcessGoneError: The process has ended; a descendant that ends meanwhile is left out.
        TopologyError: The kernel's answer is not valid.
    """
    threads: list[Thread] = []
    memory: list[Memory] = []
    unreadable: list[str] = []
    walk_s = 0.0
    for member in process_tree(pid, root):
        try:
            threads += _threads(root / "proc" / str(member), member)
            started_s = time.monotonic()
            memory.append(_memory(root / "proc" / str(member) / "numa_maps", member))
            walk_s += time.monotonic() - started_s
        except ProcessGoneError:
            if member == pid:
                raise
        except _UnreadableError as error:
            unreadable.append(str(error))
    if all(thread.pid != pid for thread in threads):
        raise ProcessGoneError(f"process {pid} has ended")
    return NumaUsage(threads=tuple(threads), memory=tuple(memory), unreadable=tuple(unreadable), walk_s=walk_s)


class _UnreadableError(SyshaxError):
    """The kernel does not permit this user to read it."""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="surrogateescape")
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        raise TopologyError(f"{path} is missing") from None
    except OSError as error:
        raise TopologyError(f"can't read {path}: {error.strerror}") from error


def _parsed(path: Path, parse: Callable[[str], T]) -> T:
    text = _read(path).strip()
    try:
        return parse(text)
    except (ValueError, OverflowError, MemoryError) as error:
        raise TopologyError(f"{path}: {error}") from None


def _cpulist(path: Path) -> tuple[int, ...]:
    return _parsed(path, parse_cpulist)


def _node(folder: Path, node: int) -> Node:
    def cpus(text: str) -> tuple[int, ...]:
        return parse_cpulist(text) if text else ()  # a memory-only node

    return Node(
        id=node,
        cpus=_parsed(folder / "cpulist", cpus),
        memory_bytes=_memory_bytes(folder / "meminfo"),
        distances=_parsed(folder / "distance", lambda text: tuple(map(int, text.split()))),
    )


def _memory_bytes(path: Path) -> int:
    match = _MEM_TOTAL.search(_read(path))
    if match is None or len(match[1]) > _MOST_DIGITS:
        raise TopologyError(f"{path} has no line `MemTotal: N kB`")
    return int(match[1]) * _KIB


def _groups(root: Path, online: tuple[int, ...], names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """The groups of online CPUs, by the first of these files under cpuN/topology that exists."""
    folders = {cpu: root / _CPUS / f"cpu{cpu}" / "topology" for cpu in online}
    first = folders[online[0]]
    name = next((name for name in names if (first / name).exists()), None)
    if name is None:
        raise TopologyError(f"{first / names[0]} is missing")
    groups = (tuple(cpu for cpu in _cpulist(folder / name) if cpu in folders) for folder in folders.values())
    return tuple(sorted(set(groups)))


def _accelerators(folder: Path) -> Iterator[Accelerator]:
    if not folder.is_dir():
        return  # a host without PCI
    for path in sorted(folder.iterdir()):
        kind = _accelerator_kind(_read(path / "class").strip(), vendor := _read(path / "vendor").strip())
        if kind is not None:
            node = _parsed(path / "numa_node", int)
            yield Accelerator(
                kind=kind, address=path.name, vendor=_VENDORS.get(vendor, vendor), node=node if node >= 0 else None
            )


def _accelerator_kind(pci_class: str, vendor: str) -> AcceleratorKind | None:
    """Whether a PCI device is an accelerator, by class. Display controllers of other vendors are server consoles."""
    if pci_class.startswith(_ACCELERATOR):
        return AcceleratorKind.GPU if _VENDORS.get(vendor) == "AMD" else AcceleratorKind.NPU
    computes = pci_class.startswith(_DISPLAY_3D) or _VENDORS.get(vendor) in ("NVIDIA", "AMD")
    return AcceleratorKind.GPU if pci_class.startswith(_DISPLAY) and computes else None


def _proc(path: Path) -> str:
    """Reads a file of a process, which may end at any moment."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(f"{path} is gone: the process or thread has ended") from None
    except PermissionError:
        raise _UnreadableError(f"{path} may be read only by its owner and root") from None
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise ProcessGoneError(f"{path} is gone: the process or thread has ended") from None
        raise TopologyError(f"can't read {path}: {error.strerror}") from error


def _status(path: Path) -> dict[str, str]:
    fields = dict(_STATUS_FIELD.findall(_proc(path)))
    if "PPid" not in fields:
        raise TopologyError(f"{path} has no line `PPid:`")
    return fields


def _allowed_list(path: Path, fields: dict[str, str], key: str) -> tuple[int, ...]:
    if key not in fields:
        raise TopologyError(f"{path} has no line `{key}:`")
    try:
        return parse_cpulist(fields[key])
    except ValueError as error:
        raise TopologyError(f"{path}, {key}: {error}") from None


def _thread_ids(folder: Path) -> list[int]:
    try:
        return sorted(int(path.name) for path in (folder / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessGoneError(f"{folder} is gone: the process has ended") from None


def _threads(folder: Path, pid: int) -> Iterator[Thread]:
    for tid in _thread_ids(folder):
        path = folder / "task" / str(tid) / "status"
        try:
            fields = _status(path)
        except ProcessGoneError:
            continue
        if fields.get("State", "").startswith(("Z", "X")):
            continue  # a zombie
        cpus = _allowed_list(path, fields, "Cpus_allowed_list")
        yield Thread(pid=pid, tid=tid, name=fields.get("Name", ""), cpus=cpus)


def _memory(path: Path, pid: int) -> Memory:
    own: dict[int, int] = {}
    for line in _proc(path).splitlines():
        if not _MAPPING.fullmatch(line):
            raise TopologyError(f"{path}: {line!r} is not a mapping")
        if pages := _PAGES.findall(line):
            size = _PAGE_SIZE.search(line)
            if size is None:
                raise TopologyError(f"{path}: {line!r} has no kernelpagesize_kB")
            if " file=" in line and not _SHARED_MEMORY.search(line):
                continue
            for node, count in pages:
                own[int(node)] = own.get(int(node), 0) + int(count) * int(size[1]) * _KIB
    return Memory(pid=pid, own_bytes=own)
