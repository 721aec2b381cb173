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
    """The model that the client names; empty: any."""
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
    """Estimated length of the prompt; 0: unknown."""
    max_tokens: int | None = None
    """The client's limit for the answer; None: it sets none."""
    whole_because: str = _NO_PAIR
    """Why nothing of it can be handed over; empty: at least its prompt's KV cache can."""
    stays_because: str = ""
    """Why one instance must make all of its answer, even where another computes the prompt; empty: it need not."""
    movable: bool = False
    """Its answer may migrate while it is made."""
    request_class: RequestClass = RequestClass.INTERACTIVE
    key: str = ""
    """The name of the client's API key; in a queue, keys take turns. Empty: none was needed."""
    conversation: int = 0
    """A hash of its beginning, which all turns of a conversation share; 0: unknown."""

    @property
    def split_limits(self) -> tuple[str, ...]:
        """What keeps it, or its answer, on one instance, for a person."""
        if self.whole_because:
            return () if self.whole_because == _NO_PAIR else (f"runs on one instance: {self.whole_because}",)
        return (f"its answer stays on one instance: {self.stays_because}",) if self.stays_because else ()

    @property
    def is_batch(self) -> bool:
        """Whether it only uses what interactive requests leave free."""
        return self.request_class is RequestClass.BATCH

    @property
    def kinds(self) -> tuple[str, ...]:
        """Its kinds, narrowest first: answers to requests of one kind have similar lengths."""
        kind = f"{self.request_class} {self.model} {self.path}"
        return (f"{kind} {self.key}", kind) if self.key else (kind,)

    def rest(self) -> "InferenceRequest":
        """The request for the rest of an answer of which an instance has made a part."""
        return replace(self, whole_because="it has begun already", movable=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the decision expected of help by a CPU: of an offload, or of a CPU that does the whole request."""

    offload_s: float
    """Seconds to the end of the answer."""
    wait_s: float
    """The same had the request waited for the GPU."""
    least_s: float = 0.0
    """A lower bound of the gain less the cost for others: every measurement is off against it, by its error bound."""
    least_first_s: float = 0.0
    """The same for the seconds to the first token."""
    offload_first_s: float | None = None
    """Seconds to the first token; None: not predicted."""
    wait_first_s: float | None = None
    """The same had the request waited for the GPU."""
    others_s: float = 0.0
    """Expected delay of other requests, in seconds, summed over them."""
    delays_gpu: bool = False
    """It would take more of the GPU's time from other requests than the CPU spares it."""

    @property
    def benefit_s(self) -> float:
        """Expected gain in seconds."""
        return self.wait_s - self.offload_s


class RunOn(msgspec.Struct, frozen=True):
    """Prefill and decode on one instance."""

    instance: str
    reasons: tuple[str, ...] = ()
    returns_to: str = ""
    """The GPU in whose queue it keeps its position; its stream migrates there when the position comes up."""
    prediction: Prediction | None = None
    """Of a CPU that does all of it; None: no CPU helps, or too little is known."""

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
    """None: the client asked for the offload, or too little is known."""
    returns_to: str = ""
    """As in RunOn."""

    @property
    def places(self) -> tuple[str, ...]:
        """The instances on which it takes a place; the last one makes the answer."""
        return (self.prefill, self.decode)


class Wait(msgspec.Struct, frozen=True):
    """No instance has room: the request waits in the queue until capacity frees, and is decided again."""

    reasons: tuple[str, ...] = ()
    cpu_has_room: bool = False
    """A CPU has room, but the request is expected to finish sooner if it waits."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No instance can serve the request at present."""

    reason: str
    retry_after_s: float


Placement = RunOn | Offload
Decision = Placement | Wait | Reject
