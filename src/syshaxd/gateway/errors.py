# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The error tree as HTTP: status, error object, Retry-After, Allow."""

import math
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp.helpers import rfc822_formatted_time

from syshaxd.core.errors import (
    BadRequestError,
    ClosedError,
    DaemonUnavailableError,
    ForbiddenError,
    InstanceFailedError,
    InstanceTimeoutError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    RequestCancelledError,
    RequestTimeoutError,
    RetryableError,
    SyshaxError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from syshaxd.core.placement.records import Outcome
from syshaxd.core.wire import anthropic
from syshaxd.core.wire.openai import error_body

# The first matching class gives status, OpenAI's error type, and the default code.
_KINDS: tuple[tuple[type[SyshaxError], int, str, str | None], ...] = (
    (UnauthorizedError, 401, "invalid_request_error", None),
    (ForbiddenError, 403, "permission_error", "not_permitted"),
    (NotFoundError, 404, "invalid_request_error", None),
    (MethodNotAllowedError, 405, "invalid_request_error", "method_not_allowed"),
    (ClosedError, 403, "permission_error", "route_closed"),
    (RequestTimeoutError, 408, "invalid_request_error", "request_timeout"),
    (TooLargeError, 413, "invalid_request_error", "body_too_large"),
    (BadRequestError, 400, "invalid_request_error", None),
    (RateLimitedError, 429, "rate_limit_error", "rate_limit_exceeded"),
    (OverloadedError, 429, "rate_limit_error", "overloaded"),
    (DaemonUnavailableError, 503, "service_unavailable_error", "daemon_unavailable"),
    (UnavailableError, 503, "service_unavailable_error", "no_instance_ready"),
    (InstanceFailedError, 502, "upstream_error", "instance_failed"),
    (InstanceTimeoutError, 504, "timeout_error", "instance_timeout"),
    (RequestCancelledError, 503, "service_unavailable_error", "cancelled"),
    (SyshaxError, 500, "internal_error", None),
)

_PAGE = "/dashboard"


@dataclass(frozen=True, slots=True)
class Answer:
    """A small complete response."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)

    def to_bytes(self, *, close: bool = False, head_only: bool = False, extra: bytes = b"") -> bytes:
        """The response as HTTP/1.1.

        Args:
            close: The connection is closed afterwards.
            head_only: Without the body, as HEAD gets it.
            extra: Further header lines, each with its end.
        """
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", f"date: {rfc822_formatted_time()}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            lines.append(f"content-type: {self.content_type}")
        lines += [f"content-length: {len(self.body)}"]
        lines += ["connection: close", ""] if close else [""]
        head = "\r\n".join(lines).encode("utf-8", "surrogateescape")  # as aiohttp decodes what a client sent
        return b"%b%b\r\n%b" % (head, extra, b"" if head_only else self.body)


def error_answer(error: SyshaxError, request_id: str, path: str = "") -> Answer:
    """The answer to a request that failed with `error`, in the format that clients of its path expect."""
    status, kind, code = next(row[1:] for row in _KINDS if isinstance(error, row[0]))
    headers = {"x-request-id": request_id}
    if isinstance(error, RetryableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, MethodNotAllowedError):
        headers["allow"] = ", ".join(sorted(error.allowed))
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = f'{error.scheme} realm="sysHAX"'
    param = None
    if isinstance(error, BadRequestError):
        param, code = error.param, error.code or code
    if path == _PAGE:
        return Answer(status, _for_a_person(error), "text/plain; charset=utf-8", headers)
    if anthropic.is_path(path):
        return Answer(status, anthropic.error_body(str(error), status, request_id), headers=headers)
    return Answer(status, error_body(str(error), kind=kind, param=param, code=code), headers=headers)


def _for_a_person(error: SyshaxError) -> bytes:
    """Who opens a page reads the answer itself."""
    lines = [str(error)]
    if isinstance(error, UnauthorizedError):
        lines += [
            "",
            "Reload this page, and enter an API key as the password. The user name does not matter.",
            "`syshaxctl keys create NAME --access monitor` creates a key for this page.",
        ]
    return "\n".join((*lines, "")).encode()


def internal_error(request_id: str) -> Answer:
    """The answer to an internal error."""
    body = error_body("internal error; syshaxd's log has the details", kind="internal_error")
    return Answer(500, body, headers={"x-request-id": request_id})


def outcome_of(error: SyshaxError) -> Outcome:
    """How a request has ended that the daemon itself answers with an error."""
    match error:
        case BadRequestError():
            return Outcome.CLIENT_ERROR
        case RequestCancelledError():
            return Outcome.CANCELLED
        case OverloadedError() | UnavailableError():
            return Outcome.REJECTED
        case _:
            return Outcome.FAILED
