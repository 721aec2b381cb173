# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Values of any dataclass of core, as odd as their types allow: huge numbers, NaN, lone surrogates, controls."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from random import Random
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_TEXTS = ("", "gpu", "cpu", "a b", "\ud800", "x\udcff", "\0", "\x1b[31m", "[bold]", "\n\n", "中文 🎉", "long " * 40)
_INTS = (0, 1, -1, 7, 300, 2**31, 2**32, 5_000_000_000, 2**63, 2**64, -(2**70), 10**400)
_FLOATS = (0.0, 0.5, 1.0, -1.0, 1e-320, 1e18, 1.7e308, -1.7e308, math.nan, math.inf, -math.inf)


def odd(kind: Any, random: Random) -> Any:
    """A value of a type."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is NoneType:
        return None
    if origin in (Union, UnionType):
        return odd(random.choice(args), random)
    if origin is tuple:
        parts = [args[0]] * random.randint(0, 3) if args[1:] == (...,) else args
        return tuple(odd(part, random) for part in parts)
    if origin is not None and issubclass(origin, Mapping):
        return {odd(args[0], random): odd(args[1], random) for _ in range(random.randint(0, 3))}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return random.choice(list(kind))
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{field.name: odd(hints[field.name], random) for field in fields(kind) if field.init})
    if kind is bool:
        return random.random() < 0.5
    return random.choice({int: _INTS, float: _FLOATS, str: _TEXTS}[kind])
