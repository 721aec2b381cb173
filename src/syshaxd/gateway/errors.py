# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The error tree as HTTP: status, OpenAI error object, Retry-After."""

import json
import math

from aiohttp import web

from syshaxd.core.errors import (
    BadRequestError,
    InstanceFailedError,
    InstanceTimeoutError,
    MethodNotAllowedError,
    NotFoundError,
    OverloadedError,
    RetryableError,
    SyshaxError,
    TooLargeError,
    UnavailableError,
)

# The first class that fits gives status and OpenAI's error type.
_STATUSES: tuple[tuple[type[SyshaxError], int, str], ...] = (
    (NotFoundError, 404, "invalid_request_error"),
    (MethodNotAllowedError, 405, "invalid_request_error"),
    (TooLargeError, 413, "invalid_request_error"),
    (BadRequestError, 400, "invalid_request_error"),
    (OverloadedError, 429, "rate_limit_error"),
    (UnavailableError, 503, "service_unavailable_error"),
    (InstanceFailedError, 502, "upstream_error"),
    (InstanceTimeoutError, 504, "timeout_error"),
    (SyshaxError, 500, "internal_error"),
)
_DEFAULT_CODES = {429: "overloaded", 503: "no_instance_ready", 502: "instance_failed", 504: "instance_timeout"}


def status_of(error: SyshaxError) -> int:
    """The HTTP status of an error."""
    return next(status for kind, status, _ in _STATUSES if isinstance(error, kind))


def error_response(error: SyshaxError, request_id: str) -> web.Response:
    """The answer to a request that failed with `error`."""
    status, kind = next((status, kind) for cls, status, kind in _STATUSES if isinstance(error, cls))
    param = error.param if isinstance(error, BadRequestError) else None
    code = error.code if isinstance(error, BadRequestError) else None
    headers = {"x-request-id": request_id}
    if isinstance(error, RetryableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return json_error(status, str(error), kind=kind, param=param, code=code, headers=headers)


def json_error(
    status: int,
    message: str,
    *,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """An OpenAI error object."""
    body = {"message": message, "type": kind, "param": param, "code": code or _DEFAULT_CODES.get(status)}
    return web.Response(
        status=status,
        body=json.dumps({"error": body}).encode(),
        content_type="application/json",
        headers=headers,
    )
