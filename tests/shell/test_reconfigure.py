# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Applying a configuration: the real Supervisor and Engine over a fake runtime."""

import asyncio
import errno
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from syshaxd.core.errors import ConfigError, ConflictError, LaunchFailedError
from syshaxd.core.placement.decision import InferenceRequest, RunOn
from syshaxd.core.types import State
from tests.fakes.daemon import BROKEN_PORT, CONFIG, FakeDaemon, fake_daemon

IN_TIME_S = 50.0
REQUEST = InferenceRequest(request_id="r", model="m", stream=False)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with asyncio.timeout(IN_TIME_S), fake_daemon(tmp_path) as daemon:
        yield daemon


async def test_only_the_instance_whose_spec_changed_is_made_anew(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    done = await daemon.reconfigurer.apply(text)
    assert done.replaced == ("cpu",)
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8003}
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1), ("cpu", 2)]
    assert daemon.runtime.terminated == ["cpu"]
    assert daemon.path.read_text() == text
    assert text.startswith("# Kept.")


async def test_a_changed_instance_is_drained_first(daemon: FakeDaemon) -> None:
    decision, grant = daemon.engine.place(REQUEST)
    assert isinstance(decision, RunOn)
    assert grant is not None
    assert decision.instance == "gpu"
    applying = asyncio.create_task(daemon.reconfigurer.apply(await daemon.changed(services__gpu__port="8003")))
    while daemon.states()["gpu"] is not State.DRAINING:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not daemon.runtime.terminated
    assert [spec.name for spec in daemon.registry.ready] == ["cpu"]
    grant.release()
    await applying
    assert daemon.runtime.terminated == ["gpu"]


async def test_a_policy_of_placement_holds_at_once(daemon: FakeDaemon) -> None:
    done = await daemon.reconfigurer.apply(await daemon.changed(scheduler__policy="gpu-only"))
    assert done.keys == ("scheduler.policy",)
    assert daemon.engine.policy.name == "gpu-only"
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]


async def test_thresholds_and_limits_hold_at_once(daemon: FakeDaemon) -> None:
    done = await daemon.reconfigurer.apply(await daemon.changed(decider__gpu_cache_threshold="0.5"))
    assert done.keys == ("decider.gpu_cache_threshold",)
    assert daemon.engine.policy.gpu_cache_threshold == 0.5
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]


async def test_an_instance_goes_and_comes_back_with_the_next_generation(daemon: FakeDaemon) -> None:
    assert (await daemon.reconfigurer.apply(await daemon.changed(services__gpu__enabled="false"))).removed == ("gpu",)
    assert list(daemon.states()) == ["cpu"]
    assert [spec.name for spec in daemon.registry.ready] == ["cpu"]
    assert (await daemon.reconfigurer.apply(await daemon.changed(services__gpu__enabled="true"))).added == ("gpu",)
    await daemon.offered("gpu", "cpu")
    assert list(daemon.states()) == ["gpu", "cpu"]
    assert daemon.runtime.launched[-1] == ("gpu", 2)


@pytest.mark.parametrize("from_file", [True, False])
async def test_a_change_that_does_not_get_ready_is_taken_back(daemon: FakeDaemon, *, from_file: bool) -> None:
    text = await daemon.changed(services__cpu__port="8003", decider__gpu_cache_threshold="0.5")
    daemon.runtime.launch_errors["cpu"] = [LaunchFailedError("no such file: /engine/python", permanent=True)]
    if from_file:
        daemon.path.write_text(text)
    with pytest.raises(ConflictError, match=r"rolled back: cpu failed: no such file: /engine/python"):
        await daemon.reconfigurer.apply(None if from_file else text)
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}
    assert daemon.engine.policy.gpu_cache_threshold == 0.9
    assert daemon.path.read_text() == CONFIG
    rejected = daemon.path.with_name("config.yaml.rejected")
    assert (rejected.read_text() == text) if from_file else not rejected.exists()
    assert ("gpu", 2) not in daemon.runtime.launched


async def test_a_server_that_never_gets_well_is_taken_back_too(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__cpu__port=str(BROKEN_PORT), lifecycle__start_timeout_s="0.2")
    with pytest.raises(ConflictError, match="rolled back"):
        await daemon.reconfigurer.apply(text)
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}


async def test_an_added_instance_that_fails_is_removed_again(daemon: FakeDaemon) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(services__gpu__enabled="false"))
    daemon.runtime.launch_errors["gpu"] = [LaunchFailedError("no", permanent=True)]
    with pytest.raises(ConflictError):
        await daemon.reconfigurer.apply(await daemon.changed(services__gpu__enabled="true"))
    assert daemon.states() == {"cpu": State.READY}


async def test_a_faulty_text_changes_nothing_and_names_every_fault(daemon: FakeDaemon) -> None:
    daemon.path.write_text("services:\n  gpu: {port: 0}\n  cpu: {prot: 1}\n")
    with pytest.raises(ConfigError) as caught:
        await daemon.reconfigurer.apply()
    assert {fault.key for fault in caught.value.faults} == {"services.gpu.port", "services.cpu.prot"}
    assert daemon.states() == {"gpu": State.READY, "cpu": State.READY}
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]


async def test_an_instance_that_was_stopped_stays_stopped(daemon: FakeDaemon) -> None:
    daemon.instances.stop("cpu", drain=False)
    await daemon.offered("gpu")
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    assert daemon.states() == {"gpu": State.READY, "cpu": State.STOPPED}
    assert daemon.supervisor.status("cpu").spec.port == 8003


async def test_giving_up_waiting_does_not_leave_it_half_done(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    applying = asyncio.create_task(daemon.reconfigurer.apply(text))
    while daemon.states()["cpu"] is State.READY:
        await asyncio.sleep(0)
    applying.cancel()
    while daemon.ports() != {"gpu": 8001, "cpu": 8003} or daemon.path.read_text() != text:
        await asyncio.sleep(0.005)


async def test_a_daemon_that_stops_applies_nothing_more(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    applying = asyncio.create_task(daemon.reconfigurer.apply(text))
    while daemon.states()["cpu"] is State.READY:
        await asyncio.sleep(0)
    daemon.reconfigurer.close()
    with pytest.raises(asyncio.CancelledError):
        await applying
    await daemon.supervisor.shutdown(leave_running=False, drain=False)
    assert set(daemon.states().values()) == {State.STOPPED}
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]
    with pytest.raises(ConflictError, match="stopping"):
        await daemon.reconfigurer.apply(text)


async def test_what_needs_a_restart_is_named_until_it_has_happened(daemon: FakeDaemon) -> None:
    text = await daemon.changed(services__conductor__port="8099")
    assert (await daemon.reconfigurer.apply(text)).needs_restart == ("services.conductor.port",)
    assert (await daemon.reconfigurer.apply()).needs_restart == ("services.conductor.port",)


async def test_checking_tells_what_would_change_and_changes_nothing(daemon: FakeDaemon) -> None:
    error, would = await daemon.reconfigurer.check(await daemon.changed(services__cpu__port="8003"))
    assert error is None
    assert would.replaced == ("cpu",)
    error, would = await daemon.reconfigurer.check("nonsense: 1")
    assert error is not None
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]


async def test_changes_are_among_the_events(daemon: FakeDaemon) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    kinds = [(event.kind, event.instance) for event in daemon.engine.events.latest()]
    assert ("state", "cpu") in kinds
    assert kinds[-1][0] == "config"


# What can fail is tried first, and clean-up hides no error


def _unwritable(monkeypatch: pytest.MonkeyPatch, name: str, error: OSError) -> None:
    """Has one call fail on the way to a written file."""

    def fails(*args: object, **kwargs: object) -> None:
        raise error

    target = {"mkstemp": tempfile, "fsync": os}.get(name, Path)
    monkeypatch.setattr(target, name, fails)


@pytest.mark.parametrize(
    ("name", "number", "problem"),
    [
        ("mkstemp", errno.EROFS, r"cannot be written in the folder .*: Read-only file system; .* ReadWritePaths="),
        ("mkstemp", errno.EACCES, "Permission denied for the user"),
        ("fsync", errno.ENOSPC, "No space left on device; free some space"),
    ],
)
async def test_a_file_that_cannot_be_written_is_told_before_any_instance_is_touched(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, name: str, number: int, problem: str
) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    _unwritable(monkeypatch, name, OSError(number, os.strerror(number)))
    for _ in range(2):
        with pytest.raises(ConfigError, match=problem):
            await daemon.reconfigurer.apply(text)
    assert daemon.runtime.launched == [("gpu", 1), ("cpu", 1)]
    assert daemon.path.read_text() == CONFIG
    assert os.listdir(daemon.path.parent) == [daemon.path.name]
    assert "refused, nothing has changed" in daemon.engine.events.latest()[-1].text


async def test_a_file_that_cannot_be_replaced_at_the_end_takes_all_back(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    _unwritable(monkeypatch, "replace", OSError(errno.EBUSY, os.strerror(errno.EBUSY)))
    with pytest.raises(ConflictError, match=r"rolled back: cannot be written .* Device or resource busy"):
        await daemon.reconfigurer.apply(text)
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}
    assert daemon.reconfigurer.config.services.cpu.port == 8002
    assert daemon.path.read_text() == CONFIG
    assert os.listdir(daemon.path.parent) == [daemon.path.name]


async def test_a_rejected_text_that_cannot_be_put_aside_does_not_hide_why_it_was_rejected(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.path.write_text(await daemon.changed(services__cpu__port="8003"))
    daemon.runtime.launch_errors["cpu"] = [LaunchFailedError("no such file: /engine/python", permanent=True)]
    _unwritable(monkeypatch, "mkstemp", OSError(errno.EROFS, os.strerror(errno.EROFS)))
    with pytest.raises(ConflictError) as caught:
        await daemon.reconfigurer.apply()
    assert "rolled back: cpu failed: no such file: /engine/python; the former configuration is in effect" in str(
        caught.value
    )
    assert "; but the file still has the rejected text: it cannot be written" in str(caught.value)
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}


@pytest.mark.parametrize("error", [OSError("odd"), ValueError("odd"), RecursionError("odd")])
async def test_an_unexpected_error_takes_all_back_too(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    settle, failures = daemon.reconfigurer._settle, [error]

    def fails_once(*args: Any) -> None:
        settle(*args)
        if failures:
            raise failures.pop()

    monkeypatch.setattr(daemon.reconfigurer, "_settle", fails_once)
    with pytest.raises(ConflictError, match=f"rolled back: {type(error).__name__}: odd; the former"):
        await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    await daemon.offered("gpu", "cpu")
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}


async def test_a_failure_while_taking_back_is_added_to_the_first_and_the_rest_is_done(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(daemon.reconfigurer, "_settle", fails)
    with pytest.raises(ConflictError, match=r"rolled back: ValueError: odd; .*; but ValueError: odd"):
        await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    assert daemon.supervisor.status("cpu").spec.port == 8002
    await daemon.offered("gpu", "cpu")


async def test_what_was_stopped_before_stays_stopped_when_a_change_is_taken_back(daemon: FakeDaemon) -> None:
    daemon.instances.stop("cpu", drain=False)
    await daemon.offered("gpu")
    daemon.runtime.launch_errors["gpu"] = [LaunchFailedError("no", permanent=True)]
    text = await daemon.changed(services__cpu__port="8003", services__gpu__port="8004")
    with pytest.raises(ConflictError, match="rolled back"):
        await daemon.reconfigurer.apply(text)
    await daemon.offered("gpu")
    assert daemon.states() == {"gpu": State.READY, "cpu": State.STOPPED}


@pytest.mark.parametrize("works", [True, False])
async def test_what_somebody_wrote_meanwhile_is_not_lost(daemon: FakeDaemon, *, works: bool) -> None:
    text = await daemon.changed(services__cpu__port="8003")
    other = CONFIG.replace("# Kept.", "# Of somebody else.")
    from_file = not works
    if from_file:
        daemon.path.write_text(text)
        daemon.runtime.launch_errors["cpu"] = [LaunchFailedError("no", permanent=True)]
    applying = asyncio.create_task(daemon.reconfigurer.apply(None if from_file else text))
    while daemon.states()["cpu"] is State.READY:
        await asyncio.sleep(0)
    daemon.path.write_text(other)
    if works:
        await applying
        assert daemon.path.read_text() == text
        assert daemon.path.with_name("config.yaml.rejected").read_text() == other
    else:
        with pytest.raises(ConflictError):
            await applying
        assert daemon.path.read_text() == other


async def test_every_part_follows_an_instance_whose_port_changes(daemon: FakeDaemon) -> None:
    await daemon.compared(8001, 8002)
    await daemon.reconfigurer.apply(
        await daemon.changed(services__gpu__port="8003", services__gpu__protocol="connector")
    )
    await daemon.offered("gpu", "cpu")
    await daemon.compared(8002, 8003)
    gpu = daemon.registry.instances["gpu"]
    assert (gpu.spec.port, gpu.catalog.models["m"]["port"], gpu.facts and gpu.facts.max_model_len) == (8003, 8003, 8003)
    (report,) = daemon.parity.reports()
    assert {report.first, report.second} == {"gpu", "cpu"}
    assert not daemon.parity.refusal("gpu", "cpu")


async def test_every_part_follows_instances_that_go_and_come(daemon: FakeDaemon) -> None:
    await daemon.compared(8001, 8002)
    both = await asyncio.to_thread(daemon.path.read_text)
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__enabled="false"))
    await daemon.offered("gpu")
    assert list(daemon.registry.instances) == ["gpu"]
    assert daemon.parity.reports() == ()
    assert daemon.handover.report() == {}
    assert list(daemon.engine.inflight) == ["gpu"]
    daemon.compared_ports.clear()
    await daemon.reconfigurer.apply(both)
    await daemon.offered("gpu", "cpu")
    await daemon.compared(8002)
    assert set(daemon.handover.report()) == {("gpu", "cpu"), ("cpu", "gpu")}
    decision, grant = daemon.engine.place(structs.replace(REQUEST, pinned="cpu"))
    assert isinstance(decision, RunOn)
    assert grant is not None
    grant.release()


async def test_an_instance_that_is_ready_takes_requests(daemon: FakeDaemon) -> None:
    seen: list[bool] = []
    daemon.supervisor.subscribe(
        lambda status: seen.append(status.spec in daemon.registry.ready) if status.state is State.READY else None
    )
    daemon.supervisor.restart("cpu")
    await daemon.supervisor.wait_until("cpu", lambda status: status.generation == 2, 5.0)
    await daemon.offered("gpu", "cpu")
    assert seen
    assert all(seen)


async def test_a_healthy_instance_is_not_ended_for_one_that_surely_cannot_start(daemon: FakeDaemon) -> None:
    daemon.runtime.check_errors["cpu"] = LaunchFailedError("cpu: the disk is full; make room", permanent=False)
    before = await asyncio.to_thread(daemon.path.read_text)
    with pytest.raises(ConflictError, match=r"cpu keeps running: it could not be started again: .* make room"):
        await daemon.instances.check_restart("cpu")
    with pytest.raises(ConflictError, match="cpu keeps running"):
        await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    assert not daemon.runtime.terminated
    assert daemon.ports() == {"gpu": 8001, "cpu": 8002}
    assert await asyncio.to_thread(daemon.path.read_text) == before
    await daemon.instances.check_restart("gpu")
    daemon.supervisor.stop("cpu")
    await daemon.supervisor.wait_until("cpu", lambda status: status.state is State.STOPPED, IN_TIME_S)
    await daemon.instances.check_restart("cpu")  # there is nothing to lose any more


async def test_a_new_port_must_be_free_and_one_that_an_instance_has_need_not(daemon: FakeDaemon) -> None:
    await daemon.instances.check_restart("cpu")
    assert daemon.runtime.ports_checked == {"cpu": False}
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8003"))
    assert daemon.runtime.ports_checked == {"cpu": True}
    await daemon.reconfigurer.apply(await daemon.changed(services__cpu__port="8001", services__gpu__port="8003"))
    assert daemon.runtime.ports_checked == {"cpu": False, "gpu": False}


async def test_what_a_change_lays_open_is_told(daemon: FakeDaemon, caplog: pytest.LogCaptureFixture) -> None:
    await daemon.reconfigurer.apply(await daemon.changed(services__conductor__host="0.0.0.0"))
    told = "services.conductor.host is 0.0.0.0"
    assert [record.levelname for record in caplog.records if told in record.message] == ["WARNING"]
    assert any(told in event.text for event in daemon.engine.events.latest())
