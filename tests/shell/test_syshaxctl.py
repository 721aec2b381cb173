# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import io
import json
import os
import pty
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len
from rich.console import Console

from syshaxd import __version__
from syshaxd.cli import show
from syshaxd.cli.syshaxctl import main
from syshaxd.control import ControlServer
from syshaxd.core.loads import Snapshot
from syshaxd.core.numa import BindingStatus
from syshaxd.core.types import Device, Role, State
from tests.core.topologies import KUNPENG_LSCPU
from tests.fakes.control import operations_of
from tests.fakes.engine import DRIFT, FakeEngine, parity_report, seen, spec

PROGRAM = Path(sys.executable).with_name("syshaxctl")
IN_TIME_S = 50.0


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def socket(engine: FakeEngine, tmp_path: Path) -> AsyncIterator[Path]:
    server = ControlServer(operations_of(engine), tmp_path / "run" / "admin.sock")
    await server.start()
    yield tmp_path / "run" / "admin.sock"
    await server.stop()


def environment(socket: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}
    return kept | {"SYSHAX_SOCKET": str(socket), "TERM": "xterm"}


@asynccontextmanager
async def started(
    socket: Path, *words: str, stderr: int = asyncio.subprocess.PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, which ends with the block at the latest."""
    program = await asyncio.create_subprocess_exec(
        PROGRAM,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        env=environment(socket),
    )
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
        await program.communicate()


async def syshaxctl(socket: Path, *words: str) -> Outcome:
    async with asyncio.timeout(IN_TIME_S), started(socket, *words) as program:
        out, err = await program.communicate()
    assert program.returncode is not None
    return Outcome(program.returncode, out.decode(), err.decode())


def table(engine: FakeEngine, width: int, *, colours: bool = False) -> str:
    """What `status` prints on a terminal of that width."""
    status = engine.status()
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, color_system="standard" if colours else None)
    times = {"now_s": status.started_at_s + 8005, "monotonic_s": status.snapshot.taken_at_s + 0.25}
    console.print(show.status_table(status, width=width, **times))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


# The table.


def test_the_table_on_a_wide_terminal(engine: FakeEngine) -> None:
    assert table(engine, 140) == (
        """\
sysHAX 9.8.7 at http://127.0.0.1:8010, up 2h13m, 3 requests queued
host: 13% of 160 CPUs, 21.0 of 512.0 GiB memory, 1.0 of 64.0 GiB /dev/shm

INSTANCE  ROLE  STATE    FOR  DEVICE                     MODEL   RUNNING  WAITING  IN FLIGHT   KV  BOUND  LAUNCHES
gpu       gpu   READY  2h13m  NVIDIA A100-SXM4-80GB 0-1  ds-32b       12        3         15  43%      -         1
cpu       cpu   READY  2h13m  CPU 0-39                   ds-32b        2        0          2   2%      -         1

cpu: its load was read 40s ago: connection refused
GPUs: GPU 2 is lost

GPU 0 NVIDIA A100-SXM4-80GB: 97% busy, 70.0 of 80.0 GiB memory, 312 W, 61 °C, used by gpu
GPU 1 NVIDIA A100-SXM4-80GB: 0.0 of 80.0 GiB memory, used by gpu"""
    )


def test_the_table_on_a_narrow_terminal(engine: FakeEngine) -> None:
    lines = table(engine, 60).splitlines()
    assert max(map(len, lines)) <= 60
    rows = [line.split() for line in lines if line.startswith("cpu ")]
    assert rows == [["cpu", "READY", "2h13m", "CPU", "0-39", "ds-32b", "2", "0", "2", "2%"]], "no cell is broken"


def test_the_table_on_an_ordinary_terminal(engine: FakeEngine) -> None:
    engine.become("cpu", State.BACKOFF, reason="exited with code 1; next attempt (3 of 8) in 4 s [it says]")
    engine.snapshot = Snapshot()
    text = table(engine, 80)
    said = "cpu: exited with code 1; next attempt (3 of 8) in 4 s [it says]; see `syshaxctl logs cpu`"
    assert said in " ".join(text.split())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].split() == ["INSTANCE", "STATE", "FOR", "DEVICE", "MODEL", "RUN", "WAIT", "FLIGHT", "KV"]
    assert lines[4].split() == ["gpu", "READY", "2h13m", "GPU", "ds-32b", "-", "-", "15", "-"]
    assert lines[5].split() == ["cpu", "BACKOFF", "0s", "CPU", "0-39", "ds-32b", "-", "-", "2", "-"]


def test_a_wrong_binding_stays_visible(engine: FakeEngine) -> None:
    engine.binding_faults = {"cpu": ("[smt] cores: CPUs 0-1: one core",)}
    assert "cpu: CPU binding: [smt] cores: CPUs 0-1: one core" in table(engine, 80)


def test_a_drift_is_told_with_its_age(engine: FakeEngine) -> None:
    drifted_at_s = engine.status().started_at_s + 8005 - 125
    engine.binding_statuses = {
        "cpu": BindingStatus(verification=seen(DRIFT), read_at_s=1.0, drifts=(DRIFT,), drifted_at_s=drifted_at_s),
        "gpu": BindingStatus(verification=seen(), read_at_s=1.0),
    }
    text = " ".join(table(engine, 80).split())
    assert any(f"cpu: drifted from its CPU binding for 2m0{second}s: {DRIFT}" in text for second in (4, 5))
    gpu, cpu = table(engine, 160).splitlines()[4:6]
    assert "40/40" in gpu
    assert "39/40" in cpu


@pytest.mark.parametrize("width", [60, 80, 100, 119, 120])
def test_the_table_stays_within_its_terminal(engine: FakeEngine, width: int) -> None:
    text = table(engine, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text


def test_hand_overs_are_told_with_what_keeps_them_from_happening(engine: FakeEngine) -> None:
    engine.handover_refusals = {("gpu", "cpu"): "", ("cpu", "gpu"): "cpu has not been ready yet"}
    text = table(engine, 120)
    assert "gpu to cpu: can hand over" in text
    engine.handover_refusals = dict.fromkeys((("gpu", "cpu"), ("cpu", "gpu")), "offload.enabled is false")
    assert "gpu and cpu: no hand-over: offload.enabled is false" in table(engine, 120)
    assert "cpu to gpu: no hand-over: cpu has not been ready yet" in text


def test_an_instance_in_the_other_role(engine: FakeEngine) -> None:
    engine.statuses[Role.GPU] = replace(engine.statuses[Role.GPU], spec=spec(Role.GPU, device=Device.CPU, cores=(0,)))
    assert "CPU 0, as gpu" in table(engine, 80)


def test_states_have_colours_only_on_a_terminal(engine: FakeEngine) -> None:
    assert "\x1b[32mREADY" in table(engine, 80, colours=True)
    assert "\x1b" not in table(engine, 80)


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(-1, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86399, "23h59m"), (86400, "1d00h")],
)
def test_durations(duration_s: float, text: str) -> None:
    assert show.duration_text(duration_s) == text


# The commands, on a real socket.


async def test_status(socket: Path) -> None:
    outcome = await syshaxctl(socket, "status")
    assert (outcome.code, outcome.err) == (0, "")
    assert "NVIDIA A100-SXM4-80GB 0-1  ds-32b" in outcome.out
    assert "\x1b" not in outcome.out


async def test_status_as_json(socket: Path) -> None:
    outcome = await syshaxctl(socket, "status", "-o", "json")
    assert outcome.code == 0
    status = json.loads(outcome.out)
    assert list(status) == [
        "version",
        "endpoint",
        "started_at_s",
        "queued",
        "instances",
        "handovers",
        "host",
        "gpus",
        "gpu_error",
        "parity",
        "open_circuits",
        "faults",
        "offload",
        "on_demand",
        "calibration",
        "carried",
    ]
    assert status["faults"] == []
    gpu, cpu = status["instances"]
    assert list(gpu) == [
        *("name", "role", "device", "device_text", "runtime", "model", "served_model", "address", "cores", "gpus"),
        *(
            "depends_on",
            "max_num_seqs",
            "weights",
            "weights_reason",
            "state",
            "on_demand",
            "wanted",
            "reason",
            "since_s",
            "launches",
            "failed_attempts",
        ),
        *("ident", "launched_at_s", "inflight", "binding_faults", "binding", "load"),
    ]
    assert (gpu["state"], gpu["ident"], gpu["inflight"], gpu["load"]["running"]) == ("READY", "4242", 15, 12)
    assert (cpu["cores"], cpu["load"]["error"]) == ("0-39", "connection refused")
    assert status["gpus"][1]["busy_ratio"] is None
    assert "secret" not in outcome.out


async def test_restart_waits(socket: Path, engine: FakeEngine) -> None:
    def react(command: str, name: str) -> None:
        engine.become(name, State.STARTING, generation=2)
        engine.become(name, State.READY)

    engine.react = react
    outcome = await syshaxctl(socket, "restart", "cpu")
    assert outcome == Outcome(0, "cpu is READY\n", "")
    assert engine.commands == [("restart", "cpu", True)]


async def test_stop_at_once(socket: Path, engine: FakeEngine) -> None:
    engine.react = lambda command, name: engine.become(name, State.STOPPED, wanted=False)
    assert await syshaxctl(socket, "stop", "gpu", "--now") == Outcome(0, "gpu is STOPPED\n", "")
    assert engine.commands == [("stop", "gpu", False)]


async def test_a_command_that_is_not_waited_for(socket: Path) -> None:
    outcome = await syshaxctl(socket, "start", "gpu", "--no-wait")
    assert outcome == Outcome(0, "gpu: accepted; it is READY now\n", "")


async def test_a_start_that_fails(socket: Path, engine: FakeEngine) -> None:
    engine.react = lambda command, name: engine.become(name, State.FAILED, reason="no such model")
    engine.become("cpu", State.STOPPED, wanted=False)
    assert await syshaxctl(socket, "start", "cpu") == Outcome(1, "", "Error: cpu failed: no such model\n")


async def test_a_time_limit(socket: Path, engine: FakeEngine) -> None:
    engine.react = lambda command, name: engine.become(name, State.DRAINING, wanted=False)
    outcome = await syshaxctl(socket, "stop", "cpu", "--timeout", "0.3")
    assert outcome.code == 1
    assert outcome.err == ("Error: cpu is still DRAINING after 0.3 s; the command continues, see `syshaxctl status`\n")
    assert engine.commands == [("stop", "cpu", True)]


@pytest.mark.parametrize("words", [("logs", "tpu"), ("start", "tpu"), ("stop", "tpu"), ("restart", "tpu", "--no-wait")])
async def test_an_unknown_instance(socket: Path, words: tuple[str, ...]) -> None:
    outcome = await syshaxctl(socket, *words)
    assert outcome == Outcome(1, "", "Error: no instance 'tpu'; available: gpu, cpu\n")


async def test_logs(socket: Path, engine: FakeEngine) -> None:
    engine.lines = [str(number) for number in range(150)]
    assert (await syshaxctl(socket, "logs", "gpu", "-n", "2")).out == "148\n149\n"
    assert len((await syshaxctl(socket, "logs", "gpu")).out.splitlines()) == 100
    assert len((await syshaxctl(socket, "logs", "gpu", "--all")).out.splitlines()) == 150


async def test_following_logs_ends_quietly_with_ctrl_c(socket: Path, engine: FakeEngine) -> None:
    async with asyncio.timeout(IN_TIME_S), started(socket, "logs", "-f", "gpu", "-n", "1") as program:
        assert program.stdout is not None
        assert await program.stdout.readline() == b"INFO ready\n"
        engine.more_lines.put_nowait("and more")
        assert await program.stdout.readline() == b"and more\n"
        program.send_signal(signal.SIGINT)
        assert await program.communicate() == (b"", b"")
    assert program.returncode == 130


async def test_the_states_are_shown_to_who_looks(socket: Path, engine: FakeEngine) -> None:
    def react(command: str, name: str) -> None:
        engine.become(name, State.DRAINING, wanted=False, reason="stop requested")
        engine.become(name, State.DRAINING, wanted=True)
        engine.become(name, State.STARTING, generation=2, reason="")
        engine.become(name, State.READY)

    engine.react = react
    terminal, program_end = pty.openpty()
    try:
        async with (
            asyncio.timeout(IN_TIME_S),
            started(socket, "restart", "cpu", stderr=program_end) as program,
        ):
            assert await program.communicate() == (b"cpu is READY\n", None)
        os.set_blocking(terminal, False)
        text = os.read(terminal, 100_000).decode()
    finally:
        os.close(terminal)
        os.close(program_end)
    assert program.returncode == 0
    assert text.count("DRAINING\x1b[0m  stop requested") == 1
    assert text.index("DRAINING") < text.index("STARTING") < text.rindex("READY")


# Without a daemon.


async def test_no_daemon(tmp_path: Path) -> None:
    socket = tmp_path / "admin.sock"
    for words in (("status",), ("logs", "gpu"), ("start", "gpu"), ("stop", "gpu", "--no-wait")):
        outcome = await syshaxctl(socket, *words)
        assert outcome.code == 3
        assert outcome.out == ""
        assert outcome.err.startswith(f"Error: no syshaxd answers on {socket}\n")
        for way in ("systemctl start syshaxd", "syshax run", "make run", "--socket"):
            assert way in outcome.err


@pytest.mark.parametrize(
    "words",
    [("what",), ("start",), ("status", "-o", "xml"), ("logs", "gpu", "-n", "-1"), ("stop", "gpu", "--timeout", "0")],
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, list(words)).exit_code == 2


@pytest.mark.parametrize("command", ["status", "logs", "start", "stop", "restart"])
def test_every_command_has_examples(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert f"Examples:\n    syshaxctl {command}" in result.output


def test_version() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == f"syshaxctl, version {__version__}\n"


# The topology.


async def test_the_topology_of_this_host_with_the_owners_of_its_cores(socket: Path) -> None:
    done = await syshaxctl(socket, "topology", "-o", "json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["owners"] == {"cpu": list(range(40))}
    assert len(told["nodes"]) >= 1


async def test_the_topology_needs_no_daemon(tmp_path: Path) -> None:
    done = await syshaxctl(tmp_path / "none.sock", "topology")
    assert (done.code, done.err) == (0, "")
    assert "node 0" in done.out


async def test_the_topology_of_another_host(tmp_path: Path) -> None:
    (tmp_path / "lscpu.txt").write_text(KUNPENG_LSCPU)
    done = await syshaxctl(tmp_path / "none.sock", "topology", str(tmp_path / "lscpu.txt"))
    assert (done.code, done.err) == (0, "")
    assert "node 3" in done.out


async def test_a_file_that_is_no_topology(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("hello\n")
    done = await syshaxctl(tmp_path / "none.sock", "topology", str(tmp_path / "odd.txt"))
    assert done.code == 1
    assert "not the output of `LC_ALL=C lscpu` or `numactl -H`" in done.err


# Parity.


async def test_parity_shows_each_prompt_and_the_verdict(socket: Path, engine: FakeEngine) -> None:
    engine.parity_reports = (parity_report(),)
    done = await syshaxctl(socket, "parity", "gpu", "cpu")
    assert (done.code, done.err) == (0, "")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert lines[:2] == [
        "gpu and cpu: noise; likely cause: rounding; requests may move between them",
        "  96.4% of 582 positions have the same likeliest token",
    ]
    assert lines[-2].split(maxsplit=5)[5] == (
        "same    8/16     35/36   0.0120  0.0110  token 9: a near tie, 0.17 and 0.12 nats"
    )
    assert lines[-1].split(maxsplit=5) == ["17", "+", "25", "=", "42", "other tokens"]


async def test_parity_exits_with_1_where_no_request_moves(socket: Path, engine: FakeEngine) -> None:
    engine.parity_reports = (parity_report(allowed=False),)
    done = await syshaxctl(socket, "parity", "gpu", "cpu")
    assert done.code == 1
    assert "gpu and cpu: differs; likely cause: weights; requests may not move between them" in done.out
    assert "over the bound" in done.out
    assert not done.err


async def test_a_prompt_of_wide_characters_takes_no_more_room_than_others(socket: Path, engine: FakeEngine) -> None:
    report = parity_report()
    chinese = replace(report.prompts[0], prompt="请介绍一下开源操作系统 openEuler 的特点和主要的应用场景")
    engine.parity_reports = (replace(report, prompts=(chinese, *report.prompts)),)
    done = await syshaxctl(socket, "parity", "gpu", "cpu")
    (prompt,) = (line.partition("…")[0] for line in done.out.splitlines() if "…" in line)
    assert cell_len(prompt) == 28 - len("…")


async def test_parity_as_json(socket: Path, engine: FakeEngine) -> None:
    engine.parity_reports = (parity_report(allowed=False),)
    done = await syshaxctl(socket, "parity", "gpu", "cpu", "-o", "json")
    assert done.code == 1
    report = json.loads(done.out)
    assert (report["first"], report["second"], report["agreement"], report["cause"]) == (
        "gpu",
        "cpu",
        "differs",
        "weights",
    )
    assert report["allowed"] is False
    assert report["figures"]["greedy_ratio"] == 0.5
    assert report["prompts"][0]["difference"]["near_tie"] is True


async def test_parity_of_an_unknown_instance_is_refused(socket: Path) -> None:
    done = await syshaxctl(socket, "parity", "gpu", "npu")
    assert done.code == 1
    assert "npu" in done.err


def test_status_tells_in_a_line_how_alike_instances_are(engine: FakeEngine) -> None:
    engine.parity_reports = (parity_report(),)
    assert "parity: gpu and cpu: noise (distance 0.018)" in table(engine, 140).splitlines()
    engine.parity_reports = (parity_report(allowed=False),)
    assert "parity: gpu and cpu: differs (distance 0.018): over the bound: no request may move" in table(engine, 140)


async def test_endpoints_lists_this_host_or_those_that_are_named(socket: Path) -> None:
    assert (await syshaxctl(socket, "endpoints")).out == "http://127.0.0.1:8010\n"
    done = await syshaxctl(socket, "endpoints", "http://10.0.0.2:8010", "-f", "production-stack")
    assert json.loads(done.out)["static_backends"] == "http://10.0.0.2:8010"
    assert json.loads(done.out)["static_models"] == "ds-32b"
    refused = await syshaxctl(socket, "endpoints", "10.0.0.2:8010")
    assert (refused.code, refused.out) == (1, "")
    assert "10.0.0.2:8010 is not the URL of an endpoint" in refused.err
