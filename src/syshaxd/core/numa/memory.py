# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How much of a node's memory a model needs."""

from dataclasses import dataclass

from syshaxd.core.numa.binding import KV_SPACE, QUANTIZE, Dialect, Settings

_GIB = 2**30
# Blocks of 32 weights and a 16-bit scale, against 16 bits a weight.
_QUANTIZED = {"q8_0": (32 * 8 + 16) / (32 * 16), "q4_0": (32 * 4 + 16) / (32 * 16)}
_BITS = {"float32": 32, "float": 32, "float16": 16, "half": 16, "bfloat16": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model's weights as they are stored."""

    stored_bytes: int
    dtype: str = ""
    """Of each, as config.json names it, such as `bfloat16`. Empty: not told, or packed, and loaded as they are."""

    def loaded_bytes(self, dtype: str = "auto") -> int:
        """Their size in memory.

        Args:
            dtype: vLLM's `--dtype`. With `auto` it loads those of 32 bits with 16, and others as they are stored.
        """
        stored = _BITS.get(self.dtype)
        loaded = min(stored or 0, 16) if dtype == "auto" else _BITS.get(dtype)
        return self.stored_bytes * loaded // stored if stored and loaded else self.stored_bytes


def memory_needs(settings: Settings, weights_bytes: int) -> tuple[int, int]:
    """What settings say of memory: bytes of the weights in use, and of each rank's KV cache (0: they don't say).

    Args:
        settings: Of the instance.
        weights_bytes: The weights as they are loaded; SYSHAX_QUANTIZE makes them smaller.
    """
    if settings.dialect is Dialect.PATCHED:
        return int(weights_bytes * _QUANTIZED.get(settings.env.get(QUANTIZE, ""), 1.0)), 0
    space = settings.env.get(KV_SPACE, "")
    return weights_bytes, int(space) * _GIB if space.isascii() and space.isdecimal() else 0
