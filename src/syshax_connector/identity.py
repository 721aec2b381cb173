# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Identifies a model with respect to its KV cache, and checks that the connector supports it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from .header import Model
from .layout import Shape
from .samples import samples_of

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class UnsupportedError(ValueError):
    """This engine's KV cache can't be handed over."""


def check_supported(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> FullAttentionSpec:
    """Returns the KV cache's specification if it is one that the connector knows.

    Raises:
        UnsupportedError: Telling which feature is not supported.
    """
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        raise _unsupported("pipeline parallelism")
    for name in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) > 1:
            raise _unsupported(f"{name} > 1")
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        raise _unsupported(f"a model with {len(groups)} KV cache groups (hybrid, or without attention)")
    spec = groups[0].kv_cache_spec
    # Not isinstance: MLA and others are subclasses with another layout.
    if type(spec) is not FullAttentionSpec:
        raise _unsupported(f"a KV cache of the kind {type(spec).__name__}")
    if spec.dtype not in _DTYPES:
        raise _unsupported(f"a KV cache of {spec.dtype}")
    if getattr(spec, "head_size_v", None) not in (None, spec.head_size):
        raise _unsupported("K and V of different sizes")
    return spec


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(f"SyshaxConnector does not support {what}; start without --kv-transfer-config")


def shape_of(vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, spec: FullAttentionSpec) -> Shape:
    """The KV cache of all ranks together."""
    return Shape(
        layers=len(kv_cache_config.kv_cache_groups[0].layer_names),
        kv_heads=vllm_config.model_config.get_total_num_kv_heads(),
        head_size=spec.head_size,
        item_bytes=spec.dtype.itemsize,
    )


def model_of(vllm_config: VllmConfig, shape: Shape, dtype: torch.dtype, identity: str) -> Model:
    """What both sides of a hand-over must agree on.

    Args:
        vllm_config: The engine's.
        shape: Of its KV cache.
        dtype: Of its KV cache.
        identity: The operator's name for the model; if empty, derived from the model's files.
    """
    hf = vllm_config.model_config.hf_text_config
    return Model(
        identity=identity or _derived(vllm_config.model_config, hf),
        dtype=str(dtype).removeprefix("torch."),
        rope=_digest(rope_of(hf)),
        layers=shape.layers,
        kv_heads=shape.kv_heads,
        head_size=shape.head_size,
    )


def rope_of(hf: Any) -> dict[str, Any]:
    """The rotary embedding's parameters, independent of the version of transformers."""
    parameters = dict(getattr(hf, "rope_parameters", None) or getattr(hf, "rope_scaling", None) or {})
    theta = parameters.pop("rope_theta", getattr(hf, "rope_theta", None))
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    return {"theta": None if theta is None else float(theta), "kind": kind, **parameters}


def _derived(model_config: Any, hf: Any) -> str:
    names = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    fixed = {name: getattr(hf, name, None) for name in names}
    folder = Path(model_config.model)
    if folder.is_dir():
        # Equal configurations may have different weights: a fine-tuned model's KV cache is another one.
        fixed["weights"] = samples_of(folder)
    else:
        fixed["weights"] = [model_config.model, model_config.revision]
    return _digest(fixed)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
