# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Decisions as JSON lines: what `syshaxctl decisions --export` writes and `trace.parse` reads.

The first line names the format and its version. Each further line is a request that was answered: Mooncake's fields
(`timestamp` in milliseconds of Unix time, `input_length` and `output_length` in tokens), which make it a trace, and
what was decided and measured. Nothing comes from a prompt or an answer.
"""

import json
from collections.abc import Mapping
from typing import Any

FORMAT = "syshax-decisions"
VERSION = 1
"""Rises when a line no longer means what it did; new fields do not raise it."""


def header() -> str:
    """The first line."""
    return json.dumps({"format": FORMAT, "version": VERSION})


def check_header(row: Mapping[str, Any]) -> None:
    """Raises ValueError: a first line that names a format names another, or a later version of it."""
    if row["format"] != FORMAT:
        raise ValueError(f"the format {row['format']!r} is not known")
    if row.get("version") != VERSION:
        raise ValueError(f"version {row.get('version')!r} of {FORMAT} is not known; this program reads {VERSION}")


def line(end: Mapping[str, Any]) -> str | None:
    """One request.

    Args:
        end: A RequestEnd of scheduling.proto, as plain values.

    Returns:
        None: it says nothing of the load, as it was not answered or its tokens were not counted.
    """
    prompt_tokens = end["tokens_in"] or end["prompt_tokens"]
    if end["outcome"] != "ok" or not prompt_tokens or not end["tokens_out"]:
        return None
    row = {
        "timestamp": end["arrived_at_s"] * 1000,
        "input_length": prompt_tokens,
        "output_length": end["tokens_out"],
        "model": end["model"],
        "path": end["path"],
        "id": end["request_id"],
        "placement": end["placement"],
        "queue_s": end["queue_s"],
        "duration_s": end["duration_s"],
        "retries": end["retries"],
        "held_out": end["held_out"],
    }
    row |= {
        name: end[name] for name in ("max_tokens", "ttft_s", "prediction", "handovers") if end.get(name) is not None
    }
    return json.dumps(row)
