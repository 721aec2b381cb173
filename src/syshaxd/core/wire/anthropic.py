# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parts of Anthropic's API that the daemon itself writes."""

import json

_PATH = "/v1/messages"
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def is_path(path: str) -> bool:
    """Whether clients of a route expect Anthropic's format."""
    return path == _PATH or path.startswith(f"{_PATH}/")


def error_body(message: str, status: int, request_id: str) -> bytes:
    """An error object for an HTTP status."""
    kind = _KINDS.get(status, "invalid_request_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}).encode()


def error_event(message: str, request_id: str) -> bytes:
    """The last event of a stream whose instance has failed. Without the event's name, clients would overlook it."""
    return b"event: error\ndata: " + error_body(message, 502, request_id) + b"\n\n"
