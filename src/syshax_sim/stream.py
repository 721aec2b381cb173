# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One streamed answer, written to its connection by the engine's step rather than by a task of its own."""

import asyncio
from collections.abc import Mapping, Sequence

from aiohttp import web

from syshax_sim.engine import Generation
from syshax_sim.reply import DONE, Reply
from syshax_sim.wire import Ask

_MAX_BUFFERED_BYTES = 64 * 1024
"""A client that is slower than the engine gets several tokens in one event, as from vLLM."""


class Stream:
    """Server-sent events of one request."""

    def __init__(
        self,
        request: web.Request,
        ask: Ask,
        reply: Reply,
        *,
        tokens_per_event: int,
        break_after_events: int,
        break_after_last_token: bool,
        headers: Mapping[str, str],
    ) -> None:
        assert request.transport is not None
        self._request = request
        self._transport = request.transport
        self._ask = ask
        self._reply = reply
        self._tokens_per_event = tokens_per_event
        self._events_left = break_after_events or None
        self._break_after_last_token = break_after_last_token
        self._headers = headers
        self._begun = asyncio.Event()
        self._done = asyncio.Event()
        self._open = False
        self._index: dict[Generation, int] = {}
        self._sent: list[int] = []

    async def run(self, generations: Sequence[Generation]) -> web.StreamResponse:
        """Sends the whole answer."""
        self._index = {generation: index for index, generation in enumerate(generations)}
        self._sent = [0] * len(generations)
        response = web.StreamResponse(headers={**self._headers, "Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await self._begun.wait()
        await response.prepare(self._request)
        if self._ask.chat:
            await response.write(b"".join([self._reply.role_event(index) for index in range(len(generations))]))
        else:
            await response.write(b"".join([self._take(generation) for generation in generations]))
            self._break_if_told()
        self._open = True
        for generation in generations:
            self._write(generation)
        await self._done.wait()
        for generation in generations:
            if rest := self._take(generation):
                await response.write(rest)
        if self._break_after_last_token:
            await response.drain()
            self._transport.abort()
        if self._ask.include_usage:
            await response.write(self._reply.usage_event(sum(self._sent)))
        await response.write(DONE)
        await response.write_eof()
        return response

    def on_token(self, generation: Generation) -> None:
        """Sends a new token, unless the client is behind."""
        if self._open and self._transport.get_write_buffer_size() <= _MAX_BUFFERED_BYTES:
            unsent = generation.tokens - self._sent[self._index[generation]]
            if unsent >= self._tokens_per_event or generation.finished:
                self._write(generation)
        self._begun.set()
        if generation.finished and all(item.finished for item in self._index):
            self._done.set()

    def _write(self, generation: Generation) -> None:
        """Past aiohttp, whose writer would cost each token a task switch; the head has gone out already."""
        event = self._take(generation)
        if not event or self._transport.is_closing():
            return
        self._transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        self._break_if_told()

    def _break_if_told(self) -> None:
        if self._events_left is not None:
            self._events_left -= 1
            if self._events_left <= 0:
                self._transport.abort()

    def _take(self, generation: Generation) -> bytes:
        """The event with all tokens that were not sent yet; empty if there is none."""
        index = self._index[generation]
        begin, end = self._sent[index], generation.tokens
        if begin == end:
            return b""
        self._sent[index] = end
        return self._reply.token_event(index, begin, end, finished=generation.finished)
