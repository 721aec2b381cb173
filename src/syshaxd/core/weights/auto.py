# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`quantize: auto`: chooses by the time that one layer of the model takes on this host."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from syshaxd.core.weights.scheme import Quantize
from syshaxd.core.weights.tensors import Tensor

ROWS = (1, 8, 16)
"""Requests that decode together."""
_MIN_GAIN = 1.1
"""Full weights stay unless others are this many times as fast."""
_MIN_GAIN_4_BITS = 1.25
"""4 bits lose more quality than 8, so they must be this many times as fast as those."""

Times = Mapping[str, Mapping[str, float] | str]
"""By kind of weights (`none` for full ones): milliseconds by rows, or why there are none."""


@dataclass(frozen=True, slots=True)
class AutoChoice:
    """The chosen weights."""

    quantize: Quantize
    """`none`, `q8_0` or `q4_0`."""
    reason: str
    """As a message."""


def full_weights(reason: str) -> AutoChoice:
    """The choice where nothing else is possible, or known."""
    return AutoChoice(Quantize.NONE, f"full weights: {reason}")


def measured_shape(tensors: Sequence[Tensor], quantised: frozenset[str]) -> tuple[int, int]:
    """Returns the rows and columns of the layer to measure: the largest that would be quantised."""
    rows, columns = max(
        (tensor.shape for tensor in tensors if tensor.name in quantised), key=lambda shape: shape[0] * shape[1]
    )
    return rows, columns


def choose_auto(times: Times) -> AutoChoice:
    """Returns the fastest weights; fewer bits only where they gain enough."""
    full = times.get(Quantize.NONE, "it was not measured")
    if isinstance(full, str):
        return full_weights(f"a layer could not be measured ({full})")
    gains = {
        name: fmean(full[rows] / its[rows] for rows in full)
        for name in (Quantize.Q8_0, Quantize.Q4_0)
        if not isinstance(its := times.get(name, ""), str)
    }
    best, least = Quantize.NONE, _MIN_GAIN
    for name, gain in gains.items():
        if gain >= least:
            best, least = name, gain * _MIN_GAIN_4_BITS
    told = " and ".join(f"{name} {gain:.2f}" for name, gain in gains.items())
    parts = [f"one layer on this host: {told} times as fast as with full weights"] if told else []
    parts += [f"{name} was not measured ({why})" for name, why in times.items() if isinstance(why, str)]
    return AutoChoice(best, f"{'full' if best is Quantize.NONE else best} weights: {'; '.join(parts)}")
