# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Traces of requests, by OpenTelemetry: only a daemon with `tracing.endpoint` imports this.

Each request is a span, by the semantic conventions for generative AI, in the trace that its client began; its parts are
spans below it, made from the request's record when it ends. Instances get the request's span as their parent, so what
vLLM itself traces belongs to the same trace. A trace holds no content.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from syshaxd import __version__
from syshaxd.core.config.endpoints import TracingConfig
from syshaxd.core.placement.records import HandoverRecord, Outcome, RequestRecord

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/chat/pd_disagg": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
_FIELDS = (b"traceparent:", b"tracestate:")
_PROPAGATOR = TraceContextTextMapPropagator()


def provider_of(config: TracingConfig) -> TracerProvider:
    """Sends spans to the collector that the configuration names, from a thread of its own."""
    assert config.endpoint is not None
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(config.sample_ratio),
        resource=Resource.create({"service.name": config.service_name, "service.version": __version__}),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint)))
    return provider


class Tracing:
    """Begins the traces of requests. Lives in one event loop."""

    def __init__(
        self, provider: TracerProvider, now: Callable[[], float], clock: Callable[[], int] = time.time_ns
    ) -> None:
        """Has begun none.

        Args:
            provider: Takes spans.
            now: The monotonic clock of records, in seconds.
            clock: Unix time, in nanoseconds.
        """
        self._provider = provider
        self._tracer = provider.get_tracer("syshaxd", __version__)
        self._now = now
        self._clock = clock

    def begin(self, at_s: float, fields: Mapping[str, str], lines: bytes) -> "RequestTrace":
        """A request has come.

        Args:
            at_s: When, by the monotonic clock.
            fields: The header fields of the client; traceparent and tracestate may be among them.
            lines: Those of its header lines that go to instances.
        """
        carrier = {name: fields[name] for name in ("traceparent", "tracestate") if name in fields}
        zero_ns = self._clock() - int(self._now() * 1e9)
        span = self._tracer.start_span(
            "request", context=_PROPAGATOR.extract(carrier), kind=SpanKind.SERVER, start_time=zero_ns + int(at_s * 1e9)
        )
        return RequestTrace(self._tracer, span, zero_ns, lines)

    async def close(self) -> None:
        """Sends what is left."""
        await asyncio.to_thread(self._provider.shutdown)


class RequestTrace:
    """The trace of one request."""

    def __init__(self, tracer: Tracer, span: Span, zero_ns: int, lines: bytes) -> None:
        """`zero_ns` is the Unix time of the records' zero; see `Tracing.begin` for the rest."""
        self._tracer = tracer
        self._span = span
        self._zero_ns = zero_ns
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, context=set_span_in_context(span))
        kept = [line for line in lines.splitlines(keepends=True) if not line.lower().startswith(_FIELDS)]
        self.lines = b"".join(kept) + "".join(f"{name}: {value}\r\n" for name, value in carrier.items()).encode()
        """The header lines for instances, whose parent is this request."""

    def end(self, record: RequestRecord, *, method: str, model: str) -> None:
        """The request has ended: so do its spans."""
        span, end_s = self._span, record.started_at_s + record.duration_s
        if span.is_recording():
            operation = _OPERATIONS.get(record.route, "")
            span.update_name(f"{operation} {model}".strip() if operation else f"{method} {record.route}")
            span.set_attributes(_attributes(record, operation, method, model))
            if record.outcome is not Outcome.OK:
                span.set_attribute("error.type", record.outcome)
            if record.outcome is Outcome.FAILED:
                span.set_status(StatusCode.ERROR)
            self._add_parts(record, end_s)
        span.end(self._at_ns(end_s))

    def _add_parts(self, record: RequestRecord, end_s: float) -> None:
        if not record.placement:
            return
        began_s = record.started_at_s + record.queue_s
        self._add("queue", record.started_at_s, began_s)
        if record.ttft_s is None:
            return
        first_s = max(began_s, record.started_at_s + record.ttft_s)
        self._add("prefill", began_s, first_s)
        self._add("decode", first_s, end_s)
        for handover in record.handovers:
            if handover.gap_s is not None:
                self._add("handover", handover.at_s - handover.gap_s, handover.at_s, handover)

    def _add(self, name: str, from_s: float, to_s: float, handover: HandoverRecord | None = None) -> None:
        context = set_span_in_context(self._span)
        part = self._tracer.start_span(name, context=context, start_time=self._at_ns(from_s))
        if handover is not None:
            part.set_attributes(
                {
                    "syshax.handover.source": handover.source,
                    "syshax.handover.target": handover.target,
                    "syshax.handover.cause": handover.cause,
                    "syshax.handover.result": handover.result,
                    "syshax.handover.known_tokens": handover.known_tokens,
                    "syshax.handover.bytes": handover.size_bytes,
                }
            )
        part.end(self._at_ns(to_s))

    def _at_ns(self, at_s: float) -> int:
        return self._zero_ns + int(at_s * 1e9)


def _attributes(record: RequestRecord, operation: str, method: str, model: str) -> dict[str, str | int | float | bool]:
    values: dict[str, str | int | float | bool | None] = {
        "gen_ai.operation.name": operation or None,
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": model or None,
        "gen_ai.usage.input_tokens": record.tokens_in or None,
        "gen_ai.usage.output_tokens": record.tokens_out or None,
        "http.request.method": method,
        "http.response.status_code": record.status or None,
        "url.path": record.route,
        "syshax.request_id": record.request_id,
        "syshax.outcome": record.outcome,
        "syshax.placement": record.placement or None,
        "syshax.stream": record.stream,
        "syshax.queue_s": record.queue_s,
        "syshax.ttft_s": record.ttft_s,
        "syshax.retries": record.retries,
    }
    return {name: value for name, value in values.items() if value is not None}
