# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Small models on disk, and quantised weights read back into numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from syshaxd.core.weights.tensors import Tensor, header, parse_header

LLAMA: Mapping[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16"}
HIDDEN, INNER, WORDS = 64, 96, 50


def tensors(layers: int = 2, hidden: int = HIDDEN, inner: int = INNER) -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, by name."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (WORDS, hidden), "model.norm.weight": (hidden,)}
    for at in range(layers):
        layer = f"model.layers.{at}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{layer}.mlp.{name}.weight"] = (inner, hidden)
        shapes[f"{layer}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{layer}.input_layernorm.weight"] = (hidden,)
    return shapes


def write_file(path: Path, arrays: Mapping[str, "np.ndarray[Any, Any]"], dtype: str = "BF16") -> None:
    """Writes numbers of 32 bits as a safetensors file of another type."""
    head, placed = header([Tensor(name, dtype, array.shape) for name, array in arrays.items()])
    with path.open("wb") as file:
        file.write(head)
        for tensor in placed:
            file.write(stored(arrays[tensor.name], dtype))


def stored(array: "np.ndarray[Any, Any]", dtype: str) -> bytes:
    if dtype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return array.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()


def write_model(
    folder: Path,
    *,
    shards: int = 2,
    config: Mapping[str, Any] = LLAMA,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    dtype: str = "BF16",
) -> Path:
    """Writes a model of random weights in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(seed)
    names = shapes or tensors()
    arrays = {name: numbers.standard_normal(shape, np.float32) * 0.02 for name, shape in names.items()}
    files = [f"model-{at + 1:05}-of-{shards:05}.safetensors" for at in range(shards)]
    homes = {name: files[at * shards // len(arrays)] for at, name in enumerate(arrays)}
    for file in files:
        write_file(folder / file, {name: arrays[name] for name in arrays if homes[name] == file}, dtype)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text('{"words": []}')
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    return folder


def read(folder: Path) -> dict[str, "np.ndarray[Any, Any]"]:
    """All tensors of a folder, numbers of 16 bits as numbers of 32."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for tensor in parse_header(path.name, data[8 : 8 + length], len(data)):
            raw = data[tensor.offset : tensor.offset + tensor.bytes]
            if tensor.dtype == "BF16":
                array = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
            else:
                types = {"I8": "<i1", "I32": "<u4", "I64": "<i8", "F32": "<f4", "F16": "<f2"}
                array = np.frombuffer(raw, types[tensor.dtype])
            found[tensor.name] = array.reshape(tensor.shape)
    return found


def restored(arrays: Mapping[str, "np.ndarray[Any, Any]"], name: str) -> "np.ndarray[Any, Any]":
    """A matrix as an engine would take it from its quantised form, from what compressed-tensors says of that."""
    module = name.removesuffix("weight")
    scales = arrays[f"{module}weight_scale"]
    if (packed := arrays.get(f"{module}weight_packed")) is not None:
        parts = (packed[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
        numbers = parts.reshape(len(packed), -1).astype(np.float32) - 8
        assert list(arrays[f"{module}weight_shape"]) == list(numbers.shape)
    else:
        numbers = arrays[name].astype(np.float32)
    return numbers * np.repeat(scales, numbers.shape[1] // scales.shape[1], axis=1)
