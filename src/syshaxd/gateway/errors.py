# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The error tree as HTTP: status, OpenAI error object, Retry-After."""

import math
from dataclasses import dataclass, field
from http import HTTPStatus

from syshaxd.core.errors import (
    BadRequestError,
    InstanceFailedError,
    InstanceTimeoutError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    RetryableError,
    SyshaxError,
    TooLargeError,
    UnavailableError,
)
from syshaxd.core.openai import error_body

# The first class that fits gives status, OpenAI's error type, and the code of errors that bring none.
_KINDS: tuple[tuple[type[SyshaxError], int, str, str | None], ...] = (
    (NotFoundError, 404, "invalid_request_error", None),
    (MethodNotAllowedError, 405, "invalid_request_error", "method_not_allowed"),
    (TooLargeError, 413, "invalid_request_error", "body_too_large"),
    (BadRequestError, 400, "invalid_request_error", None),
    (OverloadedError, 429, "rate_limit_error", "overloaded"),
    (UnavailableError, 503, "service_unavailable_error", "no_instance_ready"),
    (InstanceFailedError, 502, "upstream_error", "instance_failed"),
    (InstanceTimeoutError, 504, "timeout_error", "instance_timeout"),
    (RequestCancelledError, 503, "service_unavailable_error", "cancelled"),
    (SyshaxError, 500, "internal_error", None),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A small complete response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def to_bytes(self, *, close: bool = False) -> bytes:
        """The response as HTTP/1.1."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [f"content-type: {self.content_type}", f"content-length: {len(self.body)}"]
        lines += ["connection: close", "", ""] if close else ["", ""]
        return "\r\n".join(lines).encode("latin-1") + self.body


def error_answer(error: SyshaxError, request_id: str) -> Answer:
    """The answer to a request that failed with `error`."""
    status, kind, code = next(row[1:] for row in _KINDS if isinstance(error, row[0]))
    headers = {"x-request-id": request_id}
    if isinstance(error, RetryableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    param = None
    if isinstance(error, BadRequestError):
        param, code = error.param, error.code or code
    return Answer(status, error_body(str(error), kind=kind, param=param, code=code), headers=headers)


def internal_error() -> Answer:
    """The answer when the daemon itself is at fault."""
    return Answer(500, error_body("internal error; syshaxd's log has the details", kind="internal_error"))
