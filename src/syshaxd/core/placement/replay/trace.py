# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Traces: when requests arrive, and how long their prompts and answers are."""

import csv
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from syshaxd.core import jsontext
from syshaxd.core.placement.replay.export import check_header


@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request."""

    at_s: float
    """Seconds since the start of the trace."""
    prompt_tokens: int
    answer_tokens: int
    model: str = ""
    path: str = ""
    """With the model: answers to requests of the same two have similar lengths. Empty: not told."""
    max_tokens: int | None = None
    """Limit of the answer, as the request told it."""
    is_batch: bool = False
    """Of the class batch."""


def parse(text: str) -> list[TracedRequest]:
    """Reads a trace in the order of arrival.

    Args:
        text: Azure's CSV (TIMESTAMP, ContextTokens, GeneratedTokens), Mooncake's JSON lines (timestamp in
            milliseconds, input_length, output_length), or what `syshaxctl decisions --export` writes.

    Raises:
        ValueError: It is none of these, or a line is wrong; the message names it.
    """
    lines = text.splitlines()
    if not lines:
        raise ValueError("the trace is empty")
    rows = _json_rows(lines) if lines[0].lstrip().startswith("{") else _csv_rows(lines)
    found = sorted(rows, key=lambda request: request.at_s)
    if not found:
        raise ValueError("the trace has no requests")
    return [replace(request, at_s=request.at_s - found[0].at_s) for request in found]


def _json_rows(lines: Sequence[str]) -> Iterable[TracedRequest]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and _is_header(line)):
            continue
        try:
            row = jsontext.loads(line)
            checked = _checked(float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"]))
            limit = row.get("max_tokens")
            yield replace(
                checked,
                model=str(row.get("model", "")),
                path=str(row.get("path", "")),
                max_tokens=None if limit is None else int(limit),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number}: needs timestamp, input_length and output_length: {error!r}") from None


def _is_header(line: str) -> bool:
    """Whether the line names the format of an export. Raises ValueError: one that is not known."""
    try:
        row = jsontext.loads(line)
    except ValueError:
        return False
    found = isinstance(row, dict) and "format" in row
    if found:
        check_header(row)
    return found


def _csv_rows(lines: Sequence[str]) -> Iterable[TracedRequest]:
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            # Python reads six digits of a second; Azure's traces have seven.
            at_s = datetime.fromisoformat(row["TIMESTAMP"][:26] + "+00:00").timestamp()
            yield _checked(at_s, int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        except (ValueError, KeyError, TypeError) as error:
            text = f"line {number}: needs TIMESTAMP, ContextTokens and GeneratedTokens: {error!r}"
            raise ValueError(text) from None


def _checked(at_s: float, prompt_tokens: int, answer_tokens: int) -> TracedRequest:
    if prompt_tokens < 0 or answer_tokens < 0:
        raise ValueError("lengths must not be negative")
    return TracedRequest(at_s, max(1, prompt_tokens), max(1, answer_tokens))


def section(requests: Sequence[TracedRequest], count: int, seed: int) -> list[TracedRequest]:
    """So many consecutive requests, from a place that depends on the seed; all of a shorter trace."""
    start = random.Random(seed).randrange(max(1, len(requests) - count + 1))  # noqa: S311 - no secret
    found = requests[start : start + count]
    return [replace(request, at_s=request.at_s - found[0].at_s) for request in found]


def fit(requests: Sequence[TracedRequest], max_tokens: int) -> list[TracedRequest]:
    """Cuts what is longer than an instance holds: the answer to half of that, then the prompt."""
    answers = [min(request.answer_tokens, max_tokens // 2) for request in requests]
    return [
        replace(request, prompt_tokens=min(request.prompt_tokens, max_tokens - tokens), answer_tokens=tokens)
        for request, tokens in zip(requests, answers, strict=True)
    ]


def at_rate(requests: Sequence[TracedRequest], per_s: float) -> list[TracedRequest]:
    """The same requests, at another rate: their arrivals are as irregular as they were."""
    span_s = requests[-1].at_s
    if span_s <= 0:
        return [replace(request, at_s=number / per_s) for number, request in enumerate(requests)]
    factor = len(requests) / per_s / span_s
    return [replace(request, at_s=request.at_s * factor) for request in requests]


def with_batch(requests: Sequence[TracedRequest], share: float, seed: int) -> list[TracedRequest]:
    """The same requests, of which such a share, chosen at random, is of the class batch."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    return [replace(request, is_batch=chance.random() < share) for request in requests]
