# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dashboard's routes, over a real socket."""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import aiohttp
import pytest

from syshaxd.core.events import EventKind
from syshaxd.core.numa import NumaTopology
from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.decision import InferenceRequest, Offload, Reject, RunOn, Wait
from syshaxd.core.placement.rules import Policy, View
from syshaxd.core.types import InstanceStatus, Role
from syshaxd.gateway import Gateway, Limits
from syshaxd.gateway.dashboard import Dashboard
from syshaxd.observe.metrics import MetricsService
from syshaxd.system.events import EventLog, History
from tests.core.topologies import KUNPENG
from tests.fakes.engine import FakeEngine, spec

PAGE = resources.files("syshaxd.gateway.dashboard")


@asynccontextmanager
async def serving(dashboard: Dashboard | None) -> AsyncIterator[Callable[..., Any]]:
    """A GET (or what `method` says) of a path."""
    gateway = Gateway(
        FakeEngine(), MetricsService(), FakeEngine().status, limits=Limits(max_body_bytes=1000), dashboard=dashboard
    )  # type: ignore[arg-type]
    url = await gateway.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            yield lambda path, method="GET": session.request(method, url + path)
    finally:
        await gateway.stop(0.0)


def dashboard(
    engine: FakeEngine | None = None,
    topology: NumaTopology | None = None,
    events: EventLog | None = None,
    decisions: History[Decided] | None = None,
) -> Dashboard:
    return Dashboard((engine or FakeEngine()).status, topology, events or EventLog(), decisions or History(9))


class Reader(HTMLParser):
    """Takes what is between the tags, and every reference to something else."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.inline: dict[str, str] = {}
        self.references: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.references += [value or "" for name, value in attributes if name in {"src", "href", "action"}]
        assert not [name for name, _ in attributes if name == "style" or name.startswith("on")], "the policy forbids it"

    def handle_data(self, data: str) -> None:
        if self._inside in {"style", "script"}:
            self.inline[self._inside] = self.inline.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


async def test_the_page_is_whole_and_may_load_nothing_else() -> None:
    async with serving(dashboard(topology=KUNPENG)) as get, get("/dashboard") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        page = Reader(await answer.text())
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inline[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'", "a browser would refuse it"
    assert "showTopology" in page.inline["script"]
    assert all(reference.startswith("data:") for reference in page.references)
    assert "dashboard/status.json" in page.inline["script"]


async def test_the_status_is_that_of_the_daemon() -> None:
    engine = FakeEngine()
    async with serving(dashboard(engine, KUNPENG)) as get, get("/dashboard/status.json") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert answer.headers["cache-control"] == "no-store"
        content = await answer.json()
    assert content["queued"] == 3
    assert [(instance["name"], instance["state"]) for instance in content["instances"]] == [
        ("gpu", "READY"),
        ("cpu", "READY"),
    ]
    gpu = content["instances"][0]
    assert (gpu["inflight"], gpu["load"]["running"], gpu["load"]["generation_tokens_per_s"]) == (15, 12, 812.5)
    assert content["gpus"][0]["power_w"] == 312.0
    assert content["host"]["cpu_count"] == 160
    assert content["now_s"] - content["started_at_s"] == pytest.approx(8005, abs=5)
    assert content["topology"]["owners"] == {"cpu": [*range(40)]}
    assert len(content["topology"]["nodes"]) == 4


async def test_the_latest_events_are_told_but_none_of_requests() -> None:
    events = EventLog(clock=lambda: 1234.5)
    for number in range(60):
        events.add(EventKind.STATE, f"STOPPED: {number}", instance="cpu", state="STOPPED")
    events.add(EventKind.CONFIG, "applied")
    events.add(EventKind.REQUEST, "ended the request of-somebody")
    async with serving(dashboard(events=events)) as get, get("/dashboard/status.json") as answer:
        told = (await answer.json())["events"]
    assert told[-2:] == [
        {"at_s": 1234.5, "instance": "cpu", "text": "STOPPED: 59"},
        {"at_s": 1234.5, "instance": "", "text": "applied"},
    ]
    assert len(told) <= 50
    assert not [event for event in told if "of-somebody" in event["text"]]


async def test_the_latest_decisions_are_told_but_not_on_which_request() -> None:
    decisions: History[Decided] = History(9)
    for decision in (
        RunOn("cpu", ("gpu: full",)),
        Offload("gpu", "cpu", ("gpu: KV cache over 90 %",)),
        Wait(("cpu: its backlog is full too",)),
        Reject("no instance is ready", 5.0),
    ):
        request = InferenceRequest(request_id="of-somebody", model="secret", stream=True)
        decisions.append(Decided(7.5, request, decision, View(policy=Policy())))
    async with serving(dashboard(decisions=decisions)) as get, get("/dashboard/status.json") as answer:
        text = await answer.text()
        assert [(told["place"], told["reasons"]) for told in (await answer.json())["decisions"]] == [
            ("cpu", ["gpu: full"]),
            ("gpu, then cpu", ["gpu: KV cache over 90 %"]),
            ("queue", ["cpu: its backlog is full too"]),
            ("rejected", ["no instance is ready"]),
        ]
    assert "of-somebody" not in text
    assert "secret" not in text


async def test_nothing_private_is_told() -> None:
    engine = FakeEngine()
    its = spec(Role.GPU, model="/srv/secret-model", env=(("TOKEN", "s3cret"),), argv=("vllm", "--api-key", "s3cret"))
    engine.statuses[Role.GPU] = InstanceStatus(spec=its)
    async with serving(dashboard(engine)) as get, get("/dashboard/status.json") as answer:
        text = await answer.text()
        assert (await answer.json())["topology"] is None
    for private in ("s3cret", "/srv", "vllm", ":8001", "4242"):
        assert private not in text


async def test_it_is_read_only_and_can_be_switched_off() -> None:
    async with serving(dashboard()) as get:
        async with get("/dashboard", "POST") as answer:
            assert answer.status == 405
        async with get("/dashboard", "HEAD") as answer:
            assert answer.status == 200
    async with serving(None) as get, get("/dashboard/status.json") as answer:
        assert answer.status == 404


def test_the_script_uses_nothing_that_could_run_text_as_code() -> None:
    script = PAGE.joinpath("page.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|setAttribute\(.style", script
    )
