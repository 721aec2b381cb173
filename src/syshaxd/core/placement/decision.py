# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A request as placement sees it, and where it is to run."""

from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from syshaxd.core.placement.targets import RequestClass

_NO_PAIR = "no two instances can hand over"


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What placement needs to know of a request."""

    request_id: str
    model: str
    """Empty: any."""
    stream: bool
    method: str = "POST"
    path: str = "/v1/chat/completions"
    """The route that an instance must serve."""
    pinned: str | None = None
    """The instance that the client insists on."""
    full_weights: bool = False
    """The client insists on the model's own weights, not quantised ones."""
    offload: bool = False
    """The client insists on prefill and decode in different places."""
    prompt_tokens: int = 0
    """Roughly; 0: not looked at."""
    max_tokens: int | None = None
    """Limit of the answer; None: not told."""
    whole_because: str = _NO_PAIR
    """Why nothing of it can be handed over; empty: at least its prompt's KV cache can."""
    stays_because: str = ""
    """Why one instance must make all of its answer, even where another computes the prompt; empty: it need not."""
    movable: bool = False
    """Its answer may move while it is made."""
    request_class: RequestClass = RequestClass.INTERACTIVE
    key: str = ""
    """The name of the client's API key; in a queue, keys take turns. Empty: none was needed."""
    conversation: int = 0
    """A hash of how it begins, the same for all turns of a conversation; 0: not known."""

    @property
    def split_limits(self) -> tuple[str, ...]:
        """What keeps it, or its answer, on one instance, for a person."""
        if self.whole_because:
            return () if self.whole_because == _NO_PAIR else (f"runs on one instance: {self.whole_because}",)
        return (f"its answer stays on one instance: {self.stays_because}",) if self.stays_because else ()

    @property
    def is_batch(self) -> bool:
        """Whether it only fills what interactive requests leave."""
        return self.request_class is RequestClass.BATCH

    @property
    def kind(self) -> str:
        """Requests of one kind have answers of similar lengths."""
        return f"{self.request_class} {self.model} {self.path}"

    def rest(self) -> "InferenceRequest":
        """The request for the rest of an answer of which an instance has made a part."""
        return replace(self, whole_because="it has begun already", movable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What was expected of an offload, or of a CPU that does all of a request, when it was decided."""

    offload_s: float
    """Seconds to the end of the answer."""
    wait_s: float
    """The same had the request waited for the GPU."""
    least_s: float = 0.0
    """What it gains, less what it takes from others, if everything measured is off by as much as it hardly is."""
    least_first_s: float = 0.0
    """The same for the seconds to the first token."""
    offload_first_s: float | None = None
    """Seconds to the first token; None: not predicted."""
    wait_first_s: float | None = None
    """The same had the request waited for the GPU."""
    others_s: float = 0.0
    """Seconds that it was expected to take from other requests, summed over them."""
    holds_up: bool = False
    """Its prompt would delay the requests ahead of it by more than the CPU takes off the GPU."""

    @property
    def benefit_s(self) -> float:
        """Seconds that the offload was expected to gain."""
        return self.wait_s - self.offload_s


class RunOn(msgspec.Struct, frozen=True):
    """Prefill and decode on one instance."""

    instance: str
    reasons: tuple[str, ...] = ()
    returns_to: str = ""
    """The instance in whose queue it keeps its position: its stream migrates there when that comes up."""
    prediction: Prediction | None = None
    """Of a CPU that does all of it; None: it runs on its usual instance, or too little is known yet."""

    @property
    def places(self) -> tuple[str, ...]:
        """The instances on which it takes a place; the last one makes the answer."""
        return (self.instance,)


class Offload(msgspec.Struct, frozen=True):
    """Prefill on one instance, decode on another: the KV cache is handed over."""

    prefill: str
    decode: str
    reasons: tuple[str, ...] = ()
    prediction: Prediction | None = None
    """None: the client asked for it, or too little is known yet."""
    returns_to: str = ""
    """As in RunOn."""

    @property
    def places(self) -> tuple[str, ...]:
        """The instances on which it takes a place; the last one makes the answer."""
        return (self.prefill, self.decode)


class Wait(msgspec.Struct, frozen=True):
    """Nothing has room now: stay in the admission queue and be decided again when capacity frees."""

    reasons: tuple[str, ...] = ()
    cpu_has_room: bool = False
    """A CPU could take it, but it is expected to end sooner if it waits."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No instance can serve this for the time being."""

    reason: str
    retry_after_s: float


Placement = RunOn | Offload
Decision = Placement | Wait | Reject
