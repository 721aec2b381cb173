# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What `q8_0` and `q4_0` are on a stock engine, and what they need of the CPU.

Sources: vLLM 0.32, model_executor/kernels/linear (scaled_mm/cpu.py, mixed_precision/cpu.py and dynamic_4bit.py), and
docs/quantize.md for what was measured.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from syshaxd.core.weights.tensors import WeightsError

GROUP = 32
"""Weights of a row that share a scale, with 4 bits."""
_AMX = frozenset(("amx_int8", "amx_bf16"))


class Quantize(StrEnum):
    """What the configuration asks for."""

    NONE = "none"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    AUTO = "auto"
    """What is quickest on this host, by measurement."""


class Scheme(StrEnum):
    """How a matrix is stored, in the words of compressed-tensors."""

    INT8 = "int8"
    """8 bits, a scale a row; the activations become 8 bits while the engine runs."""
    PACK4 = "pack4"
    """4 bits, eight to a word, a scale for 32."""
    INT4 = "int4"
    """4 bits, each in a byte of the file, a scale for 32; the engine packs them for Arm's kernels."""

    @property
    def weight(self) -> str:
        """The last part of the name of a quantised matrix."""
        return "weight_packed" if self is Scheme.PACK4 else "weight"

    def config(self, ignore: Collection[str]) -> dict[str, Any]:
        """The `quantization_config` of config.json. `ignore`: modules whose weights are left as they are."""
        weights: dict[str, Any] = {"type": "int", "symmetric": True, "dynamic": False}
        if self is Scheme.INT8:
            weights |= {"num_bits": 8, "strategy": "channel"}
        else:
            weights |= {"num_bits": 4, "strategy": "group", "group_size": GROUP}
        activations = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": None if self is Scheme.PACK4 else activations,
        }
        return {
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": "pack-quantized" if self is Scheme.PACK4 else "int-quantized",
            "config_groups": {"group_0": group},
            "ignore": sorted(ignore),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """What is known of the CPUs that compute."""

    machine: str = "x86_64"
    """As the kernel names it."""
    flags: frozenset[str] = frozenset()
    """As /proc/cpuinfo lists them."""


def scheme_of(quantize: Quantize, cpu: Cpu) -> Scheme:
    """Returns how the weights are stored for these CPUs.

    Raises:
        WeightsError: A stock engine has no quick kernel for that here.
    """
    if quantize is Quantize.Q8_0:
        return Scheme.INT8
    if cpu.machine == "aarch64":
        return Scheme.INT4
    if cpu.flags >= _AMX:
        return Scheme.PACK4
    raise WeightsError(
        "q4_0: this CPU has no AMX, without which vLLM unpacks 4 bits to 16 and is slower than with bf16; use q8_0"
    )


def record(quantize: Quantize, scheme: Scheme, version: int) -> Mapping[str, Any]:
    """How weights were made, for their record."""
    return {"quantize": quantize, "scheme": scheme, "version": version}
