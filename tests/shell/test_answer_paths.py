# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An answer is the same whichever way it takes: relayed, movable, moved, offloaded; in JSON or as a stream."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from syshax_sim import Faults, Profile
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.rules import Policy
from syshaxd.core.types import State
from tests.fakes.handover import FAST, Duo, duo
from tests.fakes.rawclient import Got, ask

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "m", "messages": [{"role": "user", "content": "Introduce openEuler. " * 9}], "max_tokens": 24},
    TEXT: {"model": "m", "prompt": "Introduce openEuler. " * 9, "max_tokens": 24},
}
PATHS = ("relayed", "movable", "moved", "offloaded")
SLOW = replace(FAST, step_base_s=0.004)
# What an instance says of the connection, and of itself, is not the answer's.
NOT_COMPARED = {
    "x-request-id",
    "x-syshax-placement",
    "connection",
    "transfer-encoding",
    "date",
    "content-length",
    "server",
}


@dataclass(frozen=True)
class Case:
    """What is asked of which instances."""

    name: str
    profile: Profile = SLOW
    body: dict[str, Any] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)


HEADERS = {"Access-Control-Allow-Origin": "*", "Set-Cookie": "a=b", "X-Model-Version": "7", "Retry-After": "3"}
USAGE = {"stream_options": {"include_usage": True}}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
CASES = [
    Case("plain"),
    Case("headers", faults=Faults(answer_headers=HEADERS)),
    Case("usage", body=USAGE),
    Case("usage-details", replace(SLOW, prompt_details=True), USAGE),
    Case("continuous-usage", body=CONTINUOUS),
    Case("usage-unasked", replace(SLOW, usage_unasked=True)),
    Case("ids", body={"return_token_ids": True}),
    Case("wide-characters", replace(SLOW, wide_characters=True)),
    Case("parser", replace(SLOW, wide_characters=True, parser=True)),
    Case("parser-and-ids", replace(SLOW, wide_characters=True, parser=True), {"return_token_ids": True}),
    Case("unknown-fields", faults=Faults(event_fields={"service_tier": "default", "of_the_future": [1, {"a": None}]})),
    Case("several-tokens", replace(SLOW, tokens_per_event=3), USAGE | {"max_tokens": 120}),
]
JSON_CASES = [case for case in CASES if "stream_options" not in case.body]


def full_gpu() -> Snapshot:
    return Snapshot(instances={"gpu": InstanceLoad(read_at_s=1.0, running=1, waiting=300)})


def set_faults(both: Duo, faults: Faults) -> None:
    for sim in both.sims.values():
        sim.set_faults(faults)


async def go(both: Duo, way: str, path: str, body: dict[str, Any], *, version: str = "1.1") -> Got:
    """Sends a request such that its answer goes a certain way."""
    match way:
        case "direct":
            return await ask(both.gpu.url, path, body, version=version)
        case "relayed":
            return await ask(both.url, path, body, version=version, headers={"X-Syshax-Place": "gpu"})
        case "moved":
            before = both.gpu.engine.counters.generation_tokens
            asking = asyncio.create_task(ask(both.url, path, body, version=version))
            await both.gpu.engine.until(lambda: both.gpu.engine.counters.generation_tokens > before + 4)
            both.supervisor.become("gpu", State.DRAINING)
            return await asking
        case _:
            return await ask(both.url, path, body, version=version)


def comparable(events: list[Any]) -> list[Any]:
    return [
        {name: value for name, value in event.items() if name not in {"id", "created"}}
        if isinstance(event, dict)
        else event
        for event in events
    ]


def without_details(events: list[Any]) -> list[Any]:
    """What the first instance had cached, nobody knows of a stream that it did not end."""
    for event in events:
        if isinstance(event, dict) and isinstance(event.get("usage"), dict):
            event["usage"].pop("prompt_tokens_details", None)
    return events


def joined(events: list[Any]) -> list[Any]:
    """Events as if each had one token: where a part ends does not matter."""
    text, others = "", []
    for event in events:
        for choice in event["choices"] if isinstance(event, dict) else []:
            part = choice.get("delta", choice)
            text += part.get("content") or part.get("text") or ""
        if not isinstance(event, dict) or not event["choices"] or event["choices"][0]["finish_reason"]:
            others.append(event)
    return [text, others[-1:], [event.get("usage") for event in others if isinstance(event, dict)]]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("way", PATHS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_stream(case: Case, way: str, path: str) -> None:
    version = "1.0" if case.name in {"plain", "headers"} else "1.1"
    policy = Policy(name="turn", offload_min_prompt_tokens=0)
    snapshot = full_gpu if way == "offloaded" else Snapshot
    argv = ("--enable-force-include-usage",) if case.profile.usage_unasked else ()
    async with duo(case.profile, policy=policy, snapshot=snapshot, argv=argv) as both:
        set_faults(both, case.faults)
        body = BODIES[path] | {"stream": True} | case.body
        plain = await go(both, "direct", path, body)
        got = await go(both, way, path, body, version=version)
        assert got.complete
        assert got.status == 200
        assert got.headers["x-syshax-placement"] == ("gpu+cpu" if way == "offloaded" else "gpu")
        for headers in (plain.headers, got.headers):
            for name in NOT_COMPARED:
                headers.pop(name, None)
        assert got.headers == plain.headers
        expected, events = comparable(plain.events()), comparable(got.events())
        assert events[-1] == "[DONE]"
        if way == "moved":
            assert both.metrics.records[0].handovers
            expected, events = without_details(expected), without_details(events)
        elif way == "offloaded":
            expected, events = without_details(expected), without_details(events)
        if case.profile.tokens_per_event > 1 and way in {"moved", "offloaded"}:
            expected, events = joined(expected), joined(events)
        if way == "offloaded":  # a JSON answer has no fields of events
            for event in expected[:2] if path == CHAT else expected[:1]:
                for name in case.faults.event_fields:
                    event.pop(name, None)
        assert events == expected
        record = both.metrics.records[0]
        assert record.outcome is Outcome.OK
        if way != "relayed" or case.profile == SLOW:  # else only the events are counted, where usage is not told
            assert record.tokens_out == body["max_tokens"]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("way", ["relayed", "offloaded"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if "stream_options" not in case.body], ids=lambda case: case.name
)
async def test_a_json_answer(case: Case, way: str, path: str) -> None:
    version = "1.0" if case.name == "headers" else "1.1"
    policy = Policy(name="turn", offload_min_prompt_tokens=0)
    async with duo(case.profile, policy=policy, snapshot=full_gpu if way == "offloaded" else Snapshot) as both:
        set_faults(both, case.faults)
        body = BODIES[path] | case.body
        plain = await go(both, "direct", path, body)
        got = await go(both, way, path, body, version=version)
        assert got.complete
        for headers in (plain.headers, got.headers):
            for name in NOT_COMPARED:
                headers.pop(name, None)
        assert got.headers == plain.headers
        expected, told = comparable([json.loads(plain.body)]), comparable([json.loads(got.body)])
        assert told == expected
