# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The control plane of a whole daemon, over a real socket; only its inference servers are fake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceStub
from syshaxd.client import ControlClient
from syshaxd.control import ControlServer, TlsEndpoint
from syshaxd.core.errors import (
    BadRequestError,
    ConfigError,
    ConflictError,
    LaunchFailedError,
    NotFoundError,
    SyshaxError,
)
from syshaxd.core.placement.rules import RULES
from syshaxd.core.types import InstanceStatus, QuantisedWeights, State
from syshaxd.instances.catalog import assumed
from tests.fakes.control import operations_of
from tests.fakes.daemon import FakeDaemon, fake_daemon, serving_control
from tests.fakes.engine import FakeEngine

IN_TIME_S = 50.0


@dataclass
class Plane:
    daemon: FakeDaemon
    server: ControlServer
    client: ControlClient
    stops: list[bool | None]

    def running(self) -> dict[str, int]:
        return dict(self.daemon.engine.inflight)


@pytest.fixture
def tls(tmp_path: Path) -> TlsEndpoint:
    ca, server = trustme.CA(), None
    server = ca.issue_cert("localhost")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, part in enumerate(server.cert_chain_pems):
        part.write_to_path(tmp_path / "cert.pem", append=number > 0)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = ca.issue_cert("operator@example.com")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    return TlsEndpoint(
        host="localhost", port=0, cert=tmp_path / "cert.pem", key=tmp_path / "key.pem", client_ca=tmp_path / "ca.pem"
    )


@pytest.fixture
async def plane(tmp_path: Path, tls: TlsEndpoint) -> AsyncIterator[Plane]:
    async with asyncio.timeout(IN_TIME_S), fake_daemon(tmp_path) as daemon:
        stops: list[bool | None] = []
        async with (
            serving_control(daemon, tmp_path, stop=stops.append, tls=tls) as (server, path),
            ControlClient(path) as client,
        ):
            yield Plane(daemon, server, client, stops)


# API keys.


async def test_an_api_key_is_made_listed_and_revoked(plane: Plane) -> None:
    made = await plane.client.ask("CreateKey", key={"name": "alice", "models": ["m"], "expires_at_s": 1e11})
    assert made["secret"].startswith("sk-syshax-")
    answer = await plane.client.ask("ListKeys")
    assert (answer["required"], answer["keys"]) == (True, [made["key"]])
    assert made["secret"] not in str(answer)
    with pytest.raises(ConflictError, match="alice already"):
        await plane.client.ask("CreateKey", key={"name": "alice"})
    with pytest.raises(ConfigError) as caught:
        await plane.client.ask("CreateKey", key={"name": "a b", "access": "root"})
    assert {fault.key for fault in caught.value.faults} == {"name", "access"}
    await plane.client.ask("RevokeKey", name="alice")
    assert (await plane.client.ask("ListKeys"))["keys"] == []
    with pytest.raises(NotFoundError, match="no API key alice"):
        await plane.client.ask("RevokeKey", name="alice")


# Leases.


async def test_a_lease_counts_as_in_flight_until_its_end_is_reported(plane: Plane) -> None:
    got = await plane.client.ask("PlaceRequest", query={"model": "m"}, request_id="theirs")
    assert got["decision"]["kind"] == "DECISION_KIND_RUN_ON"
    assert (got["decision"]["decode"], got["decision"]["decode_address"]) == ("gpu", "127.0.0.1:8001")
    assert got["decision"]["reasons"] == ["the GPU has room"]
    assert plane.running() == {"gpu": 1, "cpu": 0}
    (listed,) = (await plane.client.ask("ListRequests"))["requests"]
    assert (listed["request_id"], listed["placement"], listed["leased"]) == ("theirs", "gpu", True)
    await plane.client.ask("ReportEnd", lease_id=got["lease_id"], tokens_out=7)
    assert plane.running() == {"gpu": 0, "cpu": 0}
    explained = await plane.client.ask("ExplainDecision", request_id="theirs")
    assert [(end["outcome"], end["tokens_out"]) for end in explained["ends"]] == [("ok", 7)]
    with pytest.raises(NotFoundError, match="no lease"):
        await plane.client.ask("ReportEnd", lease_id=got["lease_id"])


async def test_a_lease_ends_by_itself(plane: Plane) -> None:
    got = await plane.client.ask("PlaceRequest", ttl_s=0.05)
    assert plane.running()["gpu"] == 1
    while plane.running()["gpu"]:
        await asyncio.sleep(0.005)
    with pytest.raises(NotFoundError):
        await plane.client.ask("ReportEnd", lease_id=got["lease_id"])


async def test_a_lease_that_is_renewed_goes_on(plane: Plane) -> None:
    got = await plane.client.ask("PlaceRequest")
    assert got["ttl_s"] == 60.0
    assert await plane.client.ask("RenewLease", lease_id=got["lease_id"], ttl_s=1000.0) == {"ttl_s": 1000.0}
    assert await plane.client.ask("RenewLease", lease_id=got["lease_id"]) == {"ttl_s": 1000.0}
    with pytest.raises(BadRequestError, match="at most 3600"):
        await plane.client.ask("RenewLease", lease_id=got["lease_id"], ttl_s=4000)
    assert plane.running()["gpu"] == 1
    await plane.client.ask("RenewLease", lease_id=got["lease_id"], ttl_s=0.05)
    while plane.running()["gpu"]:
        await asyncio.sleep(0.005)
    with pytest.raises(NotFoundError, match="no lease"):
        await plane.client.ask("RenewLease", lease_id=got["lease_id"])


async def test_an_operator_ends_a_lease(plane: Plane) -> None:
    leases = [(await plane.client.ask("PlaceRequest", request_id="theirs"))["lease_id"] for _ in range(2)]
    assert plane.running()["gpu"] == 2
    assert await plane.client.ask("CancelRequest", request_id="theirs") == {"cancelled": 2}
    assert plane.running() == {"gpu": 0, "cpu": 0}
    ends = (await plane.client.ask("ExplainDecision", request_id="theirs"))["ends"]
    assert [end["outcome"] for end in ends] == ["cancelled", "cancelled"]
    for method in ("RenewLease", "ReportEnd"):
        with pytest.raises(NotFoundError, match="an operator has cancelled it"):
            await plane.client.ask(method, lease_id=leases[0])
    with pytest.raises(NotFoundError, match="no running or queued request 'theirs'"):
        await plane.client.ask("CancelRequest", request_id="theirs")


async def test_a_lease_has_a_longest_time(plane: Plane) -> None:
    with pytest.raises(BadRequestError, match="at most 3600"):
        await plane.client.ask("PlaceRequest", ttl_s=4000)
    assert plane.running() == {"gpu": 0, "cpu": 0}


@pytest.mark.parametrize("request_id", ["x" * 129, "a b", "\x1b[31mred", "two\nlines", "中文"])
async def test_an_id_that_no_client_may_give_is_refused(plane: Plane, request_id: str) -> None:
    with pytest.raises(BadRequestError, match="request_id takes at most 128 ASCII letters"):
        await plane.client.ask("PlaceRequest", request_id=request_id)
    assert plane.running() == {"gpu": 0, "cpu": 0}


async def test_no_place_is_taken_when_all_are_full(plane: Plane) -> None:
    slots = 2 * (256 + 64)
    kinds = [(await plane.client.ask("PlaceRequest"))["decision"]["kind"] for _ in range(slots - 64)]
    assert set(kinds) == {"DECISION_KIND_RUN_ON"}
    got = await plane.client.ask("PlaceRequest")
    assert (got["decision"]["kind"], got["lease_id"]) == ("DECISION_KIND_WAIT", "")


async def test_a_model_that_does_not_exist_is_not_placed(plane: Plane) -> None:
    with pytest.raises(NotFoundError, match="the model 'x' does not exist"):
        await plane.client.ask("PlaceRequest", query={"model": "x"})


# Looking on.


async def test_a_dry_run_under_given_loads_changes_nothing(plane: Plane) -> None:
    full = {"gpu": {"running": 256}, "cpu": {"running": 1}}
    there = (await plane.client.ask("DryRun", loads=full))["decision"]
    assert there["decode"] == "cpu"
    assert there["reasons"] == ["gpu: 256 of 256 slots taken", "cpu: has room"]
    assert (await plane.client.ask("DryRun"))["decision"]["decode"] == "gpu"
    assert plane.running() == {"gpu": 0, "cpu": 0}
    with pytest.raises(NotFoundError):
        await plane.client.ask("ExplainDecision", request_id="dry-run")
    with pytest.raises(NotFoundError, match="no instance 'gpu2'; available: gpu, cpu"):
        await plane.client.ask("DryRun", loads={"gpu2": {"running": 1}})


async def test_another_gateway_can_insist_on_the_full_weights(plane: Plane) -> None:
    registry = plane.daemon.registry
    quantised = replace(registry.instances["cpu"].status.spec, weights=QuantisedWeights(quantize="q8_0"))
    catalog = registry.instances["cpu"].catalog
    registry.on_status(InstanceStatus(spec=quantised, state=State.READY, wanted=True))
    registry.learn(quantised, catalog, None)
    full = {"gpu": {"running": 256}, "cpu": {"running": 1}}
    assert (await plane.client.ask("DryRun", loads=full))["decision"]["decode"] == "cpu"
    told = (await plane.client.ask("DryRun", loads=full, query={"full_weights": True}))["decision"]
    assert told["decode"] == "gpu"
    for its_id, full_weights in (("any", False), ("exact", True)):
        await plane.client.ask("PlaceRequest", request_id=its_id, query={"full_weights": full_weights})
        (entry,) = (await plane.client.ask("ExplainDecision", request_id=its_id))["decisions"]
        assert entry["full_weights"] is full_weights


async def test_decisions_can_be_watched(plane: Plane) -> None:
    await plane.client.ask("PlaceRequest", request_id="before")
    async with aclosing(plane.client.stream("WatchDecisions", last=1, follow=True)) as seen:
        assert (await anext(seen))["decision"]["request_id"] == "before"
        await plane.client.ask("PlaceRequest", request_id="after")
        entry = (await anext(seen))["decision"]
    assert entry["request_id"] == "after"
    assert [(its["name"], its["inflight"]) for its in entry["candidates"]] == [("gpu", 1), ("cpu", 0)]


async def test_decisions_are_shown_and_explained_by_model(plane: Plane) -> None:
    registry = plane.daemon.registry
    was = registry.instances["cpu"].status
    other = replace(was.spec, served_model="other")
    registry.on_status(replace(was, spec=other))
    registry.learn(other, assumed(other), None)
    for request_id, model in (("one", "m"), ("two", "other"), ("three", "m")):
        await plane.client.ask("PlaceRequest", request_id=request_id, query={"model": model})
    async with aclosing(plane.client.stream("WatchDecisions", last=5, follow=True, model="other")) as seen:
        assert (await anext(seen))["decision"]["request_id"] == "two"
        await plane.client.ask("PlaceRequest", request_id="four", query={"model": "m"})
        await plane.client.ask("PlaceRequest", request_id="five", query={"model": "other"})
        assert (await anext(seen))["decision"]["request_id"] == "five"
    (entry,) = (await plane.client.ask("ExplainDecision", model="m"))["decisions"]
    assert entry["request_id"] == "four"
    with pytest.raises(NotFoundError, match="no recent decision on a request for the model 'none'"):
        await plane.client.ask("ExplainDecision", model="none")


async def test_what_is_unknown_is_not_explained(plane: Plane) -> None:
    for method in ("ExplainDecision", "CancelRequest"):
        with pytest.raises(NotFoundError, match="'gone'"):
            await plane.client.ask(method, request_id="gone")


async def test_events_can_be_watched_by_instance(plane: Plane) -> None:
    async with aclosing(plane.client.stream("WatchEvents", follow=True, last=100, instance="cpu")) as seen:
        event = (await anext(seen))["event"]  # it watches from here on
        assert event["text"].startswith("STARTING")
        plane.daemon.instances.stop("gpu", drain=False)
        plane.daemon.instances.stop("cpu", drain=False)
        while not event["text"].startswith("STOPPED"):
            event = (await anext(seen))["event"]
            assert (event["kind"], event["instance"]) == ("EVENT_KIND_STATE", "cpu")
    assert event["fields"]["generation"] == "1"
    past = [answer["event"]["text"] async for answer in plane.client.stream("WatchEvents", last=100, instance="gpu")]
    assert past[0].startswith("STARTING")
    assert past[-1].startswith("STOPPED")
    last = [answer["event"]["text"] async for answer in plane.client.stream("WatchEvents", last=1, instance="gpu")]
    assert last == past[-1:]


# Policy.


async def test_a_threshold_set_live_holds_at_once(plane: Plane) -> None:
    got = (await plane.client.ask("SetPolicy", policy={"gpu_cache_threshold": 0.5}))["policy"]
    assert got == {
        "name": "turn",
        "gpu_cache_threshold": 0.5,
        "cpu_throughput_threshold": 0.0,
        "offload_min_prompt_tokens": 64,
        "holdout": 0.0,
    }
    assert (await plane.client.ask("GetPolicy"))["policy"] == got
    assert plane.daemon.engine.policy.name == "turn", "the rules stay"
    loads = {"gpu": {"running": 1, "kv_usage_ratio": 0.6}}
    assert (await plane.client.ask("DryRun", loads=loads))["decision"]["decode"] == "cpu"


async def test_a_policy_chosen_by_name_holds_at_once_and_is_told_with_all_others(plane: Plane) -> None:
    answer = await plane.client.ask("GetPolicy")
    assert {choice["name"] for choice in answer["choices"]} == set(RULES)
    assert all(choice["summary"] for choice in answer["choices"])
    assert (await plane.client.ask("SetPolicy", policy={"name": "cpu-only"}))["policy"]["name"] == "cpu-only"
    assert (await plane.client.ask("DryRun"))["decision"]["decode"] == "cpu"
    with pytest.raises(ConfigError, match=r"scheduler.policy: must be cost or turn"):
        await plane.client.ask("SetPolicy", policy={"name": "gpu"})
    assert plane.daemon.engine.policy.name == "cpu-only"


async def test_the_ways_that_a_decision_had_are_explained(plane: Plane) -> None:
    await plane.client.ask("PlaceRequest", request_id="one", query={"prompt_tokens": 7, "max_tokens": 9})
    (entry,) = (await plane.client.ask("ExplainDecision", request_id="one"))["decisions"]
    assert (entry["prompt_tokens"], entry["max_tokens"], entry["policy"]) == (7, 9, "turn")
    assert [(way["places"], way["chosen"]) for way in entry["alternatives"]] == [(["gpu"], True), (["cpu"], False)]


async def test_a_threshold_out_of_range_is_refused_as_in_the_file(plane: Plane) -> None:
    with pytest.raises(ConfigError, match=r"decider.gpu_cache_threshold: must be a number from 0 to 1"):
        await plane.client.ask("SetPolicy", policy={"gpu_cache_threshold": 1.5})
    assert plane.daemon.engine.policy.gpu_cache_threshold == 0.9


# Configuration.


async def test_set_edits_the_file_and_reload_applies_it(plane: Plane) -> None:
    would = (await plane.client.ask("SetConfig", values={"services.cpu.port": "8003"}))["would_change"]
    assert (would["keys"], would["replaced"]) == (["services.cpu.port"], ["cpu"])
    got = await plane.client.ask("GetConfig", keys=["services.cpu.port"])
    assert got["file_differs"]
    assert got["values"] == [{"key": "services.cpu.port", "value": "8002"}]
    assert (await plane.client.ask("ReloadConfig", timeout_s=None))["changes"]["replaced"] == ["cpu"]
    got = await plane.client.ask("GetConfig", keys=["services.cpu.port"])
    assert not got["file_differs"]
    assert got["values"] == [{"key": "services.cpu.port", "value": "8003"}]


async def test_a_value_that_needs_a_restart_is_told_apart_from_what_holds(plane: Plane) -> None:
    keys = ["services.conductor.port", "decider.gpu_cache_threshold"]
    before = await plane.client.ask("GetConfig", keys=keys)
    assert before["needs_restart"] == []
    await plane.client.ask("SetConfig", values={"services.conductor.port": "8099", keys[1]: "0.5"})
    await plane.client.ask("ReloadConfig", timeout_s=None)
    after = await plane.client.ask("GetConfig", keys=keys)
    assert after["needs_restart"] == ["services.conductor.port"]
    assert after["values"] == [before["values"][0], {"key": keys[1], "value": "0.5"}]


async def test_a_value_that_is_wrong_is_refused_with_its_key(plane: Plane) -> None:
    with pytest.raises(ConfigError, match=r"services.cpu.port: must be a whole number from 1 to 65535"):
        await plane.client.ask("SetConfig", values={"services.cpu.port": "0"})


async def test_validate_returns_every_fault(plane: Plane) -> None:
    text = "services: {gpu: {port: 0}, cpu: {prot: 1}}"
    faults = (await plane.client.ask("ValidateConfig", text=text))["faults"]
    assert {fault["key"] for fault in faults} == {"services.gpu.port", "services.cpu.prot"}
    assert not (await plane.client.ask("ValidateConfig"))["faults"]


async def test_a_change_that_fails_is_told_with_its_cause(plane: Plane) -> None:
    plane.daemon.runtime.launch_errors["cpu"] = [LaunchFailedError("no such file: /engine/python", permanent=True)]
    text = await plane.daemon.changed(services__cpu__port="8003")
    with pytest.raises(ConflictError, match="cpu failed: no such file"):
        await plane.client.ask("ApplyConfig", timeout_s=None, text=text)
    await plane.daemon.offered("gpu", "cpu")


async def test_secrets_are_not_shown(plane: Plane) -> None:
    text = await plane.daemon.changed(services__gpu__env__HF_TOKEN="hunter2")
    await plane.client.ask("ApplyConfig", timeout_s=None, text=text)
    got = await plane.client.ask("GetConfig")
    assert {"key": "services.gpu.env.HF_TOKEN", "value": ""} in got["values"]
    assert "hunter2" not in str(got)


@pytest.mark.parametrize("leave_running", [None, True, False])
async def test_shutdown_tells_whether_instances_run_on(plane: Plane, *, leave_running: bool | None) -> None:
    await plane.client.ask("Shutdown", **({} if leave_running is None else {"leave_running": leave_running}))
    assert plane.stops == [leave_running]


# Standard services.


async def test_health_says_serving_for_each_service(plane: Plane) -> None:
    stub: Any = health_pb2_grpc.HealthStub(plane.client._channel)
    for name in ("", "syshaxd.api.v1.AdminService", "syshaxd.api.v1.SchedulingService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_names_the_services(plane: Plane) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(plane.client._channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await anext(aiter(call))
    names = {service.name for service in answer.list_services_response.service}
    assert {"syshaxd.api.v1.AdminService", "syshaxd.api.v1.SchedulingService", "grpc.health.v1.Health"} <= names


# Mutual TLS.


def _certificates(folder: Path, *, own: bool) -> grpc.ChannelCredentials:
    mine = (folder / "client.pem").read_bytes() if own else None
    return grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), mine, mine)


async def test_a_client_with_a_certificate_is_served_over_tcp(plane: Plane, tmp_path: Path) -> None:
    credentials = await asyncio.to_thread(_certificates, tmp_path, own=True)
    async with grpc.aio.secure_channel(f"localhost:{plane.server.tls_port}", credentials) as channel:
        stub: Any = AdminServiceStub(channel)  # type: ignore[no-untyped-call]
        assert (await stub.GetVersion(api.GetVersionRequest(), timeout=IN_TIME_S)).version


@pytest.mark.parametrize("with_tls", [True, False])
async def test_a_client_without_a_certificate_is_not(plane: Plane, tmp_path: Path, *, with_tls: bool) -> None:
    where = f"localhost:{plane.server.tls_port}"
    credentials = await asyncio.to_thread(_certificates, tmp_path, own=False)
    channel = grpc.aio.secure_channel(where, credentials) if with_tls else grpc.aio.insecure_channel(where)
    async with channel:
        stub: Any = AdminServiceStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetVersion(api.GetVersionRequest(), timeout=IN_TIME_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_missing_certificate_is_named(plane: Plane, tls: TlsEndpoint, tmp_path: Path) -> None:
    tls.cert.unlink()
    server = ControlServer(operations_of(FakeEngine()), tmp_path / "other" / "admin.sock", tls=tls)
    with pytest.raises(SyshaxError, match=r"control.tcp.cert: cannot read .*cert.pem: No such file"):
        await server.start()
    assert not (tmp_path / "other" / "admin.sock").exists()
