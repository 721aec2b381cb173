# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One request of a client, from its arrival to its end."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.placement.decision import InferenceRequest, Prediction
from syshaxd.core.placement.records import HandoverRecord, Outcome, RequestRecord
from syshaxd.core.placement.retries import Retries
from syshaxd.core.placement.slots import Grant
from syshaxd.core.wire.body import RequestBody

_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_NOT_READ = InferenceRequest(request_id="", model="", stream=False)


def is_request_id(text: str) -> bool:
    """Whether a client or another gateway may give a request this id: it appears in logs, headers and terminals."""
    return _ID.fullmatch(text) is not None


class Flow(Protocol):
    """The sender of an answer, as the client's connection sees it."""

    def pause(self) -> None:
        """The client cannot take more for now."""

    def resume(self) -> None:
        """The client can take more again."""

    def cancel(self) -> None:
        """The client has disconnected."""


class Downstream(Protocol):
    """The client's connection."""

    http10: bool
    """The client speaks HTTP/1.0: no chunks, and the end of the connection ends the body."""
    answer_lines: bytes
    """Header lines for the current answer in addition to the instance's, each with its line end."""

    def attach(self, flow: Flow) -> None:
        """Calls the flow's `pause` and `resume` from now on, when the client is slower than the instance."""

    def detach(self) -> None:
        """Ends the calls of a flow."""

    def writer(self) -> Callable[[bytes], None]:
        """Returns the function that sends bytes."""

    def abort(self) -> None:
        """Drops the connection: the client sees that the answer is incomplete."""


class TokenCounts(Protocol):
    """The answer, while it is made."""

    @property
    def tokens(self) -> int:
        """Tokens of a streamed answer that have come."""

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer, at its end; 0: the instance did not report them."""


@dataclass(slots=True, eq=False, kw_only=True)
class Request:
    """A client's request, and the progress of its answer."""

    id: str
    route: str
    """The route as the client named it."""
    method: str
    path: str
    """The route that an instance gets."""
    target: str
    """Path and query."""
    headers: bytes = b""
    """The client's header lines that go to an instance, from `core.wire.http1`."""
    body: bytes = b""
    fields: RequestBody | None = None
    """The fields of the body, if that is a JSON object."""
    inference: InferenceRequest = _NOT_READ
    """What placement needs to know."""
    client: Downstream | None
    """The client's connection; None: another gateway has it."""
    key: ApiKey | None = None
    """The client's key, which was checked; None: it needs none."""
    own_credentials: bool = False
    """The instance gets the daemon's credentials; else those of the client, if it sent any."""
    keep_alive: bool = False
    """Whether the client's connection may stay open afterwards."""

    task: "asyncio.Task[object] | None" = None
    """The task that answers it; None: it has not started, or another gateway answers."""
    cancelled: bool = False
    """Whether an operator has cancelled it."""
    expired: bool = False
    """Whether it has exceeded the time limit of requests."""
    started_at_s: float
    """Monotonic."""
    queue_s: float = 0.0
    """Seconds in the admission queue."""
    placement: str = ""
    """Names of its instances; empty: it was not placed yet."""
    weights: str = ""
    """What these instances compute with; empty: the model's own weights."""
    prediction: Prediction | None = None
    """The prediction for help by a CPU."""
    wants_explanation: bool = False
    """Whether its client asks for the reasons of its placement in a header."""
    explanation: str = ""
    """The value of that header; ASCII."""
    held_out: bool = False
    """Whether it is held out: it waits for the GPU, to measure what help by a CPU gains."""
    carried_for: tuple[str, ...] = ()
    """The GPU instances in whose place a CPU answers, as none of them takes requests."""
    status: int = 0
    """HTTP status sent to the client; 0: none was."""
    ttft_s: float | None = None
    """From its arrival to the first byte of the answer's body."""
    tries: Retries = field(default_factory=Retries)
    """Its failures so far."""
    retries: int = 0
    handovers: list[HandoverRecord] = field(default_factory=list)
    answer: TokenCounts | None = None
    on_answer: Callable[[], None] | None = None
    """Called when the answer's first bytes go to the client."""

    @property
    def tokens(self) -> int:
        """Tokens of a streamed answer that have come."""
        return 0 if self.answer is None else self.answer.tokens

    def note_grant(self, grant: Grant, now_s: float, *, held_out: bool) -> None:
        """Notes where it is placed, for its record."""
        specs = [slot.spec for slot in grant.slots]
        self.placement = "+".join(grant.placement.places)
        self.weights = "+".join(spec.weights_text for spec in specs) if any(spec.weights for spec in specs) else ""
        self.prediction = grant.placement.prediction
        self.held_out = held_out
        self.queue_s = now_s - self.started_at_s

    def release(self) -> None:
        """Frees the body at once. A reference cycle would keep it until the next full garbage collection."""
        self.body, self.fields, self.answer, self.on_answer = b"", None, None, None

    def record(self, outcome: Outcome, now_s: float, usage: tuple[int, int] | None = None) -> RequestRecord:
        """Returns its record, now that it has ended. `usage` is that of an answer which another gateway relayed."""
        if usage is None:
            usage = (0, 0) if self.answer is None else self.answer.usage
        return RequestRecord(
            request_id=self.id,
            route=self.route,
            stream=self.inference.stream,
            placement=self.placement,
            weights=self.weights,
            status=self.status,
            outcome=outcome,
            started_at_s=self.started_at_s,
            queue_s=self.queue_s,
            ttft_s=self.ttft_s,
            duration_s=now_s - self.started_at_s,
            tokens_in=usage[0],
            tokens_out=usage[1],
            retries=self.retries,
            handovers=tuple(self.handovers),
            prediction=self.prediction,
            path=self.path,
            model=self.inference.model,
            prompt_tokens=self.inference.prompt_tokens,
            max_tokens=self.inference.max_tokens,
            held_out=self.held_out,
            carried_for=self.carried_for,
        )
