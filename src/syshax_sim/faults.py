# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Faults on demand."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """The faults now in force; none by default. `POST /sim/fault` sets those that its JSON object names."""

    hang: bool = False
    """Connections are accepted, but no request is answered, whatever its route."""
    stall: bool = False
    """The engine's steps do not end: streams fall silent while everything else is answered."""
    health_status: int = 200
    """Status of GET /health."""
    api_status: int = 200
    """Status of POST /v1/...: other than 200, an error object."""
    api_faults: int = 0
    """How many requests get `api_status` before all is well again; 0: no end."""
    break_after_events: int = 0
    """Every stream's connection is broken after so many events with tokens; 0: none is."""
    break_after_last_token: bool = False
    """Every stream's connection is broken when all its tokens have been sent, before usage and [DONE]."""
    error_first: int = 0
    """Every stream begins, and ends, with an error event of this code; 0: none does."""
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    """What answers of POST /v1/... have more in their heads."""
    event_fields: Mapping[str, Any] = field(default_factory=dict)
    """What every event with tokens has more of."""
    lose_loads: bool = False
    """KV caches that were handed over are not found: prompts are computed again."""
    metrics_delay_s: float = 0.0
    """Pause before /metrics answers."""
    metrics_text: str = ""
    """What /metrics says instead."""
    busy_s: float = 0.0
    """The server's only thread computes for so long, once, and answers nobody meanwhile, as vLLM's API server does
    with a request whose answer is huge."""
    poison: str = ""
    """A request with this text in its body ends the process; empty: none does."""
    poison_after_s: float = 0.0
    """The process ends so long after it got such a request, which has no answer until then."""
    die: int | None = None
    """The process ends with this code, at once: the POST gets no answer."""

    def changed(self, values: Mapping[str, Any]) -> "Faults":
        """Returns these faults with `values` in place of some.

        Raises:
            ValueError: There is no such fault.
        """
        if unknown := values.keys() - {item.name for item in fields(self)}:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        return replace(self, **values)
