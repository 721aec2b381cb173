# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Events of the daemon, as operators see them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """The subject of an event. The exported names never change."""

    STATE = "state"
    """An instance changed its state."""
    CONFIG = "config"
    """The configuration was changed or a change was refused."""
    DRIFT = "drift"
    """An instance left its CPU binding, or returned to it."""
    HANDOVER = "handover"
    """A hand-over of a KV cache has failed."""
    REQUEST = "request"
    """An operator cancelled a request."""
    MODEL = "model"
    """An on-demand model was started or stopped, CPUs begin or cease to answer a model alone, or an instance serves
    other models."""
    OFFLOAD = "offload"
    """Help by a CPU was switched off as it does not pay, or is tried again."""
    CALIBRATION = "calibration"
    """The instances were calibrated at first start, or could not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event."""

    at_s: float
    """Unix time."""
    kind: EventKind
    text: str
    """For a person."""
    instance: str = ""
    """Empty: about none or several."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Details for programs."""
