# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import io
import os
import pty
import re
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from syshaxd.cli.syshaxctl import main
from syshaxd.cli.top import TopView
from syshaxd.control import ControlServer
from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.decision import InferenceRequest, RunOn
from syshaxd.core.placement.rules import Policy, View
from syshaxd.core.types import State
from tests.fakes.control import operations_of
from tests.fakes.daemon import fake_daemon
from tests.fakes.engine import FakeEngine

PROGRAM = Path(sys.executable).with_name("syshaxctl")
IN_TIME_S = 50.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def text_of(view: TopView, engine: FakeEngine, width: int = 140) -> str:
    """The view two seconds after the engine's readings."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    at_s = engine.snapshot.taken_at_s + 2
    console.print(view.render(width=width, now_s=engine.status().started_at_s + 8010, monotonic_s=at_s))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def saw(view: TopView, engine: FakeEngine) -> None:
    view.saw(engine.status(), now_s=engine.status().started_at_s + 8009, monotonic_s=engine.snapshot.taken_at_s + 1)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def test_all_that_matters_is_shown(engine: FakeEngine) -> None:
    view = TopView()
    saw(view, engine)
    shown = text_of(view, engine)
    assert "3 requests queued" in shown
    for pattern in (
        r"^gpu +gpu +READY +2h13m .* ds-32b +12 +3 +15 +43%",
        r"^gpu +812 tokens/s +",
        r"^queue +3 requests +",
        r"^CPU +█+░+ +13%  160 CPUs",
        r"^memory +█+░+ +4%  21\.0 of 512\.0 GiB",
        r"^shm +░+ +2%  1\.0 of 64\.0 GiB",
        r"^GPU 0 +█+░* +97%  NVIDIA A100-SXM4-80GB, 312 W, 61 °C",
        r"^GPU 1 +unknown +NVIDIA A100-SXM4-80GB$",
        r"^  memory +█+░+ +88%  70\.0 of 80\.0 GiB",
        r"^\d\d:\d\d:\d\d +gpu +READY$",
    ):
        assert re.search(pattern, shown, re.MULTILINE), f"{pattern}\n{shown}"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(engine: FakeEngine, width: int) -> None:
    view = TopView()
    for _ in range(100):
        saw(view, engine)
    lines = text_of(view, engine, width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("READY" in line for line in lines)


def test_history_is_drawn_newest_last(engine: FakeEngine) -> None:
    view = TopView()
    for queued in (0, 7, 14):
        view.saw(replace(engine.status(), queued=queued), now_s=1.0, monotonic_s=engine.snapshot.taken_at_s)
    assert re.search(r"^queue +14 requests +▁▅█$", text_of(view, engine), re.MULTILINE)


def test_changes_of_state_are_kept_newest_first(engine: FakeEngine) -> None:
    view = TopView()
    saw(view, engine)
    engine.become("cpu", State.BACKOFF, reason="exited with code 1")
    saw(view, engine)
    saw(view, engine)
    events = [line.split(None, 1)[1].split() for line in text_of(view, engine).splitlines() if line[2:3] == ":"]
    assert events == [["cpu", "BACKOFF", "exited", "with", "code", "1"], ["cpu", "READY"], ["gpu", "READY"]]


def test_changes_before_the_first_reading_are_in_order_too(engine: FakeEngine) -> None:
    engine.become("gpu", State.BACKOFF)
    view = TopView()
    saw(view, engine)
    names = re.findall(r"^\d\d:\d\d:\d\d +(\w+)", text_of(view, engine), re.MULTILINE)
    assert names == ["gpu", "cpu"]


def test_without_an_answer_the_last_status_stays(engine: FakeEngine) -> None:
    view = TopView()
    view.lost("no syshaxd answers on /x", now_s=engine.status().started_at_s + 8000)
    assert "no syshaxd answers on /x for 10s; retrying" in text_of(view, engine)
    saw(view, engine)
    view.lost("no syshaxd answers on /x", now_s=engine.status().started_at_s + 8000)
    shown = text_of(view, engine)
    assert shown.startswith("no syshaxd answers on /x for 10s; retrying")
    assert "812 tokens/s" in shown
    saw(view, engine)
    assert "retrying" not in text_of(view, engine)
    assert "answers again" in text_of(view, engine)


# The program.


@dataclass
class Terminal:
    """A program on a terminal of its own, and what it has shown so far."""

    program: asyncio.subprocess.Process
    descriptor: int
    shown: str = ""

    async def shows(self, pattern: str) -> None:
        """Waits for something new on the screen; what was there before counts no more."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def on_output() -> None:
            self.shown += ESCAPES.sub("", os.read(self.descriptor, 100_000).decode(errors="replace"))
            arrived.set()

        loop.add_reader(self.descriptor, on_output)
        try:
            async with asyncio.timeout(IN_TIME_S):
                while not (found := re.search(pattern, self.shown)):
                    await arrived.wait()
                    arrived.clear()
        finally:
            loop.remove_reader(self.descriptor)
        self.shown = self.shown[found.end() :]

    def press(self, key: bytes) -> None:
        os.write(self.descriptor, key)


@asynccontextmanager
async def top(socket: Path) -> AsyncIterator[Terminal]:
    ours, its = pty.openpty()
    termios.tcsetwinsize(ours, (40, 120))
    program = await asyncio.create_subprocess_exec(
        *(PROGRAM, "--socket", socket, "top", "--interval", "0.1"),
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(its)
    try:
        yield Terminal(program, ours)
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()
        os.close(ours)


async def test_a_daemon_that_goes_away_may_come_back(engine: FakeEngine, tmp_path: Path) -> None:
    socket = tmp_path / "run" / "admin.sock"
    async with fake_daemon(tmp_path) as daemon, top(socket) as terminal:
        request = InferenceRequest(request_id="req-7", model="m", stream=True)
        decision = RunOn("cpu", ("the gpu is full",))
        daemon.engine.requests.decisions.append(Decided(7.5, request, decision, View(policy=Policy())))
        engine.requests = daemon.engine.requests
        operations = operations_of(engine)
        await terminal.shows("no syshaxd answers on")
        for seen in ("3 requests queued", "req-7  run on cpu: the gpu is full"):
            server = ControlServer(operations, socket)
            await server.start()
            await terminal.shows(seen)
            await server.stop()
            await terminal.shows("no syshaxd answers on")
        terminal.press(b"q")
        async with asyncio.timeout(IN_TIME_S):
            assert await terminal.program.wait() == 0


async def test_ctrl_c_ends_it(engine: FakeEngine, tmp_path: Path) -> None:
    async with top(tmp_path / "none.sock") as terminal:
        await terminal.shows("no syshaxd answers on")
        terminal.program.send_signal(2)
        async with asyncio.timeout(IN_TIME_S):
            assert await terminal.program.wait() == 0


def test_without_a_terminal_only_once() -> None:
    result = CliRunner().invoke(main, ["top"])
    assert result.exit_code == 2
    assert "`--once` prints one view" in result.stderr
    assert CliRunner().invoke(main, ["--socket", "/nonexistent/x.sock", "top", "--once"]).exit_code == 3
