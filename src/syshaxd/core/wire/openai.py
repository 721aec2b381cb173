# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parts of OpenAI's API that the daemon itself writes."""

import json
from collections.abc import Mapping
from typing import Any

from syshaxd.core.report.describe import excerpt


def error_body(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> bytes:
    """An error object; `kind` is OpenAI's `type`."""
    return json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def error_text(problem: Any) -> str:
    """The message of an instance's error object, or of anything in its place."""
    text = problem.get("message") if isinstance(problem, Mapping) else problem
    return excerpt(str(text)) or "no reason given"


def is_refusal(problem: Any) -> bool:
    """Whether an error object in a stream blames the request, so that another instance would answer the same."""
    code = problem.get("code") if isinstance(problem, dict) else None
    return isinstance(code, int) and 400 <= code < 500


def choices_of(fields: Mapping[str, Any] | None) -> int:
    """How many answers a request's body asks for, as far as it can be read: `n` for each prompt."""
    if fields is None:
        return 1
    number, prompt = fields.get("n"), fields.get("prompt")
    prompts = 1
    if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt):
        prompts = len(prompt)
    return prompts * (number if isinstance(number, int) else 1)
