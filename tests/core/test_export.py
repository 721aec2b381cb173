# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Export: what `decisions --export` writes is the trace that `replay` reads, whatever was recorded."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.placement.replay.export import FORMAT, VERSION, header, line
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.run import replay
from syshaxd.core.placement.replay.trace import parse
from syshaxd.core.placement.rules import Policy

TOKENS = st.integers(0, 4000)
ENDS = st.fixed_dictionaries(
    {
        "request_id": st.text(max_size=20),
        "outcome": st.sampled_from(["ok", "ok", "failed", "client_gone"]),
        "arrived_at_s": st.floats(1.7e9, 1.9e9),
        "path": st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
        "model": st.text(max_size=20),
        "placement": st.sampled_from(["gpu", "gpu+cpu"]),
        "tokens_in": TOKENS,
        "prompt_tokens": TOKENS,
        "tokens_out": TOKENS,
        "queue_s": st.floats(0, 60),
        "duration_s": st.floats(0, 600),
        "retries": st.integers(0, 3),
        "held_out": st.booleans(),
        "handovers": st.just([]),
    },
    optional={"max_tokens": st.integers(1, 4000), "ttft_s": st.floats(0, 60)},
)


def exported(ends: list[dict[str, Any]]) -> str:
    return "\n".join([header(), *(text for end in ends if (text := line(end)) is not None)]) + "\n"


@given(st.lists(ENDS, min_size=1, max_size=20))
def test_what_is_exported_is_read_as_a_trace(ends: list[dict[str, Any]]) -> None:
    said = [
        end for end in ends if end["outcome"] == "ok" and end["tokens_out"] and end["tokens_in"] + end["prompt_tokens"]
    ]
    if not said:
        with pytest.raises(ValueError, match="the trace has no requests"):
            parse(exported(ends))
        return
    said.sort(key=lambda end: end["arrived_at_s"])
    read = parse(exported(ends))
    told = [(each.prompt_tokens, each.answer_tokens, each.model, each.path, each.max_tokens) for each in read]
    assert sorted(told, key=str) == sorted(
        (
            (
                end["tokens_in"] or end["prompt_tokens"],
                end["tokens_out"],
                end["model"],
                end["path"],
                end.get("max_tokens"),
            )
            for end in said
        ),
        key=str,
    )
    first_s = said[0]["arrived_at_s"]
    assert [each.at_s for each in read] == pytest.approx([end["arrived_at_s"] - first_s for end in said], abs=1e-3)


def test_an_export_can_be_replayed() -> None:
    end = {"request_id": "r", "outcome": "ok", "path": "/p", "model": "m", "placement": "gpu", "queue_s": 0.0}
    end |= {"tokens_in": 100, "prompt_tokens": 0, "tokens_out": 20, "duration_s": 1.0, "retries": 0, "held_out": False}
    requests = parse(exported([end | {"arrived_at_s": 1.8e9 + number} for number in range(10)]))
    done = replay(PROFILES["cpu-3x"], Policy(), requests)
    assert [outcome.traced for outcome in done.outcomes] == requests


def test_a_later_version_and_another_format_are_refused() -> None:
    for row, told in (
        ({"format": FORMAT, "version": VERSION + 1}, f"version {VERSION + 1} of {FORMAT} is not known"),
        ({"format": "other"}, "the format 'other' is not known"),
    ):
        with pytest.raises(ValueError, match=told):
            parse(json.dumps(row) + "\n")
