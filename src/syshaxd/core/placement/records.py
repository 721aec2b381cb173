# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The measurements of a request, and how it ended."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from syshaxd.core.placement.decision import Prediction


class Outcome(StrEnum):
    """How a request ended. The exported names never change."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    """Answered with a 4xx other than 429."""
    CLIENT_GONE = "client_gone"
    CANCELLED = "cancelled"
    """An operator cancelled it."""
    REJECTED = "rejected"
    """429 or 503: no capacity or no instance."""
    FAILED = "failed"
    """The instance failed it."""


_MAX_COMPUTED_TOKENS = 16


class Cause(StrEnum):
    """Why an answer moved to another instance. The exported names never change."""

    OFFLOAD = "offload"
    """Planned prefill-decode offload."""
    DRAIN = "drain"
    """The instance is stopping."""
    PRESSURE = "pressure"
    """The instance ran out of KV cache."""
    PRIORITY = "priority"
    """A batch request made room for an interactive one."""
    ROOM = "room"
    """The preferred instance has capacity again."""
    FAILURE = "failure"
    """The instance failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandoverRecord:
    """One hand-over of a request between instances."""

    source: str
    target: str
    cause: Cause
    known_tokens: int
    """Tokens of the prompt and of the answer so far."""
    asked: bool = False
    """The KV cache was saved for the target to load; otherwise the target recomputes everything."""
    cached_tokens: int | None = None
    """Tokens that the target did not compute; None: not reported."""
    size_bytes: int = 0
    """Size of the KV cache that was handed over; 0: not reported."""
    gap_s: float | None = None
    """From the source's last token to the target's first; None: none came."""
    at_s: float = 0.0
    """Monotonic time of the target's first token, if one came."""

    @property
    def result(self) -> str:
        """`loaded`, `recomputed`, or `unknown` if the target did not report it."""
        if self.cached_tokens is None:
            return "recomputed" if not self.asked else "unknown"
        # The last token has no KV yet. A prefix cache finds whole blocks only, which may leave out some more.
        loaded = self.asked and self.known_tokens - self.cached_tokens <= _MAX_COMPUTED_TOKENS
        return "loaded" if loaded else "recomputed"

    @property
    def failed(self) -> bool:
        """The target should have loaded a KV cache but did not."""
        return self.asked and self.result == "recomputed"

    def __str__(self) -> str:
        what = f"{self.known_tokens} tokens from {self.source} to {self.target}"
        return f"{what} ({self.cause}), KV cache {self.result}"


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements of one request, made at its end."""

    request_id: str
    route: str
    stream: bool = False
    placement: str = ""
    """Instance name; empty if it was never placed."""
    weights: str = ""
    """What the instances compute with, in the order of the placement; empty: the model's own weights."""
    status: int = 0
    """HTTP status sent to the client; 0 if none was."""
    outcome: Outcome = Outcome.OK
    started_at_s: float = 0.0
    """Monotonic."""
    queue_s: float = 0.0
    """Time in the admission queue."""
    ttft_s: float | None = None
    """From the request's arrival to the first byte of the answer's body."""
    duration_s: float = 0.0
    tokens_in: int = 0
    """0 if the instance did not report it."""
    tokens_out: int = 0
    retries: int = 0
    handovers: tuple[HandoverRecord, ...] = ()
    prediction: Prediction | None = None
    """The prediction for help by a CPU."""
    path: str = ""
    """The route that the instances got."""
    model: str = ""
    prompt_tokens: int = 0
    """Estimated from the length of the body; 0: not known."""
    max_tokens: int | None = None
    """The client's limit for the answer."""
    held_out: bool = False
    """It was held out: it waited for the GPU, to measure what help by a CPU gains."""
    carried_for: tuple[str, ...] = ()
    """The GPU instances in whose place a CPU answered, as none of them took requests."""
