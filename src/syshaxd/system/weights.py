# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Models' folders as a plan for quantised weights needs them, and the folder in which such weights are kept."""

import fcntl
import hashlib
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syshaxd.core.errors import ConflictError, NotFoundError
from syshaxd.core.weights import (
    RECORD,
    Checkpoint,
    Quantize,
    Tensor,
    WeightsError,
    WeightsPlan,
    plan_weights,
    scheme_of,
)
from syshaxd.core.weights.plan import CONFIG, INDEX
from syshaxd.core.weights.scheme import Cpu
from syshaxd.core.weights.tensors import LENGTH_BYTES, MOST_HEADER_BYTES, parse_header
from syshaxd.system import rundir, smallfile

_CPUINFO = Path("/proc/cpuinfo")
_WEIGHTS = frozenset((".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt"))
_NOT_COPIED = frozenset((CONFIG, INDEX, RECORD))
# Tokenizers have some 20 MB at most.
_MOST_COPIED_BYTES = 100 << 20
_HIDDEN = "."
# Which `syshax_quantize` holds while it makes something in the folder.
_LOCK = ".lock"
_SAMPLE_BYTES = 1 << 16
_SAMPLES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Quantised weights that are kept."""

    path: Path
    stored_bytes: int
    record: Mapping[str, Any]
    """How they were made; empty: it can't be read, or they are not whole yet."""

    @property
    def is_whole(self) -> bool:
        """Whether an instance can use them; else they were begun only."""
        return not self.path.name.startswith(_HIDDEN)


def weights_dir() -> Path:
    """The folder in which quantised weights are kept. It need not exist yet."""
    return rundir.state_dir() / "weights"


def this_cpu() -> Cpu:
    """This host's CPUs, as far as it can be read."""
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((value for key, _, value in lines if key.strip() in {"flags", "Features"}), "")
    return Cpu(machine=platform.machine(), flags=frozenset(flags.split()))


def plan_for(model: Path, quantize: Quantize, cpu: Cpu | None = None) -> WeightsPlan:
    """Returns how a model is quantised for this host.

    Raises:
        WeightsError: It can't be.
    """
    return plan_weights(read_checkpoint(model), quantize, scheme_of(quantize, cpu or this_cpu()))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Reads a model's folder, of the weights only what they are.

    Raises:
        WeightsError: It is none, or its files are not whole.
    """
    folder = folder.absolute()
    try:
        config = smallfile.read_json(folder / CONFIG)
        paths = sorted(folder.glob("*.safetensors"))
        modified_ns = {path.name: path.stat().st_mtime_ns for path in paths}  # before anything is read of them
        files = {path.name: _tensors(path) for path in paths}
        samples = weight_samples(folder)
        others = {path.name: _digest(path) for path in sorted(folder.iterdir()) if _is_copied(path)}
    except OSError as error:
        raise WeightsError(
            f"{error.filename or folder}: {error.strerror or error}; name the folder of a model"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{folder / CONFIG} can't be understood: {error}; copy the model again") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{folder / CONFIG} is no JSON object; copy the model again")
    if not files:
        raise WeightsError(f"{folder} holds no *.safetensors: only such weights are quantised")
    _check_whole(folder, files)
    return Checkpoint(
        folder=str(folder), config=config, files=files, samples=samples, modified_ns=modified_ns, others=others
    )


def _tensors(path: Path) -> tuple[Tensor, ...]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(MOST_HEADER_BYTES, size):
            raise WeightsError(f"{path.name} is not a complete safetensors file; copy it again")
        return parse_header(path.name, file.read(length), size)


def _check_whole(folder: Path, files: Mapping[str, object]) -> None:
    """Raises WeightsError if the index names a file that is not there."""
    index = folder / INDEX
    if not index.exists():
        return
    try:
        wanted = set(smallfile.read_json(index)["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} can't be read: {error}; copy the model again") from None
    if missing := sorted(wanted - files.keys()):
        raise WeightsError(f"{folder} lacks {missing[0]}, which its index names; copy the model again")


def _is_copied(path: Path) -> bool:
    return (
        not path.name.startswith(_HIDDEN)
        and path.name not in _NOT_COPIED
        and not path.name.endswith(".index.json")
        and path.suffix not in _WEIGHTS
        and path.is_file()
        and path.stat().st_size <= _MOST_COPIED_BYTES
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_samples(folder: Path) -> list[str]:
    """A digest of some bytes of each file of weights, in the order of their names. Raises OSError."""
    return [_sample(file) for file in sorted(folder.glob("*.safetensors"))]


def _sample(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as data:
        for part in range(_SAMPLES):
            data.seek(max(0, size - _SAMPLE_BYTES) * part // (_SAMPLES - 1))
            digest.update(data.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def kept(folder: Path) -> list[Kept]:
    """Returns what is kept in a folder of quantised weights, also what was only begun."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir():
            sizes = [each.stat().st_size for each in path.glob("*.safetensors*")]
            found.append(Kept(path=path, stored_bytes=sum(sizes), record=record_of(path)))
    return found


def remove(folder: Path, name: str) -> Path:
    """Removes what is kept under a name, and returns where it was.

    Raises:
        NotFoundError: There is no such thing.
        ConflictError: It is not complete, and some weights are being made in this folder.
        OSError: It can't be removed.
    """
    names = {its.path.name: its.path for its in kept(folder)}
    if name not in names:
        raise NotFoundError(f"{folder} has no {name}; available: {', '.join(names) or 'nothing'}")
    path = names[name]
    if not path.name.startswith(_HIDDEN):
        # Half removed, it must not be taken for whole ones.
        hidden = path.with_name(f"{_HIDDEN}removed-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        path.rename(hidden)
        shutil.rmtree(hidden)
        return path
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"{path} may still be in progress: interrupt that, or stop its instance, first"
            ) from None
        shutil.rmtree(path)
    return path


def record_of(folder: Path) -> dict[str, Any]:
    """What a folder's weights were made of; empty: they were not quantised by sysHAX."""
    try:
        content = smallfile.read_json(folder / RECORD)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def left_texts(left: Mapping[str, str]) -> Iterator[str]:
    """What is left as it is, for a person: reasons with one example each."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: {why}"
