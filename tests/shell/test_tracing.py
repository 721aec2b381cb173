# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Traces of requests: which spans there are, what they tell, and that nothing of it is imported when it is off."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from syshaxd.core.placement.records import Cause, HandoverRecord, Outcome, RequestRecord
from syshaxd.observe.tracing import Tracing
from tests.fakes.gateway import CHAT, MakeStand, stands
from tests.fakes.instance import Request, json_answer

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
async def make_stand() -> AsyncIterator[MakeStand]:
    async with stands() as make:
        yield make


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_of(request: Request) -> tuple[str, str, bool]:
    """What an instance gets as traceparent: trace, span, and whether it is sampled. Other flags are the library's."""
    lines = request.head.decode().split("\r\n")
    (sent,) = [line.partition(": ")[2] for line in lines if line.lower().startswith("traceparent:")]
    _, trace_id, span_id, flags = sent.split("-")
    return trace_id, span_id, bool(int(flags, 16) & 1)


async def test_a_request_continues_its_clients_trace_and_the_instance_continues_it(
    make_stand: MakeStand, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    stand = await make_stand(tracing=Tracing(provider, asyncio.get_running_loop().time))
    async with stand.post(headers={"traceparent": PARENT, "tracestate": "v=1"}) as response:
        assert response.status == 200
    spans = by_name(exporter)
    span = spans["chat m"]
    assert span.kind is SpanKind.SERVER
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert f"{span.parent.span_id:016x}" == PARENT_ID
    assert parent_of(stand.gpu.requests[0]) == (TRACE_ID, f"{span.context.span_id:016x}", True)
    assert span.attributes is not None
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "http.response.status_code": 200,
        "syshax.placement": "gpu",
        "syshax.outcome": "ok",
    }.items() <= dict(span.attributes).items()
    assert spans.keys() == {"chat m", "queue", "prefill", "decode"}
    for name in ("queue", "prefill", "decode"):
        part = spans[name]
        assert part.parent is not None
        assert part.parent.span_id == span.context.span_id
        assert span.start_time is not None
        assert span.end_time is not None
        assert part.start_time is not None
        assert part.end_time is not None
        assert span.start_time - 1000 <= part.start_time <= part.end_time <= span.end_time + 1000


async def test_a_request_without_a_trace_begins_one(
    make_stand: MakeStand, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    stand = await make_stand(tracing=Tracing(provider, asyncio.get_running_loop().time))
    async with stand.post(headers={"traceparent": "nonsense"}) as response:
        assert response.status == 200
    span = by_name(exporter)["chat m"]
    assert span.parent is None
    assert span.context is not None
    own = (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", True)
    assert parent_of(stand.gpu.requests[0]) == own


async def test_a_failed_request_is_an_error(
    make_stand: MakeStand, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def bad(request: Request) -> None:
        await request.send(json_answer(b"{}", "500 Internal Server Error"))

    stand = await make_stand(tracing=Tracing(provider, asyncio.get_running_loop().time))
    stand.gpu.answer = stand.cpu.answer = bad
    async with stand.post() as response:
        assert response.status == 500
    async with stand.post(CHAT | {"model": "unknown"}) as response:
        assert response.status == 404
    spans = by_name(exporter)
    assert spans["chat m"].status.status_code is StatusCode.ERROR
    unknown = spans["chat unknown"]
    assert unknown.status.status_code is StatusCode.UNSET, "the client's error"
    assert unknown.attributes is not None
    assert unknown.attributes["error.type"] == "client_error"


async def test_what_is_not_sampled_tells_instances_so(make_stand: MakeStand) -> None:
    stand = await make_stand(tracing=Tracing(TracerProvider(sampler=ALWAYS_OFF), asyncio.get_running_loop().time))
    async with stand.post() as response:
        assert response.status == 200
    assert not parent_of(stand.gpu.requests[0])[2]


def test_a_hand_over_has_a_span_of_its_own(provider: TracerProvider, exporter: InMemorySpanExporter) -> None:
    trace = Tracing(provider, lambda: 100.0, lambda: 1_000_000_000_000).begin(100.0, {}, b"Accept: */*\r\n")
    handover = HandoverRecord(
        source="gpu",
        target="cpu",
        cause=Cause.OFFLOAD,
        known_tokens=9,
        asked=True,
        cached_tokens=8,
        gap_s=0.5,
        at_s=102.0,
    )
    record = RequestRecord(
        request_id="r",
        route="/v1/completions",
        placement="gpu+cpu",
        status=200,
        outcome=Outcome.OK,
        started_at_s=100.0,
        queue_s=0.25,
        ttft_s=1.0,
        duration_s=3.0,
        handovers=(handover,),
    )
    trace.end(record, method="POST", model="m")
    spans = by_name(exporter)
    times = {name: (span.start_time, span.end_time) for name, span in spans.items()}
    second, zero = 1_000_000_000, 1_000_000_000_000
    assert times == {
        "text_completion m": (zero, zero + 3 * second),
        "queue": (zero, zero + second // 4),
        "prefill": (zero + second // 4, zero + second),
        "decode": (zero + second, zero + 3 * second),
        "handover": (zero + second * 3 // 2, zero + 2 * second),
    }
    attributes = spans["handover"].attributes
    assert attributes is not None
    assert attributes["syshax.handover.result"] == "loaded"
    assert trace.lines.startswith(b"Accept: */*\r\ntraceparent: 00-")


def test_nothing_is_imported_when_it_is_off() -> None:
    code = "import sys, syshaxd.daemon.composition; print([n for n in sys.modules if 'opentelemetry' in n])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
