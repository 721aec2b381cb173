# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Batches as OpenAI's Batch API has them: files of requests, their states, and their JSON."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

from syshaxd.core import jsontext
from syshaxd.core.errors import BadRequestError

ENDPOINTS = frozenset(("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/rerank"))
MAX_LINES = 50_000
"""As OpenAI has it."""
MAX_FAULTS = 100
"""Of an input file; more are not listed."""
MAX_METADATA = 16
_MAX_CUSTOM_ID = 512
_UNITS = {"h": 3600, "d": 86_400}
_MAX_WINDOW_S = 30 * 86_400


class BatchStatus(StrEnum):
    """The state of a batch. The names are OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    """Its input file is not valid."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset((BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file that a client has uploaded, or the output of a batch."""

    id: str
    owner: str
    """The name of the API key; empty: none was needed."""
    filename: str
    purpose: str
    size_bytes: int
    created_at: int
    """Unix time, as all times here."""
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A file of requests that run when others leave room."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    window: str
    status: BatchStatus
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    ended_at: int | None = None
    cancelling_at: int | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Of the input file."""
    models: list[str] = field(default_factory=list)
    """Those that its API key may ask for; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One request of an input file."""

    number: int
    """From 1."""
    custom_id: str
    body: bytes


def file_json(stored: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.size_bytes,
        "created_at": stored.created_at,
        "expires_at": stored.expires_at,
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
    }


def batch_json(batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    ended = {f"{status}_at": batch.ended_at if batch.status is status else None for status in sorted(ENDED)}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "errors": {"object": "list", "data": batch.faults} if batch.faults else None,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        "in_progress_at": batch.in_progress_at,
        "finalizing_at": None,
        "cancelling_at": batch.cancelling_at,
        **ended,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata or None,
    }


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value of JSON is a text that can be stored: one with half a surrogate pair can't."""
    return isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)


def window_s(text: object) -> int:
    """Returns the seconds of a completion window such as `24h`. Raises BadRequestError."""
    if isinstance(text, str) and text[:-1].isascii() and text[:-1].isdecimal() and text[-1:] in _UNITS:
        seconds = int(text[:-1]) * _UNITS[text[-1]]
        if 0 < seconds <= _MAX_WINDOW_S:
            return seconds
    raise BadRequestError(
        "completion_window: hours or days, at most 30 days, such as 24h",
        param="completion_window",
        code="invalid_value",
    )


def read_line(data: bytes, number: int, batch: Batch, seen: set[str]) -> Line:
    """Reads a line of an input file.

    Args:
        data: The line.
        number: Its number, from 1.
        batch: Its endpoint must be that of the line, and its models have that of the line.
        seen: The custom ids of earlier lines; that of this line is added.

    Raises:
        BadRequestError: It is not valid; the message does not name the line.
    """
    try:
        line = jsontext.loads(data)
    except ValueError:
        raise BadRequestError("it is not JSON", code="invalid_json_line") from None
    if not isinstance(line, dict):
        raise BadRequestError("it is not an object", code="invalid_json_line")
    custom_id, body = line.get("custom_id"), line.get("body")
    if not is_text(custom_id) or not 0 < len(custom_id) <= _MAX_CUSTOM_ID:
        raise BadRequestError(f"it needs 1 to {_MAX_CUSTOM_ID} characters", param="custom_id", code="invalid_custom_id")
    if custom_id in seen:
        raise BadRequestError("an earlier line has the same", param="custom_id", code="duplicate_custom_id")
    if line.get("method") != "POST":
        raise BadRequestError("it must be POST", param="method", code="invalid_method")
    if line.get("url") != batch.endpoint:
        raise BadRequestError(f"it must be the batch's endpoint, {batch.endpoint}", param="url", code="invalid_url")
    if not isinstance(body, dict):
        raise BadRequestError("it must be an object", param="body", code="invalid_body")
    if body.get("stream"):
        raise BadRequestError("a batch has no streams", param="body.stream", code="invalid_body")
    if batch.models and body.get("model") not in batch.models:
        raise BadRequestError("the API key is not for this model", param="body.model", code="model_not_permitted")
    seen.add(custom_id)
    return Line(number=number, custom_id=custom_id, body=json.dumps(body).encode())


def answered_line(batch_id: str, line: Line, status: int, request_id: str, body: bytes) -> bytes:
    """The line of an output or error file for a request that was answered."""
    try:
        told = jsontext.loads(body)
    except ValueError:
        told = {"error": {"message": body[:1000].decode("utf-8", "replace"), "type": "upstream_error"}}
    response = {"status_code": status, "request_id": request_id, "body": told}
    return _line(batch_id, line.number, line.custom_id, response, None)


def unanswered_line(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """The line of an error file for a request that was not answered."""
    return _line(batch_id, number, custom_id, None, {"code": code, "message": message})


def _line(batch_id: str, number: int, custom_id: str, response: object, error: object) -> bytes:
    its_id = f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
    return json.dumps({"id": its_id, "custom_id": custom_id, "response": response, "error": error}).encode() + b"\n"
