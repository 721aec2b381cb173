# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Quantised weights: what is made of a checkpoint's tensors, and how the new checkpoint lies in its files.

`scheme` says what q8_0 and q4_0 are, `tensors` what a checkpoint holds, `choice` what is quantised of it, `plan` the
files that are made. `syshax_quantize` carries a plan out and decides nothing.
"""

from syshaxd.core.weights.choice import choose
from syshaxd.core.weights.plan import RECORD, Checkpoint, WeightsPlan, plan_weights
from syshaxd.core.weights.scheme import Quantize, Scheme, scheme_of
from syshaxd.core.weights.tensors import Tensor, WeightsError, parse_header

__all__ = [
    "RECORD",
    "Checkpoint",
    "Quantize",
    "Scheme",
    "Tensor",
    "WeightsError",
    "WeightsPlan",
    "choose",
    "parse_header",
    "plan_weights",
    "scheme_of",
]
