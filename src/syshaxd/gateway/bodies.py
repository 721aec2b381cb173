# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Receives request bodies within limits and reads the fields that placement needs."""

import asyncio
import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError

from syshaxd.core.errors import BadRequestError, RequestTimeoutError, TooLargeError
from syshaxd.core.handover.rules import KNOWN_FIELDS, split_of
from syshaxd.core.wire.body import SMALL_BYTES, UNREADABLE, BodyReader, RequestBody, as_bool, as_int
from syshaxd.core.wire.form import model_in_form
from syshaxd.gateway.connection import ClientConnection, ClientRequest, UnreadableBodyError
from syshaxd.gateway.limits import BodyBudget, Limits
from syshaxd.gateway.routes import CHAT, COMPLETIONS, OFFLOADED_CHAT, RESPONSES

_MAX_TOKENS = 2**31 - 1
_MAX_NAME_CHARACTERS = 1024
# OpenAI's default, and vLLM's.
_COMPLETION_TOKENS = 16
_MAX_PAUSE_S = 0.5
# What is looked at of a conversation, and what of a prompt without turns: less is in no KV cache worth looking for.
_MAX_HEAD_BYTES = 16 * 1024
_MIN_HEAD_BYTES = 512
# Fields that engines exchange through gateways, wherever they are in a body.
_ROUTER_FIELDS = ("kv_transfer_params", "ec_transfer_params")
_EXTRA_FIELDS = "vllm_xargs"
_STORED_FIELDS = ("previous_response_id", "background")
_NEEDED = (
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "service_tier",
    *_ROUTER_FIELDS,
    _EXTRA_FIELDS,
    *_STORED_FIELDS,
)


class BodyIntake:
    """Receives all request bodies. Lives in one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._budget = BodyBudget(limits.max_bodies_bytes)
        self._reader = BodyReader((*KNOWN_FIELDS, *_NEEDED), _NEEDED)
        # One at a time: parsing holds the GIL, which the event loop needs in between.
        self._thread = ThreadPoolExecutor(1, "bodies")
        self._is_untrimmed = False

    @property
    def held_bytes(self) -> int:
        """Bytes of request bodies in memory."""
        return self._budget.held_bytes

    async def receive(self, request: ClientRequest, client: ClientConnection, held: "HeldBody") -> bytes:
        """Returns the whole body.

        Raises:
            TooLargeError: It exceeds the limit.
            UnavailableError: All bodies together exceed theirs.
            RequestTimeoutError: It arrived too slowly.
            BadRequestError: It is not encoded as its head says.
        """
        try:
            if request.body.is_eof():  # it has come with its head, as most do
                data = request.body.read_nowait()
                held.take(len(data))
                return data
            return await self._receive_pieces(request, client, held)
        except TimeoutError:
            raise RequestTimeoutError(
                f"the body arrived too slowly: {held.size_bytes} bytes so far "
                "(gateway.body_timeout_s, gateway.min_body_bytes_per_s)"
            ) from None
        except (UnreadableBodyError, HttpProcessingError):
            raise BadRequestError("the body is not encoded as the request's head says", code="invalid_body") from None

    async def _receive_pieces(self, request: ClientRequest, client: ClientConnection, held: "HeldBody") -> bytes:
        announced = request.headers.get("Content-Length", "")
        if announced and int(announced) > self._limits.max_body_bytes:
            raise self._too_large(announced)
        if request.headers.get("Expect", "").lower() == "100-continue" and not client.http10:
            client.proceed()
        pieces: list[bytes] = []
        client.begin_body(request.body)
        try:
            while piece := await request.body.readany():
                held.take(len(piece))
                pieces.append(piece)
        finally:
            client.end_body()
        return b"".join(pieces)

    async def read(self, data: bytes, content_type: str) -> RequestBody | None:
        """Reads a body's fields; None: it is something else than JSON, by the client's own account (its Content-Type).

        Raises:
            BadRequestError: It is declared as JSON and is not.
        """
        if not data:
            return None
        if content_type.lower().startswith("multipart/"):
            if not (model := model_in_form(data, content_type)):
                return None
            return RequestBody(RequestBody.of({"model": model}).raw, unknown="all fields of a form but its model")
        try:
            if len(data) <= SMALL_BYTES:
                return self._reader.read(data)
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._read_large, data)
        except BadRequestError:
            subtype = content_type.partition(";")[0].strip().lower().partition("/")[2]
            if subtype.rpartition("+")[2] == "json":
                raise
            return None

    def _read_large(self, data: bytes) -> RequestBody:
        began_s = time.perf_counter()
        try:
            body = self._reader.read(data)
            split_of(body)
            return body
        finally:
            # The event loop needs the GIL several times per request: give it as much time as this took.
            self._thread.submit(time.sleep, min(time.perf_counter() - began_s, _MAX_PAUSE_S))

    def take(self, held_bytes: int, size_bytes: int) -> None:
        """Adds to a body of this size. Raises TooLargeError or UnavailableError."""
        if held_bytes + size_bytes > self._limits.max_body_bytes:
            raise self._too_large("more")
        self._budget.take(size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Releases a body of this size."""
        self._budget.give_back(size_bytes)
        self._is_untrimmed = self._is_untrimmed or size_bytes > SMALL_BYTES

    def _too_large(self, size: str) -> TooLargeError:
        limit = self._limits.max_body_bytes
        return TooLargeError(f"the body has {size} bytes; at most {limit} are taken (gateway.max_body_bytes)")

    def trim(self) -> None:
        """Makes the C library return the memory of large bodies that it keeps."""
        if self._is_untrimmed and _malloc_trim is not None:
            self._is_untrimmed = False
            self._thread.submit(_malloc_trim, 0)

    def close(self) -> None:
        """Stops reading."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class HeldBody:
    """What a body takes of what all of them may have together, until it is given back."""

    __slots__ = ("_intake", "size_bytes")

    def __init__(self, intake: BodyIntake) -> None:
        self._intake = intake
        self.size_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Takes more. Raises TooLargeError or UnavailableError."""
        self._intake.take(self.size_bytes, size_bytes)
        self.size_bytes += size_bytes

    def give_back(self) -> None:
        """The request is over."""
        self._intake.give_back(self.size_bytes)


def model_of(body: RequestBody) -> str:
    """The requested model; empty: any."""
    model = body.short("model")
    if not isinstance(model, str):
        return ""
    return model[:_MAX_NAME_CHARACTERS].encode("utf-8", "replace").decode()


def conversation_of(body: RequestBody) -> int:
    """A hash of how a conversation begins, up to the first answer in it; 0: there is no conversation.

    Turns of one conversation have the same, as each turn repeats the ones before. It need not always be so: it only
    decides where a KV cache may be found.
    """
    messages, prompt = body.raw.get("messages"), body.raw.get("prompt")
    if messages is not None:
        head = bytes(memoryview(messages)[:_MAX_HEAD_BYTES])
        answer = head.find(b'"assistant"')
        return hash(head[: head.rfind(b"}", 0, None if answer < 0 else answer)])
    if prompt is not None and len(memoryview(prompt)) >= _MIN_HEAD_BYTES:
        return hash(bytes(memoryview(prompt)[:_MIN_HEAD_BYTES]))
    return 0


def streams(body: RequestBody) -> bool:
    """Whether the request asks for a stream."""
    return as_bool(body.short("stream"))


def answer_limit(path: str, body: RequestBody) -> int | None:
    """The request's own limit of generated tokens; None: as many as fit."""
    limit = as_int(body.short("max_output_tokens" if path == RESPONSES else "max_tokens"))
    if path in {CHAT, OFFLOADED_CHAT}:
        if (newer := as_int(body.short("max_completion_tokens"))) is not None:
            limit = newer
    elif path == COMPLETIONS and limit is None:
        limit = _COMPLETION_TOKENS
    return limit if limit is not None and 0 <= limit <= _MAX_TOKENS else None


def refuse_router_fields(body: RequestBody) -> None:
    """Refuses fields that only routers may set.

    Raises:
        BadRequestError: The body has it.
    """
    if body.raw.keys().isdisjoint((*_ROUTER_FIELDS, _EXTRA_FIELDS)):
        return
    for name in _ROUTER_FIELDS:
        if body.short(name):
            _refuse(name)
    extra = body.short(_EXTRA_FIELDS)
    for name in _ROUTER_FIELDS:
        if extra is UNREADABLE or (isinstance(extra, dict) and name in extra):
            _refuse(f"{_EXTRA_FIELDS}.{name}")


def refuse_stored(body: RequestBody) -> None:
    """Refuses requests that continue a stored response or ask to store one.

    Raises:
        BadRequestError: The body asks for it.
    """
    for name in _STORED_FIELDS:
        if body.short(name):
            raise BadRequestError(
                f"{name}: stored responses are not available, as each of several instances stores its own; send the "
                "whole conversation in `input`, or choose one instance with the header X-Syshax-Instance",
                param=name,
                code="stored_responses_off",
            )


def _refuse(name: str) -> None:
    raise BadRequestError(
        f"{name}: only routers may set it; gateway.allow_kv_transfer_params permits clients to",
        param=name,
        code="unsupported_parameter",
    )


def _find_malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None  # not glibc


_malloc_trim = _find_malloc_trim()
