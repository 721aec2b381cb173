# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Computes how much of a node's memory a model needs."""

from dataclasses import dataclass

from syshaxd.core.numa.binding import KV_SPACE, QUANTIZE, BindingSettings, Dialect

_GIB = 2**30
# Blocks of 32 weights and a 16-bit scale, against 16 bits a weight.
_QUANTIZED = {"q8_0": (32 * 8 + 16) / (32 * 16), "q4_0": (32 * 4 + 16) / (32 * 16)}
_BITS = {"float32": 32, "float": 32, "float16": 16, "half": 16, "bfloat16": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model's weights as stored."""

    stored_bytes: int
    dtype: str = ""
    """Type as in config.json, such as `bfloat16`. Empty: not stated, or packed and loaded unchanged."""

    def loaded_bytes(self, dtype: str = "auto") -> int:
        """Their size in memory.

        Args:
            dtype: vLLM's `--dtype`. With `auto`, vLLM loads 32-bit weights as 16-bit, and others unchanged.
        """
        stored = _BITS.get(self.dtype)
        loaded = min(stored or 0, 16) if dtype == "auto" else _BITS.get(dtype)
        return self.stored_bytes * loaded // stored if stored and loaded else self.stored_bytes


def memory_needs(settings: BindingSettings, weights_bytes: int) -> tuple[int, int]:
    """Memory needs by the settings: bytes of the loaded weights and of each rank's KV cache (0: not set).

    Args:
        settings: Of the instance.
        weights_bytes: The weights as loaded; SYSHAX_QUANTIZE shrinks them.
    """
    if settings.dialect is Dialect.PATCHED:
        return int(weights_bytes * _QUANTIZED.get(settings.env.get(QUANTIZE, ""), 1.0)), 0
    space = settings.env.get(KV_SPACE, "")
    return weights_bytes, int(space) * _GIB if space.isascii() and space.isdecimal() else 0
