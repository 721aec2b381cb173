# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An answer that several instances make in turn: an offload, or a stream that migrates."""

import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError
from syshaxd.core.handover.dialect import HandoverDialect
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.pairs import InstanceFacts, reasoning_parser
from syshaxd.core.handover.rules import may_call_tools
from syshaxd.core.placement.records import Cause, HandoverRecord, Outcome
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import InstanceSpec
from syshaxd.serving.request import Request
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.delivery import Delivery
from syshaxd.serving.runner.detokenize import content_of, drop_incomplete, reasoning_tags
from syshaxd.serving.runner.exchange import Part
from syshaxd.serving.runner.exchanges import Exchanges
from syshaxd.serving.runner.first_token import FirstToken, read_first_token, read_prompt
from syshaxd.serving.runner.handing_over import HandoverMeter
from syshaxd.serving.runner.relay import MovableRelay, Relay
from syshaxd.serving.runner.runner import Runner

# An event with one token certainly ends with a whole character. If none of so many events has one, a tokenizer decides.
_EVENTS_TO_WAIT = 8
# A prefill's answer does not show it.
_USAGE_UNASKED = "--enable-force-include-usage"


class MovableAnswer:
    """One answer, of which each `run` makes a segment (placement's `MovableStream`)."""

    def __init__(
        self,
        runner: Runner,
        request: Request,
        grant: Grant,
        dialect: HandoverDialect,
        facts: Mapping[str, InstanceFacts],
        *,
        movable: bool,
        from_prompt: bool,
        recoverable: bool,
        last_try: bool,
    ) -> None:
        """Starts nothing yet.

        Args:
            runner: Has the connections to instances.
            request: What is answered; its body can be split.
            grant: Its slots tell where: the last makes the answer, one before it the first token.
            dialect: How instances hand over.
            facts: Of each instance, by name; may change.
            movable: A running stream may migrate, too.
            from_prompt: The instance that makes the answer makes its first token, too.
            recoverable: See the attribute.
            last_try: There is no other instance to ask: its own error is the answer.
        """
        assert request.fields is not None
        assert request.client is not None
        self._runner = runner
        self._request = request
        self._client = request.client
        self._grant = grant
        self._dialect = dialect
        self._facts = facts
        self._movable = movable and dialect.movable
        self._from_prompt = from_prompt
        self.last_try = last_try
        self.recoverable = recoverable
        """Whether another instance may continue if its instance fails: it is known to compute the same."""
        self.may_return = not request.inference.offload
        """Whether it may leave the instance to which it was offloaded."""
        self._loop = runner.loop
        self._joined = JoinedAnswer(
            request.path,
            request.fields,
            to_be_continued=dialect.to_be_continued,
            tells_usage=any(_USAGE_UNASKED in slot.spec.argv for slot in grant.slots),
            reasoning_parser=reasoning_parser(grant.slots[-1].spec),
            may_call_tools=may_call_tools(request.fields),
        )
        self._delivery = Delivery(ClientAnswer(request, clock=self._loop.time), self._joined)
        self._first: Relay | None = None
        self._whole: Relay | None = None  # the first one, if the client gets what it brings as it is
        self._exchanges = Exchanges(runner, request)
        *prefills, slot = grant.slots
        self._slot: Slot | None = slot
        self._prefill = prefills[0] if prefills else None
        self._prefilled = False
        self._load: str | None = None
        self.target: Slot | None = None
        """The slot to which it will migrate."""
        self._events_to_wait = 0
        self._had = 0  # tokens before the present segment
        self._spoken = False
        self._cause = Cause.OFFLOAD
        self._handovers = HandoverMeter(request)
        self.part_over = False
        """Whether the instance has made its part, so that the rest can be made elsewhere."""

    def __enter__(self) -> Self:
        self._client.attach(self._exchanges)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.detach()
        self._handovers.end(self._joined.cached_tokens if self._whole is None else self._whole.cached_tokens)
        self._slot = self.target = None

    # Progress.

    @property
    def spec(self) -> InstanceSpec | None:
        """The instance that makes it now; None: it has ended."""
        return None if self._slot is None else self._slot.spec

    @property
    def instance(self) -> str:
        """The name of the instance that makes the current segment."""
        slot = self._prefill or self._slot
        assert slot is not None
        return slot.spec.name

    @property
    def tokens(self) -> int:
        """Tokens that the client has."""
        return self._joined.tokens if self._whole is None else self._whole.events

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer."""
        tokens_in, tokens_out = (0, 0) if self._first is None else (self._first.tokens_in, self._first.tokens_out)
        return tokens_in or self._joined.prompt_tokens, tokens_out or self._joined.tokens

    @property
    def over(self) -> bool:
        """Whether the client has everything that it will get."""
        return self._delivery.over

    @property
    def begun(self) -> bool:
        """Whether the client has a part of it."""
        return self._delivery.answer.begun

    @property
    def progressed(self) -> bool:
        """Whether the current instance has made a part of it."""
        return self._joined.tokens > self._had if self._whole is None else self.begun

    @property
    def outcome(self) -> Outcome:
        """Its outcome."""
        return self._delivery.answer.outcome

    @property
    def may_go_on(self) -> bool:
        """Whether another instance could make the rest."""
        return self.recoverable and (self._joined.may_go_on or (self._prefilled and self._joined.plain))

    # Where it continues.

    @property
    def may_move(self) -> bool:
        """Whether `move` has a chance."""
        # Before its first token, the current instance may still be loading the KV cache of the last one.
        return self._movable and self._spoken and self._joined.may_be_cut and self.target is None

    def move(self, target: Slot, cause: Cause) -> bool:
        """Continues at `target` as soon as the client's part ends with a whole character.

        Args:
            target: Where to; it is this request's from now on.
            cause: Why.

        Returns:
            False: it cannot be moved now, and the slot has been released.
        """
        if not self.may_move:
            target.release()
            return False
        self._grant.add(target)
        self.target, self._cause = target, cause
        self._events_to_wait = _EVENTS_TO_WAIT
        self._joined.look_ahead()
        if isinstance(self._exchanges.response, MovableRelay):
            self._exchanges.response.on_taken = self._cut_if_due
        self._cut_if_due()
        return True

    def go_on_at(self, target: Slot, cause: Cause) -> None:
        """Makes the next segment at `target`, a slot of this request's grant."""
        source = self._slot
        assert source is not None
        self._slot, self.target, self._cause = target, None, cause
        self._handovers.release_source()
        self._handovers.end(self._joined.cached_tokens)
        if cause is Cause.FAILURE:
            self._load = None
            source.release()
            self._request.retries += 1
        self._begin_handover(source, target)

    # Segments.

    @property
    def _body(self) -> Mapping[str, Any]:
        assert self._request.fields is not None
        return self._request.fields

    async def run(self) -> None:
        """Makes the next segment: up to the answer's end (`over`), a migration, or the end of the instance's part.

        Raises:
            InstanceFailedError: The instance has failed; `begun` and `may_go_on` tell what can be done.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        assert self._slot is not None
        self.part_over = False
        try:
            if self._prefill is not None:
                await self._make_first_token(self._prefill)
            else:
                await self._go_on(self._slot.spec)
        except (InstanceFailedError, InstanceTimeoutError):
            response = self._exchanges.response
            if response is not None and response.client_stalled:
                self._delivery.abandon()
            elif self._whole is not None and self._whole.complete():
                self._delivery.over = True
            elif not self._joined.finished:  # else only the end of the stream is missing
                raise
        finally:
            self._exchanges.response, self._spoken = None, False
        if self._joined.finished and not self.over:
            self._delivery.finish()

    async def _make_first_token(self, slot: Slot) -> None:
        stays = False
        try:
            first = await self._prefill_at(slot)
            if first is None:
                return
            self._load = first.load
            # Where the KV cache could not be saved, the target would compute all of the prompt, and its other streams
            # would wait for that; the source most likely still has it.
            stays = first.load is None and (self.may_return or self._from_prompt)
        finally:
            if not stays:
                slot.release()
        self._prefill, self._prefilled = None, not self._from_prompt
        self._handovers.last_token_at_s = self._loop.time()
        assert self._slot is not None
        if stays:
            self._slot.release()
            self._slot = slot
            self._request.placement = slot.spec.name
        self._delivery.send(first.events)
        if not stays and not self._joined.finished:
            self._begin_handover(slot, self._slot, size_bytes=first.size_bytes)

    async def _prefill_at(self, slot: Slot) -> FirstToken | None:
        """Has the prompt read; None: the client has got its answer from this instance."""
        spec = slot.spec
        key = _new_key()
        path, prompt_only = self._request.path, self._from_prompt
        body = self._dialect.prefill(self._body, key, path, prompt_only=prompt_only)
        response = await self._exchanges.read(spec, path, body, last_try=self.last_try)
        if prompt_only:
            return read_prompt(response, self._joined, self._dialect, key=key)
        if self._delivery.pass_on(response):
            return None
        max_model_len = self._facts[spec.name].max_model_len
        first = read_first_token(response, self._joined, self._dialect, key=key, max_model_len=max_model_len)
        self._delivery.head = response.head_
        self._from_prompt = not self._joined.plain  # the token cannot be told by its id: the target makes it again
        return first

    async def _go_on(self, spec: InstanceSpec) -> None:
        save = _new_key() if self._movable else None
        self._had = self._joined.tokens
        if self._prefilled or self._joined.parts:
            await self._continue(spec, save)
        else:
            await self._pass_on(spec, save)
        if self.over:
            return
        if self._exchanges.cut_off:
            self._load = save
            assert self.target is not None
            self.go_on_at(self.target, self._cause)
        elif not self._joined.finished:
            if not self._joined.part_over:
                raise InstanceFailedError("the instance's stream ended before the answer did")
            if self._joined.tokens == self._had:
                raise InstanceFailedError("the instance ended its part of the answer without a token")
            self._load = self._dialect.load_key({"id": self._joined.part_id}, save or "")
            self.part_over = True

    async def _pass_on(self, spec: InstanceSpec, save: str | None) -> None:
        """Passes on what the first instance answers: it need not be a stream, and all is said then."""
        relay, body = self._relay(save)
        self._joined.parts += 1
        self._first = relay
        self._spoken = True  # once it has made a token, it loads nothing any more
        try:
            await self._exchanges.send(spec, relay, Part(self._request.target, body, self._request.id))
        finally:
            self._delivery.head = relay.head_
            if self._request.ttft_s is not None and self._joined.stream:
                self._handovers.observe_token(self._request.started_at_s + self._request.ttft_s)
            now_s = self._loop.time()
            self._handovers.last_token_at_s = now_s - relay.silent_s(now_s)
        self._delivery.over = not (isinstance(relay, MovableRelay) and relay.joins)

    def _relay(self, save: str | None) -> tuple[Relay, bytes]:
        """What takes the first instance's answer, and the request for it."""
        answer, done, paused = self._delivery.answer, self._loop.create_future(), self._exchanges.paused
        if save is None or not self._joined.stream or not self._joined.plain:
            self._whole = Relay(answer, self._request, done, last_try=self.last_try, paused=paused)
            return self._whole, self._dialect.whole(self._body, load=self._load, save=None)
        relay = MovableRelay(answer, self._request, done, joined=self._joined, last_try=self.last_try, paused=paused)
        return relay, self._dialect.whole(self._body, load=self._load, save=save)

    async def _continue(self, spec: InstanceSpec, save: str | None) -> None:
        """Reads the rest, which goes to the client in the name of the first instance."""
        asked = self._joined, self._exchanges, spec, self._body.get("model") or spec.served_model
        await drop_incomplete(*asked)
        content = await content_of(*asked)
        self._joined.reasoning_tags = await reasoning_tags(*asked)
        path, body = self._dialect.continuation(
            self._body, self._joined, self._facts[spec.name], load=self._load, save=save
        )
        self._had = self._joined.tokens
        self._joined.begin_part(content)
        response = await self._exchanges.read(spec, path, body, self._take)
        if not response.streamed:
            raise response.fault()

    # Events.

    def _take(self, event: Mapping[str, Any]) -> None:
        had = self._joined.tokens
        self._delivery.send(self._joined.take(event))
        if self._joined.tokens > had:
            self._spoken = True
            self._handovers.observe_token(self._loop.time())
        if self.target is not None:
            self._cut_if_due()

    def _cut_if_due(self) -> None:
        response = self._exchanges.response
        if self.target is None or response is None or not (self._joined.may_be_cut and self._joined.at_token_end):
            return
        self._events_to_wait -= 1
        if self._joined.surely_whole or (self._events_to_wait < 0 and not self._joined.tells_tokens):
            response.cut()

    # The end.

    def break_off(self, error: SyshaxError) -> None:
        """Ends the client's part with an error event, or drops the connection."""
        if self._whole is None:
            self._delivery.break_off(error)
        else:
            self._whole.break_off(error)
            self._delivery.over = True

    def _begin_handover(self, source: Slot, target: Slot, *, size_bytes: int = 0) -> None:
        known = self._joined.prompt_tokens + self._joined.tokens
        record = HandoverRecord(
            source=source.spec.name,
            target=target.spec.name,
            cause=self._cause,
            known_tokens=known,
            asked=self._load is not None,
            size_bytes=size_bytes,
        )
        self._handovers.begin(record, source)


def _new_key() -> str:
    return secrets.token_hex(16)
