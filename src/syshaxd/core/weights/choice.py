# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which tensors of a checkpoint are quantised, and why the others are not."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syshaxd.core.weights.scheme import GROUP
from syshaxd.core.weights.tensors import Tensor, WeightsError

_WEIGHT = ".weight"
_LAYERS = "layers"
_TYPES = frozenset(("BF16", "F16", "F32"))
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_NOT_TEXT = ("vision_config", "audio_config", "speech_config", "encoder_config")
# vLLM makes one matrix of each of these, which must be of one scheme.
_FUSED = (frozenset(("q_proj", "k_proj", "v_proj")), frozenset(("gate_proj", "up_proj")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What becomes of a checkpoint's tensors."""

    quantised: frozenset[str]
    """Names of the tensors that are quantised."""
    left: Mapping[str, str]
    """Why a matrix is left as it is, by the tensor's name. Vectors are left, too, and not listed."""

    @property
    def ignored(self) -> frozenset[str]:
        """Modules that the engine must not take for quantised ones."""
        return frozenset(name.removesuffix(_WEIGHT) for name in self.left) | {"lm_head"}


def choose(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> Choice:
    """Returns what is quantised of a model.

    Args:
        config: Its config.json.
        tensors: Of all its files.

    Raises:
        WeightsError: Nothing can be.
    """
    if refused := _refusal(config):
        raise WeightsError(refused)
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    left = {tensor.name: why for tensor in matrices if (why := _why_left(tensor))}
    for names in _fused(matrices):
        if odd := [name for name in names if name in left]:
            left |= {name: f"the engine joins it with {odd[0]}, which is left" for name in names if name not in left}
    quantised = frozenset(tensor.name for tensor in matrices if tensor.name not in left)
    if not quantised:
        raise WeightsError("the model has no layer that can be quantised: only plain matrices in `layers` are")
    return Choice(quantised=quantised, left=left)


def _refusal(config: Mapping[str, Any]) -> str:
    if "quantization_config" in config:
        kind = config["quantization_config"]
        method = kind.get("quant_method", "unknown") if isinstance(kind, Mapping) else "unknown"
        return f"the model is quantised already (quant_method {method}): set quantize to none, or name its source"
    if experts := next((name for name in _EXPERTS if config.get(name)), ""):
        return f"the model is a mixture of experts ({experts}): stock vLLM has no such kernel for CPUs; use none"
    if config.get("kv_lora_rank"):
        return "the model has latent attention (MLA), whose matrices the engine takes apart: use none"
    if other := next((name for name in _NOT_TEXT if config.get(name)), ""):
        return f"the model is not one of text alone ({other}), and no other is quantised; use none"
    return ""


def _why_left(tensor: Tensor) -> str:
    if not tensor.name.endswith(_WEIGHT) or len(tensor.shape) != 2:
        return "not a matrix of weights"
    parts = tensor.name.split(".")
    if _LAYERS not in parts or "embed" in parts[-2]:
        return "not in a layer (vocabulary and the like)"
    if tensor.dtype not in _TYPES:
        return f"of {tensor.dtype}, not of 16 or 32 bits"
    if any(size % GROUP or not size for size in tensor.shape):
        return f"{' x '.join(map(str, tensor.shape))} is not in multiples of {GROUP}"
    return ""


def _fused(matrices: Sequence[Tensor]) -> list[list[str]]:
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for tensor in matrices:
        module, _, name = tensor.name.removesuffix(_WEIGHT).rpartition(".")
        for at, fused in enumerate(_FUSED):
            if name in fused:
                groups[module, at].append(tensor.name)
    return list(groups.values())
