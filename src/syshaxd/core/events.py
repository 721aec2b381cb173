# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What happens in the daemon, as an operator sees it afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class EventKind(StrEnum):
    """What an event is about. The exported names never change."""

    STATE = "state"
    """An instance has changed its state."""
    CONFIG = "config"
    """The configuration, or a part of it, has changed or was refused."""
    DRIFT = "drift"
    """An instance does not keep to its binding, or does so again."""
    HANDOVER = "handover"
    """A hand-over of a KV cache has failed."""
    REQUEST = "request"
    """An operator has ended a request."""
    DAEMON = "daemon"
    """The daemon itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that has happened."""

    at_s: float
    """Unix time."""
    kind: EventKind
    text: str
    """For a person."""
    instance: str = ""
    """Empty: it is about none, or about several."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The same for a program, where there is more to say."""
