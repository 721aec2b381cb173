# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import grp
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from syshaxd import __version__
from syshaxd.api.v1 import admin_pb2
from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.client import ControlClient, SlowError, UnreachableError
from syshaxd.control import ControlServer
from syshaxd.control.errors import status_code
from syshaxd.core import errors
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import (
    Accelerator,
    AcceleratorKind,
    BindingSettings,
    BindingStatus,
    Dialect,
    DriftKind,
    Fault,
    Node,
    NumaTopology,
    Rule,
    Unverified,
)
from syshaxd.core.parity import Agreement, ParityCause
from syshaxd.core.report.engine_status import HostTopology
from syshaxd.core.types import Device, Role, RuntimeKind, State
from syshaxd.system import rundir
from tests.core.topologies import KUNPENG
from tests.fakes.control import operations_of
from tests.fakes.engine import DRIFT, GIB, FakeEngine, parity_report, seen

IN_TIME_S = 50.0


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "admin.sock"


@pytest.fixture
async def server(engine: FakeEngine, path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(operations_of(engine), path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: ControlServer, path: Path) -> AsyncIterator[ControlClient]:
    async with ControlClient(path) as client, asyncio.timeout(IN_TIME_S):
        yield client


@pytest.fixture
def bound(path: Path) -> Iterator[socket.socket]:
    """A socket of somebody else at the path."""
    rundir.make_folder(path.parent)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.fspath(path))
        yield bound


# What is asked and answered.


async def test_version_names_this_process(client: ControlClient) -> None:
    assert await client.version() == (__version__, os.getpid())


async def test_status_arrives_as_the_engine_gave_it(client: ControlClient, engine: FakeEngine) -> None:
    engine.binding_faults = {"cpu": ("[smt] one", "[online] two")}
    engine.handover_refusals = {("gpu", "cpu"): "", ("cpu", "gpu"): "their dtype differs"}
    engine.parity_reports = (parity_report(), parity_report(allowed=False))
    engine.binding_statuses = {
        "gpu": BindingStatus(verification=seen(), read_at_s=3.5),
        "cpu": BindingStatus(verification=seen(DRIFT), read_at_s=3.5, drifts=(DRIFT,), drifted_at_s=2.5),
    }
    sent, got = engine.status(), await client.status()
    assert [status.spec.name for status in got.instances] == ["gpu", "cpu"]
    for mine, theirs in zip(got.instances, sent.instances, strict=True):
        assert mine == replace(theirs, spec=replace(theirs.spec, argv=(), env=()))
    for name, load in sent.snapshot.instances.items():
        assert got.snapshot.instances[name] == replace(load, read_at_s=pytest.approx(load.read_at_s, abs=5))
    assert got.snapshot.taken_at_s == pytest.approx(sent.snapshot.taken_at_s, abs=5)
    for part in ("gpus", "gpu_error", "host"):
        assert getattr(got.snapshot, part) == getattr(sent.snapshot, part)
    for part in (
        "version",
        "endpoint",
        "queued",
        "inflight",
        "binding_faults",
        "handover_refusals",
        "parity",
        "bindings",
    ):
        assert getattr(got, part) == getattr(sent, part)


NODES = (
    Node(id=0, cpus=(0, 1), memory_bytes=0, distances=(10, 20)),
    Node(id=2, cpus=(), memory_bytes=GIB, distances=(20, 10)),
)
GPU = Accelerator(kind=AcceleratorKind.GPU, address="0000:17:00.0", vendor="NVIDIA", node=None)
NPU = Accelerator(kind=AcceleratorKind.NPU, address="0000:18:00.0", vendor="Huawei", node=0)
SMALL = NumaTopology(nodes=NODES, cores=((0, 1),), sockets=((0, 1),), offline=(5,), accelerators=(GPU, NPU))


@pytest.mark.parametrize("topology", [SMALL, KUNPENG], ids=["odd", "ordinary"])
async def test_a_topology_arrives_as_it_is(client: ControlClient, engine: FakeEngine, topology: NumaTopology) -> None:
    engine.host = HostTopology(topology=topology, owners={"cpu": (0, 1)}, gpu_owners={"gpu": ("0000:17:00.0",)})
    assert await client.topology() == engine.host


async def test_a_binding_is_checked(client: ControlClient, engine: FakeEngine) -> None:
    wrong = BindingSettings(dialect=Dialect.PATCHED, env={"CUSTOM_CPU_AFFINITY": "0-40"}, cpuset_cpus="0-40", ranks=2)
    right = replace(wrong, env={"CUSTOM_CPU_AFFINITY": "0-39"})
    engine.faults = tuple(
        Fault(rule=rule, part="CPU 40", detail="why", blocking=rule is not Rule.NODE_ORDER, proposal=right)
        for rule in Rule
    )
    assert await client.check_binding("cpu", wrong) == engine.faults
    engine.faults = ()
    assert await client.check_binding("cpu", None) == ()
    assert engine.checked == [("cpu", wrong), ("cpu", None)]
    with pytest.raises(errors.NotFoundError, match="no instance 'npu'"):
        await client.check_binding("npu", None)


async def test_what_was_seen_of_a_binding_arrives_as_it_is(client: ControlClient, engine: FakeEngine) -> None:
    drifts = tuple(replace(DRIFT, kind=kind, nodes=(3,)) for kind in DriftKind)
    engine.seen = {"gpu": Unverified("not running: STOPPED"), "cpu": seen(*drifts)}
    assert await client.verify_bindings() == engine.seen
    assert await client.verify_bindings("cpu") == {"cpu": engine.seen["cpu"]}
    with pytest.raises(errors.NotFoundError, match="no instance 'npu'"):
        await client.verify_bindings("npu")


async def test_status_before_the_first_reading(client: ControlClient, engine: FakeEngine) -> None:
    engine.snapshot = Snapshot()
    engine.become("cpu", State.STOPPED, handle=None, wanted=False, generation=0)
    got = await client.status()
    assert got.snapshot == Snapshot()
    assert got.instances[1].handle is None


async def test_no_secret_travels(client: ControlClient, engine: FakeEngine) -> None:
    assert "secret" in repr(engine.status())
    assert "secret" not in repr(await client.status())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(State, api.State), (Role, api.Role), (Device, api.Device), (Agreement, api.Agreement)],
)
def test_every_value_has_its_number(ours: type[State], theirs: object) -> None:
    prefix = f"{ours.__name__.upper()}_"
    assert {f"{prefix}{value.name}" for value in ours} | {f"{prefix}UNSPECIFIED"} == set(theirs.keys())  # type: ignore[attr-defined]


def test_every_cause_of_a_difference_has_its_number() -> None:
    assert {f"PARITY_CAUSE_{cause.name}" for cause in ParityCause} < set(api.ParityCause.keys())


def test_every_runtime_has_its_number() -> None:
    assert {f"RUNTIME_KIND_{kind.name}" for kind in RuntimeKind} < set(api.RuntimeKind.keys())


async def test_a_comparison_arrives_as_the_engine_made_it(client: ControlClient, engine: FakeEngine) -> None:
    engine.parity_reports = (parity_report(),)
    assert await client.compare("gpu", "cpu") == engine.parity_reports[0]
    with pytest.raises(errors.NotFoundError, match="npu"):
        await client.compare("gpu", "npu")


async def test_a_command_without_wait_answers_once(client: ControlClient, engine: FakeEngine) -> None:
    seen = [status.state async for status in client.stop("cpu", drain=True, wait=False)]
    seen += [status.state async for status in client.start("cpu", wait=False)]
    seen += [status.state async for status in client.restart("gpu", drain=False, wait=False)]
    assert seen == [State.READY] * 3
    assert engine.commands == [("stop", "cpu", True), ("start", "cpu"), ("restart", "gpu", False)]


async def test_a_restart_that_would_surely_fail_ends_nothing(client: ControlClient, engine: FakeEngine) -> None:
    engine.check_errors["gpu"] = errors.ConflictError("gpu keeps running: it could not be started again: no room")
    with pytest.raises(errors.ConflictError, match="gpu keeps running"):
        _ = [status async for status in client.restart("gpu", drain=False, wait=False)]
    assert engine.commands == []


async def test_a_restart_is_watched_until_the_new_generation_is_ready(
    client: ControlClient, engine: FakeEngine
) -> None:
    def react(command: str, name: str) -> None:
        engine.become(name, State.DRAINING, wanted=False)
        engine.become(name, State.DRAINING, wanted=True)
        engine.become(name, State.STOPPING)
        engine.become(name, State.STARTING, generation=2)
        engine.become(name, State.READY)
        engine.become(name, State.UNHEALTHY)

    engine.react = react
    seen = [status.state async for status in client.restart("cpu", drain=True, wait=True)]
    assert [str(state) for state in seen] == ["READY", "DRAINING", "DRAINING", "STOPPING", "STARTING", "READY"]
    assert engine.watchers == []


async def test_a_command_on_an_instance_that_is_there_already_is_done_at_once(client: ControlClient) -> None:
    assert [status.state async for status in client.start("gpu", wait=True)] == [State.READY]


async def test_waiting_ends_when_the_instance_fails(client: ControlClient, engine: FakeEngine) -> None:
    engine.react = lambda command, name: engine.become(name, State.FAILED, reason="no such model", generation=2)
    with pytest.raises(errors.LaunchFailedError, match="cpu failed: no such model"):
        _ = [status async for status in client.restart("cpu", drain=True, wait=True)]


async def test_a_client_that_stops_waiting_leaves_nothing_behind(client: ControlClient, engine: FakeEngine) -> None:
    statuses = client.stop("gpu", drain=True, wait=True)
    assert (await anext(statuses)).state is State.READY
    assert len(engine.watchers) == 1
    await statuses.aclose()
    await client.status()
    await _until(lambda: engine.watchers == [])


@pytest.mark.parametrize(("tail", "expected"), [(None, ["INFO loading", "INFO ready"]), (1, ["INFO ready"]), (0, [])])
async def test_logs(client: ControlClient, tail: int | None, expected: list[str]) -> None:
    assert [line async for line in client.logs("gpu", tail=tail, follow=False)] == expected


async def test_logs_go_on_until_the_client_has_enough(client: ControlClient, engine: FakeEngine) -> None:
    async with aclosing(client.logs("gpu", tail=0, follow=True)) as lines:
        engine.more_lines.put_nowait("new")
        assert await anext(lines) == "new"
        assert engine.log_readers == 1
    await _until(lambda: engine.log_readers == 0)


# What goes wrong.


async def test_an_unknown_instance(client: ControlClient) -> None:
    for call in (
        client.start("tpu", wait=True),
        client.stop("tpu", drain=True, wait=False),
        client.logs("tpu", tail=None, follow=False),
    ):
        with pytest.raises(errors.NotFoundError, match="no instance 'tpu'; available: gpu, cpu"):
            await anext(call)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadRequestError("x"), "INVALID_ARGUMENT"),
        (errors.ConfigError(()), "INVALID_ARGUMENT"),
        (errors.NotFoundError("x"), "NOT_FOUND"),
        (errors.ConflictError("x"), "FAILED_PRECONDITION"),
        (errors.LaunchFailedError("x", permanent=True), "FAILED_PRECONDITION"),
        (errors.OverloadedError("x", retry_after_s=1), "RESOURCE_EXHAUSTED"),
        (errors.UnavailableError("x", retry_after_s=1), "UNAVAILABLE"),
        (errors.InstanceFailedError("x"), "UNAVAILABLE"),
        (errors.InstanceTimeoutError("x"), "DEADLINE_EXCEEDED"),
        (errors.SyshaxError("x"), "FAILED_PRECONDITION"),
        (errors.RequestCancelledError("x"), "FAILED_PRECONDITION"),
    ],
)
def test_status_codes(error: errors.SyshaxError, code: str) -> None:
    assert status_code(error).name == code


async def test_an_error_keeps_its_text(client: ControlClient, engine: FakeEngine) -> None:
    engine.error = errors.ConflictError("schön, but\nnot now")
    with pytest.raises(errors.ConflictError, match=r"^schön, but\nnot now$"):
        await client.status()


@pytest.mark.parametrize(
    "error",
    [
        errors.SyshaxError("x"),
        errors.ConfigError((errors.ConfigFault("a.b", "must be c"), errors.ConfigFault("", "no YAML"))),
        errors.BadRequestError("x", param="messages", code="odd"),
        errors.NotFoundError("x"),
        errors.TooLargeError("x"),
        errors.ConflictError("x"),
        errors.OverloadedError("x", retry_after_s=1.5),
        errors.UnavailableError("x", retry_after_s=2.5),
        errors.RequestCancelledError("x"),
        errors.InstanceFailedError("x"),
        errors.InstanceTimeoutError("x"),
        errors.LaunchFailedError("x", permanent=True),
        errors.TopologyError("x"),
        errors.NoBindingError("x"),
        errors.ProcessGoneError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_keeps_its_type(client: ControlClient, engine: FakeEngine, error: errors.SyshaxError) -> None:
    engine.error = error
    with pytest.raises(errors.SyshaxError) as caught:
        await client.status()
    assert type(caught.value) is type(error)
    assert (vars(caught.value), str(caught.value)) == (vars(error), str(error))


class NewerError(errors.ConflictError):
    """Of a version that the client does not know."""


async def test_an_error_that_the_client_does_not_know_is_what_it_is_derived_from(
    client: ControlClient, engine: FakeEngine
) -> None:
    engine.error = NewerError("x")
    with pytest.raises(errors.ConflictError, match=r"^x$"):
        await client.status()


def _methods() -> list[str]:
    services = [
        *admin_pb2.DESCRIPTOR.services_by_name.values(),
        *health_pb2.DESCRIPTOR.services_by_name.values(),
        *reflection_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


@pytest.mark.parametrize("method", _methods())
async def test_rubbish_is_an_invalid_argument_and_leaves_no_trace(
    server: ControlServer, path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel, asyncio.timeout(IN_TIME_S):
        with pytest.raises(grpc.aio.AioRpcError, match="not a message that") as caught:
            async for _ in channel.stream_stream(method)(iter([b"\x0a\xff\xff"])):
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not caplog.records


async def test_a_very_long_error_is_cut(client: ControlClient, engine: FakeEngine) -> None:
    engine.error = errors.ConflictError("中" * 100_000)
    with pytest.raises(errors.ConflictError, match=r"^中+$"):
        await client.status()


async def test_a_bug_is_logged_and_not_shown(
    client: ControlClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = ZeroDivisionError("private")
    with pytest.raises(errors.SyshaxError, match="internal error in syshaxd; see its log"):
        await client.status()
    assert "private" in caplog.text


async def test_a_method_of_a_newer_version(server: ControlServer, path: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/syshaxd.api.v1.AdminService/Fly")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_nobody_answers(path: Path) -> None:
    async with ControlClient(path) as client:
        with pytest.raises(UnreachableError, match=r"no syshaxd answers on .*/admin\.sock"):
            await client.status()


async def test_a_daemon_that_hangs_is_not_told_as_gone(path: Path, bound: socket.socket) -> None:
    bound.listen()
    async with ControlClient(path, restart_timeout_s=0.1) as client, asyncio.timeout(IN_TIME_S):
        with pytest.raises(SlowError, match=r"did not answer in time; its host may be overloaded"):
            await client.ask("GetVersion", timeout_s=0.05)


async def test_the_daemon_goes_away_in_the_middle(
    client: ControlClient, engine: FakeEngine, server: ControlServer
) -> None:
    lines = client.logs("gpu", tail=1, follow=True)
    await anext(lines)
    await server.stop()
    with pytest.raises(UnreachableError):
        await anext(lines)


# The socket.


async def test_the_socket_is_for_its_user_and_group(server: ControlServer, path: Path) -> None:
    info = await asyncio.to_thread(path.stat)
    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o660
    folder = await asyncio.to_thread(path.parent.stat)
    assert stat.S_IMODE(folder.st_mode) == 0o700


def _remove(path: Path) -> None:
    path.unlink()


def _remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def _remove_what_is_behind(path: Path) -> None:
    shutil.rmtree(path.with_name("admin.sock.d"))


def _replace_by_a_dead_one(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))


@pytest.mark.parametrize("remove", [_remove, _remove_folder, _remove_what_is_behind, _replace_by_a_dead_one])
async def test_a_socket_that_somebody_removed_comes_back(
    engine: FakeEngine, path: Path, caplog: pytest.LogCaptureFixture, remove: Callable[[Path], None]
) -> None:
    server = ControlServer(operations_of(engine), path, check_interval_s=0.02)
    await server.start()
    async with asyncio.timeout(IN_TIME_S), ControlClient(path) as client:
        lines = client.logs("gpu", tail=1, follow=True)
        await anext(lines)
        await asyncio.to_thread(remove, path)
        while not caplog.records:
            await asyncio.sleep(0.005)
        async with ControlClient(path) as another:
            await another.version()
        if remove is _remove:  # whoever was connected goes on
            engine.more_lines.put_nowait("more")
            assert await anext(lines) == "more"
    assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o660
    with pytest.raises(errors.ConflictError, match="already running"):
        await ControlServer(operations_of(engine), path).start()
    await server.stop()
    assert [record.message for record in caplog.records] == [f"the admin socket {path} was removed; recreated it"]


async def test_a_socket_that_cannot_be_made_again_is_told_once(
    engine: FakeEngine, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = ControlServer(operations_of(engine), path, check_interval_s=0.005)
    await server.start()
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(path.write_text, "precious")
    async with asyncio.timeout(IN_TIME_S):
        while not caplog.records:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        (record,) = caplog.records
        assert "was removed and cannot be recreated" in record.message
        assert "is not a socket; remove it" in record.message
        await asyncio.to_thread(path.unlink)
        while len(caplog.records) == 1:
            await asyncio.sleep(0.005)
        async with ControlClient(path) as client:
            await client.version()
    await server.stop()


def _file(path: Path) -> None:
    path.write_text("precious")


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


def _link(path: Path) -> None:
    precious = path.parent / "precious"
    precious.mkdir()
    (precious / "grpc").touch()
    path.symlink_to(precious)


def _socket_of_another(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(os.fspath(path))


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != "admin.sock.lock")


@pytest.mark.parametrize("put", [_file, _folder, _link, _socket_of_another])
async def test_what_somebody_puts_in_the_place_of_the_socket_stays(
    engine: FakeEngine, path: Path, put: Callable[[Path], None]
) -> None:
    server = ControlServer(operations_of(engine), path)
    await server.start()
    await asyncio.to_thread(path.unlink)
    await asyncio.to_thread(put, path)
    there = await asyncio.to_thread(_files, path.parent)
    await server.stop()
    assert await asyncio.to_thread(_files, path.parent) == [
        name for name in there if not name.startswith("admin.sock.d")
    ]


@pytest.mark.parametrize("put", [_file, _folder, _link, _socket_of_another])
async def test_what_is_in_the_place_of_its_folder_stays_and_is_told(
    engine: FakeEngine, path: Path, put: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    bound = path.with_name("admin.sock.d")
    await asyncio.to_thread(rundir.make_folder, path.parent)
    await asyncio.to_thread(put, bound)
    there = await asyncio.to_thread(_files, path.parent)
    with pytest.raises(errors.SyshaxError, match=r"admin.sock.d is where .* needs a folder of its own: .*; remove it"):
        await ControlServer(operations_of(engine), path).start()
    assert await asyncio.to_thread(_files, path.parent) == there

    await asyncio.to_thread(shutil.move, bound, path.parent / "aside")
    server = ControlServer(operations_of(engine), path, check_interval_s=0.02)
    await server.start()
    await asyncio.to_thread(shutil.rmtree, bound)
    await asyncio.to_thread(shutil.move, path.parent / "aside", bound)
    async with asyncio.timeout(IN_TIME_S):
        while not any("is where the admin socket needs" in entry.message for entry in caplog.records):
            await asyncio.sleep(0.005)
        await asyncio.to_thread(shutil.move, bound, path.parent / "aside")
        async with ControlClient(path) as client:
            while not await asyncio.to_thread(rundir.answers, path):
                await asyncio.sleep(0.005)
            await client.version()
    await server.stop()


@pytest.mark.parametrize("mode", [0o000, 0o777])
async def test_rights_that_somebody_changes_are_restored(
    engine: FakeEngine, path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = ControlServer(operations_of(engine), path, check_interval_s=0.02)
    await server.start()
    await asyncio.to_thread(path.chmod, mode)
    async with asyncio.timeout(IN_TIME_S):
        while not caplog.records:
            await asyncio.sleep(0.005)
    assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o660
    await server.stop()
    (record,) = caplog.records
    assert f"had other rights (mode {mode:04o}, uid" in record.message


async def test_nobody_can_connect_before_the_rights_are_right(
    engine: FakeEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    replace = Path.replace

    def replaced(self: Path, target: Path) -> Path:
        seen.append((stat.S_IMODE(self.stat().st_mode), rundir.answers(path)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)  # from then on others can connect
    server = ControlServer(operations_of(engine), path)
    await server.start()
    folder = await asyncio.to_thread(path.with_name("admin.sock.d").stat)
    assert stat.S_IMODE(folder.st_mode) == 0o700
    assert stat.S_IMODE((await asyncio.to_thread(path.stat)).st_mode) == 0o660
    await server.stop()
    assert seen == [(0o660, False)]


async def test_the_socket_goes_when_the_server_stops(engine: FakeEngine, path: Path) -> None:
    server = ControlServer(operations_of(engine), path)
    await server.start()
    await server.stop()
    await server.stop()
    assert [each.name for each in await asyncio.to_thread(lambda: list(path.parent.iterdir()))] == ["admin.sock.lock"]


async def test_calls_wait_while_another_daemon_takes_the_socket_over(engine: FakeEngine, path: Path) -> None:
    server = ControlServer(operations_of(engine), path)
    await server.start()
    async with ControlClient(path) as client:
        await client.version()
        await server.stop(leave_socket=True)
        waiting = [asyncio.create_task(client.version()), asyncio.create_task(client.status())]
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
        server = ControlServer(operations_of(engine), path)
        await server.start()
        await asyncio.gather(*waiting)
    await server.stop()
    assert sorted(await asyncio.to_thread(os.listdir, path.parent)) == ["admin.sock.lock"]


async def test_no_call_fails_over_many_restarts(engine: FakeEngine, path: Path) -> None:
    """Each on a connection of its own, as those of syshaxctl are."""
    server, is_over, answered = ControlServer(operations_of(engine), path), asyncio.Event(), 0
    await server.start()

    async def ask_again_and_again() -> None:
        nonlocal answered
        while not is_over.is_set():
            async with ControlClient(path) as client:
                await client.version()
                answered += 1

    async with asyncio.timeout(IN_TIME_S), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(ask_again_and_again())
        for _ in range(5):
            before = answered
            while answered < before + 8:
                await asyncio.sleep(0.005)
            await server.stop(leave_socket=True)
            server = ControlServer(operations_of(engine), path)
            await server.start()
        is_over.set()
    await server.stop()


async def test_a_daemon_that_does_not_come_back_is_not_waited_for_for_ever(engine: FakeEngine, path: Path) -> None:
    server = ControlServer(operations_of(engine), path)
    await server.start()
    await server.stop(leave_socket=True)
    async with ControlClient(path, restart_timeout_s=0.1) as client:
        with pytest.raises(UnreachableError, match="no syshaxd answers"):
            await client.version()
        with pytest.raises(UnreachableError, match="no syshaxd answers"):
            await anext(client.start("gpu", wait=False))


async def test_a_socket_of_a_dead_daemon_is_replaced(engine: FakeEngine, path: Path, bound: socket.socket) -> None:
    bound.close()
    path.with_name(f"{path.name}.lock").write_text("42\n")
    server = ControlServer(operations_of(engine), path)
    await server.start()
    async with ControlClient(path) as client:
        await client.version()
    await server.stop()


async def test_a_socket_that_no_daemon_made_stays(engine: FakeEngine, path: Path, bound: socket.socket) -> None:
    bound.close()
    server = ControlServer(operations_of(engine), path)
    with pytest.raises(errors.SyshaxError, match="was not created by syshaxd"):
        await server.start()
    await server.stop()
    assert await asyncio.to_thread(path.is_socket)


async def test_a_running_daemon_keeps_its_socket(client: ControlClient, engine: FakeEngine, path: Path) -> None:
    second = ControlServer(operations_of(engine), path)
    with pytest.raises(errors.ConflictError, match=rf"already running \(pid {os.getpid()}\)"):
        await second.start()
    await second.stop()
    await client.version()


async def test_a_running_daemon_of_another_process_keeps_its_socket(engine: FakeEngine, path: Path) -> None:
    claim = f"rundir.claim_socket(Path({os.fspath(path)!r})); input()"
    other = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", f"from pathlib import Path; from syshaxd.system import rundir; {claim}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        lock = path.with_name("admin.sock.lock")
        await _until(lambda: lock.exists() and lock.read_text() != "")
        with pytest.raises(errors.ConflictError, match=rf"already running \(pid {other.pid}\)"):
            await ControlServer(operations_of(engine), path).start()
    finally:
        await asyncio.to_thread(other.communicate, b"\n")


async def test_another_program_keeps_its_socket(engine: FakeEngine, path: Path, bound: socket.socket) -> None:
    bound.listen()
    with pytest.raises(errors.ConflictError, match="another program listens on"):
        await ControlServer(operations_of(engine), path).start()


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    rundir.make_folder(path.parent)
    path.write_text("precious")
    with pytest.raises(errors.SyshaxError, match="not a socket"):
        rundir.claim_socket(path)
    assert path.read_text() == "precious"


async def test_a_path_with_odd_characters(engine: FakeEngine, tmp_path: Path) -> None:
    path = tmp_path / "a b%20c#d?e&ü" / "admin.sock"
    server = ControlServer(operations_of(engine), path)
    await server.start()
    assert path.exists()
    async with ControlClient(path) as client:
        await client.version()
    await server.stop()


async def _until(condition: object) -> None:
    """Gives way to the event loop until the condition holds."""
    async with asyncio.timeout(IN_TIME_S):
        while not await asyncio.to_thread(condition):  # type: ignore[arg-type]
            pass


async def test_the_socket_belongs_to_the_group_if_there_is_one(
    engine: FakeEngine, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    group = grp.getgrgid(os.getgid())
    server = ControlServer(operations_of(engine), path, group=group.gr_name)
    await server.start()
    info = await asyncio.to_thread(path.stat)
    assert (info.st_gid, stat.S_IMODE(info.st_mode)) == (group.gr_gid, 0o660)
    await server.stop()
    assert not caplog.records


async def test_a_group_that_does_not_exist_is_said(
    engine: FakeEngine, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "syshaxd")
    server = ControlServer(operations_of(engine), path, group="no-such-group")
    await server.start()
    await server.stop()
    assert "no group no-such-group" in caplog.text
