# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The shapes of OpenAI's API that the daemon itself writes."""

import json


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error object; `kind` is OpenAI's `type`."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()
