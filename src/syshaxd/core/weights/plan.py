# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The files of a quantised checkpoint, to the byte, before any of them is made."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syshaxd.core.weights.choice import choose
from syshaxd.core.weights.scheme import GROUP, Quantize, Scheme, record
from syshaxd.core.weights.tensors import Tensor, header

VERSION = 2
"""Version of the method. A change of the result increases it, so that weights are made again."""
RECORD = "syshax_weights.json"
"""The file in the new folder that records what it was made from."""
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_LENGTH = 12
_PACKED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model's folder, as far as it must be read for a plan."""

    folder: str
    config: Mapping[str, Any]
    """Its config.json."""
    files: Mapping[str, tuple[Tensor, ...]]
    """The safetensors files, by name."""
    samples: Sequence[str]
    """A digest of some bytes of each of them, in the order of the names."""
    modified_ns: Mapping[str, int] = field(default_factory=dict)
    """When each of them was last modified, so that a change under way is noticed."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further files to be copied, the tokenizer's and the like: a digest of each, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How one tensor is made."""

    source: Tensor
    results: tuple[Tensor, ...]
    """The tensor itself, or the quantised one and its scales."""
    scheme: Scheme | None = None
    """None: it is copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsPlan:
    """Everything to be done."""

    name: str
    """Name of the new folder: the model's, the kind of weights, and a fingerprint of the source and the method."""
    source: str
    quantize: Quantize
    scheme: Scheme
    files: Mapping[str, tuple[bytes, tuple[Making, ...]]]
    """The first bytes of each file, and what follows."""
    texts: Mapping[str, str]
    """Small files, by name."""
    copies: Mapping[str, str]
    """Files of the model that are copied: a digest of each, by name."""
    modified_ns: Mapping[str, int]
    """When the model's files with weights were last modified, by name."""
    left: Mapping[str, str]
    """Why a matrix is left as it is, by name."""

    @property
    def stored_bytes(self) -> int:
        """Size of the files with weights."""
        return sum(len(head) + sum(_sizes(makings)) for head, makings in self.files.values())

    @property
    def loaded_bytes(self) -> int:
        """Size of the weights in memory."""
        return sum(_loaded(making) for _, makings in self.files.values() for making in makings)

    def as_json(self) -> dict[str, Any]:
        """What `syshax_quantize` reads."""
        return {
            "source": self.source,
            "texts": dict(self.texts),
            "copies": dict(self.copies),
            "files": [
                {
                    "name": name,
                    "modified_ns": self.modified_ns.get(name),
                    "size": len(head) + sum(_sizes(makings)),
                    "header": head.hex(),
                    "tensors": [_making_json(making) for making in makings],
                }
                for name, (head, makings) in self.files.items()
            ],
        }


def plan_weights(checkpoint: Checkpoint, quantize: Quantize, scheme: Scheme) -> WeightsPlan:
    """Returns the plan that quantises a model.

    Raises:
        WeightsError: The model can't be quantised.
    """
    choice = choose(checkpoint.config, [tensor for its in checkpoint.files.values() for tensor in its])
    files = {name: _file(tensors, choice.quantised, scheme) for name, tensors in checkpoint.files.items()}
    config = dict(checkpoint.config) | {"quantization_config": scheme.config(choice.ignored)}
    made = record(quantize, scheme, VERSION)
    print_ = _fingerprint([checkpoint.config, list(checkpoint.samples), checkpoint.others, made])
    model = checkpoint.folder.rstrip("/").rpartition("/")[2] or "model"
    texts = {
        CONFIG: json.dumps(config, indent=2),
        RECORD: json.dumps(
            {
                **made,
                "source": checkpoint.folder,
                "made_from": list(checkpoint.samples),
                "left": dict(choice.left),
            },
            indent=2,
        ),
    }
    if len(files) > 1:
        texts[INDEX] = _index(files)
    return WeightsPlan(
        name=f"{model}-{quantize}-{print_}",
        source=checkpoint.folder,
        quantize=quantize,
        scheme=scheme,
        files=files,
        texts=texts,
        copies=checkpoint.others,
        modified_ns=checkpoint.modified_ns,
        left=choice.left,
    )


def _file(tensors: Sequence[Tensor], quantised: frozenset[str], scheme: Scheme) -> tuple[bytes, tuple[Making, ...]]:
    parts = [
        (tensor, *((scheme, _results(tensor, scheme)) if tensor.name in quantised else (None, (tensor,))))
        for tensor in tensors
    ]
    head, placed = header([result for _, _, results in parts for result in results])
    rest = iter(placed)
    makings = tuple(
        Making(source=tensor, scheme=its, results=tuple(next(rest) for _ in results)) for tensor, its, results in parts
    )
    return head, makings


def _results(tensor: Tensor, scheme: Scheme) -> tuple[Tensor, ...]:
    rows, columns = tensor.shape
    module = tensor.name.removesuffix("weight")
    weight, scale = module + scheme.weight, f"{module}weight_scale"
    if scheme is Scheme.INT8:
        return Tensor(weight, "I8", (rows, columns)), Tensor(scale, "F32", (rows, 1))
    scales = Tensor(scale, "BF16", (rows, columns // GROUP))
    if scheme is Scheme.INT4:
        return Tensor(weight, "I8", (rows, columns)), scales
    return Tensor(weight, "I32", (rows, columns // _PACKED)), scales, Tensor(f"{module}weight_shape", "I64", (2,))


def _sizes(makings: Sequence[Making]) -> Iterator[int]:
    return (result.bytes for making in makings for result in making.results)


def _loaded(making: Making) -> int:
    if making.scheme is None:  # vLLM loads 32 bits as 16
        return making.source.bytes // (2 if making.source.dtype == "F32" else 1)
    size = sum(result.bytes for result in making.results)
    return size - making.source.items // 2 if making.scheme is Scheme.INT4 else size


def _index(files: Mapping[str, tuple[bytes, tuple[Making, ...]]]) -> str:
    names = {
        result.name: name for name, (_, makings) in files.items() for making in makings for result in making.results
    }
    total = sum(size for _, makings in files.values() for size in _sizes(makings))
    return json.dumps({"metadata": {"total_size": total}, "weight_map": names}, indent=2)


def _making_json(making: Making) -> dict[str, Any]:
    source = making.source
    return {
        "name": source.name,
        "offset": source.offset,
        "dtype": source.dtype,
        "shape": list(source.shape),
        "bytes": source.bytes,
        "scheme": making.scheme,
        "to": [result.offset for result in making.results],
    }


def _fingerprint(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_LENGTH]
