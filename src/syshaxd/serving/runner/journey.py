# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A request whose answer is made by several instances, one after the other: an offload, or a stream that moves."""

import asyncio
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError
from syshaxd.core.handover.dialect import HandoverDialect
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.placement.records import Cause, HandoverRecord, RequestRecord
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.report.describe import excerpt
from syshaxd.core.types import InstanceSpec
from syshaxd.core.wire.http1 import ResponseHead
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.boundary import incomplete_tokens
from syshaxd.serving.runner.exchange import Downstream, Outgoing
from syshaxd.serving.runner.leg import Leg
from syshaxd.serving.runner.ports import Exchanger, SlotSource
from syshaxd.serving.runner.relay import MovableRelay
from syshaxd.serving.runner.response import Response

_MAX_FAILURES = 3
# An event with one token surely ends with a whole character. Where there is none among so many, a tokenizer is asked.
_EVENTS_TO_WAIT = 8
# A prefill's answer does not show it.
_USAGE_UNASKED = "--enable-force-include-usage"


class Journey:
    """Carries one request through (a `Flow`)."""

    def __init__(
        self,
        runner: Exchanger,
        source: SlotSource,
        grant: Grant,
        dialect: HandoverDialect,
        facts: Mapping[str, InstanceFacts],
        *,
        outgoing: Outgoing,
        body: Mapping[str, Any],
        client: Downstream,
        record: RequestRecord,
        movable: bool,
        recoverable: bool,
        may_return: bool,
        last_try: bool,
        clock: Callable[[], float],
    ) -> None:
        self._runner = runner
        self._source = source
        self._grant = grant
        self._dialect = dialect
        self._facts = facts
        self._outgoing = outgoing
        self._body = body
        self._client = client
        self._record = record
        self._movable = movable and dialect.movable
        self._last_try = last_try
        self.recoverable = recoverable
        """If its instance fails, another one may go on: it is known to compute the same."""
        self.may_return = may_return
        """It need not stay where it was offloaded to."""
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._answer = JoinedAnswer(
            outgoing.path,
            body,
            to_be_continued=dialect.to_be_continued,
            tells_usage=any(_USAGE_UNASKED in slot.spec.argv for slot in grant.slots),
        )
        self._reply = ClientAnswer(client, record, keep_alive=outgoing.keep_alive, clock=clock)
        self._head: ResponseHead | None = None  # of the first instance's answer
        self._leg: Response | None = None
        self._legs = 0
        self._paused = False
        self._prefilled = False
        self._load: str | None = None
        self._moving_to: Slot | None = None
        self._events_to_wait = 0
        self._left: Slot | None = None
        self._had = 0  # tokens before the present part
        self._spoken = False
        self._cut = False
        self._stalled = False
        self._cause = Cause.OFFLOAD
        self._handover: HandoverRecord | None = None
        self._last_at_s = 0.0
        self._slot: Slot | None = None

    # What the client's connection says.

    def pause(self) -> None:
        """Flow: the client takes no more for now."""
        self._paused = True
        if self._leg is not None:
            self._leg.pause()

    def resume(self) -> None:
        """Flow: the client takes more again."""
        self._paused = False
        if self._leg is not None:
            self._leg.resume()

    def cancel(self) -> None:
        """Flow: the client is gone."""
        if self._leg is not None:
            self._leg.cancel()

    # What the Engine says.

    @property
    def spec(self) -> InstanceSpec | None:
        """Where it is now; None: it has not begun, or has ended."""
        return None if self._slot is None else self._slot.spec

    @property
    def record(self) -> RequestRecord:
        """The measurements of the request."""
        return self._record

    @property
    def tokens(self) -> int:
        """Tokens that the client has got."""
        return self._answer.tokens

    @property
    def may_move(self) -> bool:
        """Whether `move` has a chance."""
        # Until the present instance has spoken, it may still be loading what the last one handed over.
        return self._movable and self._spoken and self._answer.may_be_cut and self._moving_to is None

    def move(self, target: Slot, cause: Cause) -> bool:
        """Goes on at `target` as soon as what the client has got ends with a whole character.

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
        self._moving_to, self._cause = target, cause
        self._events_to_wait = _EVENTS_TO_WAIT
        if isinstance(self._leg, MovableRelay):
            self._leg.on_taken = self._cut_if_due
        self._cut_if_due()
        return True

    # The journey.

    async def run(self) -> bool:
        """Answers the client. The grant's slots tell where: the last makes the answer, one before it the first token.

        Returns:
            Whether the client's connection may stay open.

        Raises:
            InstanceFailedError: Nothing was sent to the client; another instance may be asked.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        *prefills, self._slot = self._grant.slots
        prefill = prefills[0] if prefills else None
        self._client.attach(self)
        try:
            if prefill is not None and await self._prefill(prefill):
                return self._reply.keep_alive
            failures = 0
            while not self._answer.finished:
                try:
                    if await self._go_on(self._slot.spec):
                        return self._reply.keep_alive
                except (InstanceFailedError, InstanceTimeoutError) as error:
                    failures += 1
                    if not await self._recover(error, failures):
                        return self._reply.keep_alive
            self._finish()
            return self._reply.keep_alive
        finally:
            self._client.detach()
            self._note_handover()
            self._slot = self._moving_to = self._left = None
            self._record.tokens_in = self._record.tokens_in or self._answer.prompt_tokens
            self._record.tokens_out = self._record.tokens_out or self._answer.tokens

    async def _prefill(self, slot: Slot) -> bool:
        """Has the first token made; returns whether that is all that there is to answer."""
        spec = slot.spec
        key = _new_key()
        stays = False
        try:
            body = self._dialect.prefill(self._body, key)
            leg = await self._read(spec, self._outgoing.path, body, _ignore, last_try=self._last_try)
            if self._passed_on(leg):
                return True
            try:
                answer = json.loads(leg.payload())
                out = self._answer.take_prefill(answer, max_model_len=self._facts[spec.name].max_model_len)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise InstanceFailedError(
                    f"the instance's first token cannot be read: {excerpt(repr(error))}"
                ) from error
            self._head = leg.head_
            if not self._answer.plain:
                self._record.placement = spec.name
                await self._runner.run(spec, self._outgoing, self._client, self._record, last_try=True)
                return True
            self._load = self._dialect.load_key(answer, key)
            # Where the KV cache could not be saved, the target would compute all of the prompt, and its other streams
            # would wait for that; the source most likely still has it.
            stays = self._load is None and self.may_return
        finally:
            if not stays:
                slot.release()
        self._prefilled = True
        self._last_at_s = self._clock()
        assert self._slot is not None
        if stays:
            self._slot.release()
            self._slot = slot
            self._record.placement = spec.name
        if out:
            self._stream(out)
        if not stays and not self._answer.finished:
            self._handover = self._new_handover(spec.name, self._slot.spec.name)
            self._handover.size_bytes = self._dialect.size_bytes(answer)
        return False

    async def _go_on(self, spec: InstanceSpec) -> bool:
        """Has the answer made, or the rest of it, up to its end or a cut; returns whether it was passed on as it is."""
        save = _new_key() if self._movable else None
        self._had = self._answer.tokens
        if self._prefilled or self._answer.parts:
            await self._drop_incomplete(spec)
            path, body = self._dialect.continuation(
                self._body, self._answer, self._facts[spec.name], load=self._load, save=save
            )
            self._had = self._answer.tokens
            self._answer.begin_part()
            leg = await self._read(spec, path, body, self._take)
            if not leg.streamed:
                raise leg.fault()
        elif await self._pass_on(spec, save):
            return True
        if self._cut:
            self._load = save
            self._left = self._change_place()  # it may not stop before its KV cache has been loaded
        elif not self._answer.finished:
            if not self._answer.part_over:
                raise InstanceFailedError("the instance's stream ended before the answer did")
            if self._answer.tokens == self._had:
                raise InstanceFailedError("the instance ended its part of the answer without a token")
            self._load = self._dialect.load_key({"id": self._answer.part_id}, save or "")
            self._decide_again()
        return False

    async def _pass_on(self, spec: InstanceSpec, save: str | None) -> bool:
        """Passes on what the first instance answers; returns whether that was no stream, so that all is said."""
        assert save is not None
        outgoing = replace(self._outgoing, body=self._dialect.movable_stream(self._body, save))
        self._answer.parts += 1
        relay = MovableRelay(
            self._reply,
            outgoing,
            self._loop.create_future(),
            joined=self._answer,
            last_try=self._last_try,
            paused=self._paused,
        )
        self._spoken = True  # nothing was handed over to it
        try:
            await self._exchange(spec, outgoing, relay)
        finally:
            self._head = relay.head_
            now_s = self._clock()
            self._last_at_s = now_s - relay.silent_s(now_s)
        return not relay.joins

    def _decide_again(self) -> None:
        """The instance has ended its part: the next may be made elsewhere."""
        assert self._slot is not None
        target = self._source.again(self._slot)
        if target is not None:
            self._grant.add(target)
            self._moving_to, self._cause = target, Cause.ROOM
            self._left = self._change_place()  # it keeps the KV cache until that has been loaded

    async def _read(
        self,
        spec: InstanceSpec,
        path: str,
        body: bytes,
        take: Callable[[Mapping[str, Any]], None],
        *,
        last_try: bool = False,
    ) -> Leg:
        # Should one instance get two parts, its log can tell them apart.
        ident = f"{self._outgoing.request_id}-{self._legs}" if self._legs else self._outgoing.request_id
        outgoing = replace(self._outgoing, path=path, target=path, body=body, request_id=ident)
        leg = Leg(take, self._loop.create_future(), last_try=last_try, paused=self._paused)
        await self._exchange(spec, outgoing, leg)
        return leg

    async def _exchange(self, spec: InstanceSpec, outgoing: Outgoing, response: Response) -> None:
        self._legs += 1
        self._leg, self._cut = response, False
        try:
            await self._runner.exchange(spec, outgoing, response)
            self._cut = response.cut_off
        finally:
            self._stalled = response.client_stalled
            self._leg, self._spoken = None, False

    def _take(self, event: Mapping[str, Any]) -> None:
        had = self._answer.tokens
        out = self._answer.take(event)
        if out:
            self._stream(out)
        if self._answer.tokens > had:
            self._taken()

    def _stream(self, events: bytes) -> None:
        if self._reply.begun:
            self._reply.events(events)
        else:
            assert self._head is not None
            self._reply.begin_events(self._head)
            self._reply.events(events)

    def _taken(self) -> None:
        """The present instance has made some of the answer."""
        self._spoken = True
        self._last_at_s, before_s = self._clock(), self._last_at_s
        if self._left is not None:
            self._leave()
        if self._handover is not None and self._handover.gap_s is None:
            self._handover.gap_s = self._last_at_s - before_s
        if self._moving_to is not None:
            self._cut_if_due()

    def _cut_if_due(self) -> None:
        if self._moving_to is None or self._leg is None or not self._answer.may_be_cut:
            return
        self._events_to_wait -= 1
        if self._answer.surely_whole or (self._events_to_wait < 0 and not self._answer.tells_ids):
            self._leg.cut()

    def _passed_on(self, leg: Leg) -> bool:
        """Gives the client an answer other than 200 as it is; an instance's fault is raised: others may do better."""
        head = leg.head_
        assert head is not None
        if head.status == 200:
            return False
        if leg.is_fault:
            raise leg.fault()
        self._reply.whole(head, leg.payload())
        return True

    def _leave(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left.release()

    def _change_place(self) -> Slot:
        """Makes the target the present slot; returns the source's, which is still to be released."""
        source, target = self._slot, self._moving_to
        assert source is not None
        assert target is not None
        self._slot, self._moving_to = target, None
        self._leave()
        self._note_handover()
        self._handover = self._new_handover(source.spec.name, target.spec.name)
        return source

    async def _recover(self, error: InstanceFailedError | InstanceTimeoutError, failures: int) -> bool:
        """Finds another place after a failure; False: the client's answer has been ended."""
        failed = self._slot
        assert failed is not None
        if self._stalled:
            self._reply.abandon()
            return False
        if self._answer.finished:
            return True  # nothing but the last words is missing
        may_go_on = self._answer.may_go_on or (self._prefilled and self._answer.plain)
        try:
            if not (may_go_on and self.recoverable) or failures > _MAX_FAILURES:
                raise error
            target = self._moving_to
            if target is None:
                spoken = self._answer.tokens > self._had
                self._grant.take_over(await self._source.another(failed.spec.name, error, begun=spoken))
                target = self._grant.slots[-1]
        except SyshaxError as refusal:
            if not self._reply.begun:
                raise error from None
            self._reply.break_off(refusal if isinstance(refusal, InstanceFailedError) else error, at_boundary=True)
            return False
        self._moving_to, self._cause = target, Cause.FAILURE
        self._load = None
        self._left = self._change_place()
        self._leave()
        self._record.retries += 1
        return True

    async def _drop_incomplete(self, spec: InstanceSpec) -> None:
        """Has tokens made again whose character was not delivered, as its end was to come with the next token."""
        if self._answer.surely_whole:
            return
        model = self._body.get("model") or spec.served_model

        async def ask(body: bytes) -> Leg:
            return await self._read(spec, "/detokenize", body, _ignore)

        if not self._answer.drop_tail(await incomplete_tokens(ask, model, self._answer.tail_ids())):
            raise InstanceFailedError("the answer broke off inside a character whose tokens the client has")

    def _finish(self) -> None:
        assert self._head is not None
        if not self._answer.stream:
            self._reply.whole(self._head, self._answer.whole())
        elif self._reply.begun:
            self._reply.end(self._answer.end())
        else:
            self._reply.begin_events(self._head)
            self._reply.end(self._answer.end())

    def _new_handover(self, source: str, target: str) -> HandoverRecord:
        known = self._answer.prompt_tokens + self._answer.tokens
        record = HandoverRecord(source=source, target=target, cause=self._cause, known_tokens=known)
        record.asked = self._load is not None
        return record

    def _note_handover(self) -> None:
        """The part that followed the last hand-over is over."""
        handover, self._handover = self._handover, None
        if handover is not None:
            handover.cached_tokens = self._answer.cached_tokens
            self._record.handovers.append(handover)


def _ignore(event: Mapping[str, Any]) -> None:
    """An event where none was to come."""


def _new_key() -> str:
    return secrets.token_hex(16)
