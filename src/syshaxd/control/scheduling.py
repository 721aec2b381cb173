# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - scheduling.proto names and explains the methods
"""The scheduling service's methods: each parses, makes one call and renders."""

import secrets
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, replace

from syshaxd.api.v1 import scheduling_pb2 as api
from syshaxd.api.v1.scheduling_pb2_grpc import SchedulingServiceServicer
from syshaxd.control.messages import Context, make, message_of
from syshaxd.control.operations import Operations
from syshaxd.core.config import parse
from syshaxd.core.errors import BadRequestError, NotFoundError
from syshaxd.core.events import EventKind
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.alternatives import alternatives, expected_length
from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, RunOn
from syshaxd.core.placement.records import Outcome, RequestRecord
from syshaxd.core.placement.rules import RULES, Policy, View
from syshaxd.core.types import InstanceSpec
from syshaxd.serving.leases import DEFAULT_TTL_S
from syshaxd.serving.request import Request, is_request_id

_CHAT = "/v1/chat/completions"
_SECTIONS = {
    "name": ("scheduler", "policy"),
    "holdout": ("scheduler", "holdout"),
    "gpu_cache_threshold": ("decider", "gpu_cache_threshold"),
    "cpu_throughput_threshold": ("decider", "cpu_throughput_threshold"),
    "offload_min_prompt_tokens": ("offload", "min_prompt_tokens"),
}


class SchedulingServicer(SchedulingServiceServicer):
    """Translates between protobuf and the Engine. Errors pass through to the interceptor."""

    def __init__(self, operations: Operations) -> None:
        self._engine = operations.engine
        self._instances = operations.instances
        self._leases = operations.leases

    async def PlaceRequest(self, request: api.PlaceRequestRequest, context: Context) -> api.PlaceRequestResponse:
        request_id = request.request_id or f"lease-{secrets.token_hex(8)}"
        if not is_request_id(request_id):
            raise BadRequestError("request_id takes at most 128 ASCII letters, digits and ._:/+=@-")
        ttl_s = request.ttl_s or DEFAULT_TTL_S
        decision, lease_id = self._leases.place(_query(request.query, request_id), ttl_s)
        return make(
            api.PlaceRequestResponse,
            decision=_decision(decision, self._specs()),
            lease_id=lease_id,
            ttl_s=ttl_s if lease_id else 0.0,
            request_id=request_id,
        )

    async def RenewLease(self, request: api.RenewLeaseRequest, context: Context) -> api.RenewLeaseResponse:
        ttl_s = self._leases.renew(request.lease_id, request.ttl_s or None)
        return make(api.RenewLeaseResponse, ttl_s=ttl_s)

    async def ReportEnd(self, request: api.ReportEndRequest, context: Context) -> api.ReportEndResponse:
        self._leases.end(
            request.lease_id,
            outcome=Outcome.FAILED if request.failed else Outcome.OK,
            tokens_in=request.tokens_in,
            tokens_out=request.tokens_out,
        )
        return api.ReportEndResponse()

    async def DryRun(self, request: api.DryRunRequest, context: Context) -> api.DryRunResponse:
        status, specs = self._instances.status(), self._specs()
        if unknown := set(request.loads).difference(specs):
            raise NotFoundError(f"no instance {min(unknown)!r}; available: {', '.join(specs)}")
        snapshot, inflight = _assumed(status.snapshot, status.inflight, request.loads)
        decision = self._engine.decide(_query(request.query, "dry-run"), snapshot=snapshot, inflight=inflight)
        return make(api.DryRunResponse, decision=_decision(decision, specs))

    async def ExplainDecision(
        self, request: api.ExplainDecisionRequest, context: Context
    ) -> api.ExplainDecisionResponse:
        request_id = request.request_id or self._engine.requests.latest_for(request.model)
        decisions, records = self._engine.requests.explain(request_id)
        if not decisions and not request.request_id:
            raise NotFoundError(f"no recent decision on a request for the model {request.model!r}")
        if not decisions:
            raise NotFoundError(
                f"no recent decision on a request {request.request_id!r}; `syshaxctl decisions` lists recent ones"
            )
        specs = self._specs()
        return make(
            api.ExplainDecisionResponse,
            decisions=[_entry(decided, specs) for decided in decisions],
            ends=[_end(record, specs) for record in records],
        )

    async def ListEnds(self, request: api.ListEndsRequest, context: Context) -> None:
        specs = self._specs()
        for record in self._engine.requests.ended():
            await context.write(make(api.ListEndsResponse, end=_end(record, specs)))

    async def WatchDecisions(self, request: api.WatchDecisionsRequest, context: Context) -> None:
        await context.send_initial_metadata(())
        model, history = request.model, self._engine.requests.decisions
        watched = history.watch(
            request.last, follow=request.follow, wanted=lambda entry: not model or entry.is_for(model)
        )
        async with aclosing(watched) as stream:
            async for decided in stream:
                await context.write(make(api.WatchDecisionsResponse, decision=_entry(decided, self._specs())))

    async def ListRequests(self, request: api.ListRequestsRequest, context: Context) -> api.ListRequestsResponse:
        now_s = time.monotonic()
        found = sorted(self._engine.requests.running, key=lambda running: running.started_at_s)
        return make(api.ListRequestsResponse, requests=[_in_flight(running, now_s) for running in found])

    async def CancelRequest(self, request: api.CancelRequestRequest, context: Context) -> api.CancelRequestResponse:
        count = self._engine.requests.cancel(request.request_id) + self._leases.cancel(request.request_id)
        if not count:
            raise NotFoundError(f"no running or queued request {request.request_id!r}; `syshaxctl requests` lists them")
        self._engine.events.add(EventKind.REQUEST, f"request {request.request_id} was cancelled by an operator")
        return make(api.CancelRequestResponse, cancelled=count)

    async def GetPolicy(self, request: api.GetPolicyRequest, context: Context) -> api.GetPolicyResponse:
        choices = [make(api.NamedPolicy, name=name, summary=rules.summary) for name, rules in RULES.items()]
        return make(api.GetPolicyResponse, policy=self._engine.policy, choices=choices)

    async def SetPolicy(self, request: api.SetPolicyRequest, context: Context) -> api.SetPolicyResponse:
        given = {field.name: value for field, value in request.policy.ListFields()}
        sections: dict[str, dict[str, object]] = {}
        for name, value in (asdict(self._engine.policy) | given).items():
            if name in _SECTIONS:
                section, key = _SECTIONS[name]
                sections.setdefault(section, {})[key] = value
        policy = Policy.from_config(parse(sections))
        self._engine.set_policy(policy)
        changed = ", ".join(f"{name}={value}" for name, value in given.items()) or "nothing"
        self._engine.events.add(EventKind.CONFIG, f"policy set until the next reload: {changed}")
        return make(api.SetPolicyResponse, policy=policy)

    def _specs(self) -> dict[str, InstanceSpec]:
        return {status.spec.name: status.spec for status in self._instances.status().instances}


def _query(query: api.PlacementQuery, request_id: str) -> InferenceRequest:
    return InferenceRequest(
        request_id=request_id,
        model=query.model,
        stream=query.stream,
        path=query.path or _CHAT,
        pinned=query.pinned or None,
        full_weights=query.full_weights,
        prompt_tokens=query.prompt_tokens,
        max_tokens=query.max_tokens if query.HasField("max_tokens") else None,
    )


def _assumed(
    snapshot: Snapshot, inflight: Mapping[str, int], loads: Mapping[str, api.AssumedLoad]
) -> tuple[Snapshot, dict[str, int]]:
    """The present loads, overridden by those given."""
    given = {
        name: InstanceLoad(
            read_at_s=snapshot.taken_at_s,
            running=load.running,
            waiting=load.waiting,
            kv_usage_ratio=load.kv_usage_ratio,
            generation_tokens_per_s=load.generation_tokens_per_s,
        )
        for name, load in loads.items()
    }
    counts = {name: load.running + load.waiting for name, load in loads.items()}
    return replace(snapshot, instances={**snapshot.instances, **given}), {**inflight, **counts}


def _decision(
    decision: Decision, specs: Mapping[str, InstanceSpec], further_reasons: tuple[str, ...] = ()
) -> api.Decision:
    if isinstance(decision, Reject):
        return make(
            api.Decision, kind=api.DECISION_KIND_REJECT, reasons=[decision.reason], retry_after_s=decision.retry_after_s
        )
    if not isinstance(decision, RunOn | Offload):
        return make(api.Decision, kind=api.DECISION_KIND_WAIT, reasons=decision.reasons)
    first, last = decision.places[0], decision.places[-1]
    return make(
        api.Decision,
        kind=api.DECISION_KIND_OFFLOAD if isinstance(decision, Offload) else api.DECISION_KIND_RUN_ON,
        prefill=first,
        decode=last,
        prefill_address=specs[first].address.authority if first in specs else "",
        decode_address=specs[last].address.authority if last in specs else "",
        reasons=(*decision.reasons, *further_reasons),
        prediction=decision.prediction,
    )


def _entry(decided: Decided, specs: Mapping[str, InstanceSpec]) -> api.DecisionEntry:
    length = expected_length(decided.view, decided.request)
    return make(
        api.DecisionEntry,
        at_s=decided.at_s,
        request_id=decided.request.request_id,
        path=decided.request.path,
        model=decided.request.model,
        decision=_decision(decided.decision, specs, decided.request.split_limits),
        candidates=[_candidate(spec.name, decided.view, specs) for spec in decided.view.candidates],
        queued=decided.queued,
        prompt_tokens=decided.request.prompt_tokens,
        max_tokens=decided.request.max_tokens,
        alternatives=alternatives(decided.view, decided.request, decided.decision),
        expected_tokens=length.mean,
        expected_median_tokens=length.median,
        expected_long_tokens=length.long,
        expected_from=length.basis,
        full_weights=decided.request.full_weights,
        policy=decided.view.policy.name,
    )


def _candidate(name: str, view: View, specs: Mapping[str, InstanceSpec]) -> api.Candidate:
    load = view.snapshot.instances.get(name)
    inflight = view.inflight.get(name, 0)
    if load is None:
        return make(api.Candidate, name=name, inflight=inflight, weights=_weights(name, specs))
    return message_of(api.Candidate, load, name=name, inflight=inflight, weights=_weights(name, specs))


def _weights(name: str, specs: Mapping[str, InstanceSpec]) -> str:
    return specs[name].weights_text if name in specs else ""


def _end(record: RequestRecord, specs: Mapping[str, InstanceSpec]) -> api.RequestEnd:
    handovers = [
        message_of(api.RequestHandover, each, tokens=each.known_tokens, weights=_weights(each.target, specs))
        for each in record.handovers
    ]
    arrived_at_s = time.time() - time.monotonic() + record.started_at_s
    return message_of(api.RequestEnd, record, handovers=handovers, arrived_at_s=arrived_at_s)


def _in_flight(running: Request, now_s: float) -> api.RequestInFlight:
    return make(
        api.RequestInFlight,
        request_id=running.id,
        path=running.path,
        model=running.inference.model,
        placement=running.placement,
        age_s=now_s - running.started_at_s,
        tokens=running.tokens,
        stream=running.inference.stream,
        leased=running.task is None,
    )
