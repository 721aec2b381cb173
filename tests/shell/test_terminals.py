# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The command lines on odd terminals, and without any: every command says what it has to say, and never a trace."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from syshaxd.cli import syshax
from syshaxd.cli.syshaxctl import main
from syshaxd.client import ControlClient
from syshaxd.control import ControlServer
from syshaxd.core.loads import GpuLoad
from syshaxd.core.types import State
from syshaxd.serving.leases import Leases
from syshaxd.system.terminal import _ERRORS, Program
from tests.core.topologies import KUNPENG_LSCPU
from tests.fakes.control import operations_of
from tests.fakes.daemon import fake_daemon
from tests.fakes.engine import FakeEngine, full_snapshot, parity_report

IN_TIME_S = 50.0
PROGRAM = str(Path(sys.executable).with_name("syshaxctl"))
ENCODINGS = ("ascii", "latin-1", "utf-8", "cp1252", "gbk")
GPU = GpuLoad(
    index=0,
    name="显卡 ü\ud800",
    uuid="GPU-1",
    busy_ratio=0.5,
    memory_used_bytes=1,
    memory_total_bytes=2,
    temperature_c=66.0,
)


@pytest.fixture
async def socket(tmp_path: Path) -> AsyncIterator[Path]:
    """A daemon that says things that no small character set has."""
    engine = FakeEngine()
    engine.snapshot = replace(full_snapshot(), gpus=(GPU,), gpu_error="kaputt: ü → ✗")
    engine.become("cpu", State.FAILED, reason="größer als 中文 🎉 \udcff")
    engine.lines = ["INFO 载入 \udcff", "→ done"]
    report = parity_report()
    odd = replace(report.prompts[0], prompt="中国的首都是北京、法国的首都是巴黎、日本的首都是 ä")
    engine.parity_reports = (replace(report, prompts=(odd, *report.prompts)),)
    path = tmp_path / "run" / "admin.sock"
    async with fake_daemon(tmp_path) as daemon:
        leases, engine.requests = Leases(daemon.engine), daemon.engine.requests
        server = ControlServer(operations_of(engine, leases=leases), path)
        await server.start()
        async with ControlClient(path) as client:
            await client.ask("PlaceRequest", request_id="placed")
        yield path
        leases.close()
        await server.stop()


COMMANDS = [
    ["status"],
    ["status", "-o", "json"],
    ["top", "--once"],
    ["parity", "gpu", "cpu"],
    ["parity", "gpu", "cpu", "-o", "json"],
    ["logs", "gpu"],
    ["topology"],
    ["topology", "-o", "json"],
    ["numa", "verify"],
    ["numa", "verify", "-o", "json"],
    ["start", "gpu"],
    ["start", "ü"],
    ["--help"],
    ["requests"],
    ["requests", "-o", "json"],
    ["decisions"],
    ["decisions", "--export", "-"],
    ["offload"],
    ["offload", "-o", "json"],
    ["explain", "placed"],
    ["explain", "placed", "-o", "json"],
    ["explain", "größe-中"],
    ["events"],
    ["events", "-o", "json"],
    ["config", "get"],
    ["config", "get", "-o", "json"],
    ["config", "set", "services.cpu.env.A", "ü中"],
    ["config", "validate"],
    ["policy"],
    ["dry-run", "-o", "json"],
    ["cancel", "größe-中"],
    ["place"],
    ["no-such-command-ü"],
]


async def _outcome(socket: Path, words: list[str], encoding: str) -> tuple[int, bytes]:
    runner = CliRunner(charset=encoding, env={"SYSHAX_SOCKET": str(socket), "COLUMNS": "100"})
    async with asyncio.timeout(IN_TIME_S):
        done = await asyncio.to_thread(runner.invoke, main, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if "json" in words and done.exit_code == 0:
        for line in [done.stdout] if words[0] != "events" else done.stdout.splitlines():
            json.loads(line)
    return done.exit_code, done.stdout_bytes


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_every_command_can_be_shown_in_every_encoding(socket: Path, encoding: str) -> None:
    for words in COMMANDS:
        code, out = await _outcome(socket, words, encoding)
        assert out or code or words == ["numa", "verify"], words
        assert code in {0, 1, 2}, words


async def test_explanations_fit_100_columns_and_an_export_begins_with_its_format(socket: Path) -> None:
    code, out = await _outcome(socket, ["explain", "placed"], "utf-8")
    lines = out.decode().splitlines()
    assert code == 0
    assert "WAY" in out.decode()
    assert "chosen" in out.decode()
    assert max(map(len, lines)) <= 100, lines
    code, out = await _outcome(socket, ["decisions", "--export", "-"], "utf-8")
    assert (code, json.loads(out.splitlines()[0])["format"]) == (0, "syshax-decisions")
    code, out = await _outcome(socket, ["offload"], "utf-8")
    assert code == 0
    assert out.startswith(b"help by the CPU: on; not measured")


async def test_an_explanation_is_whole_at_60_columns(socket: Path) -> None:
    code, out, err = await _run(socket, "explain", "placed", COLUMNS="60")
    text = out.decode()
    assert (code, err) == (0, b"")
    assert max(map(len, text.splitlines())) <= 60
    assert "WAY" in text
    assert "…" not in text


async def test_what_is_empty_says_so(socket: Path) -> None:
    done = await _run(socket, "decisions", "--model", "nothing")
    assert done == (0, b"", b"no decisions yet on requests for the model nothing\n")
    await _run(socket, "cancel", "placed")
    assert await _run(socket, "requests") == (0, b"", b"no requests are running or waiting\n")


async def test_an_export_that_does_not_fit_on_the_disk_fails(socket: Path) -> None:
    code, _ = await _outcome(socket, ["decisions", "--export", "/dev/full"], "utf-8")
    assert code == 1


async def test_an_earlier_export_stays_where_no_daemon_answers(tmp_path: Path) -> None:
    earlier = tmp_path / "trace.jsonl"
    await asyncio.to_thread(earlier.write_text, "precious")
    code, _ = await _outcome(tmp_path / "nowhere.sock", ["decisions", "--export", str(earlier)], "utf-8")
    assert code == 3
    assert await asyncio.to_thread(earlier.read_text) == "precious"


def test_what_is_drawn_keeps_its_shape() -> None:
    assert "▁▂▃▄▅▆▇█ ██░░ 66 °C … 中ü".encode("ascii", _ERRORS) == b"__--==## ##.. 66  C . ??"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_syshax_too(tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "ü中.yaml"
    file.write_text("models: {default: '中 ü'}\n", "utf-8")
    for words in (["check-config"], ["config", "models.default"], ["model"], ["interfaces"], ["config", "ü", "1"]):
        runner = CliRunner(charset=encoding, env={"SYSHAX_CONFIG": str(file)})
        done = runner.invoke(syshax.main, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), words


# As a program.


async def _run(
    socket: Path, *words: str, stdout: int | None = None, stderr: int = asyncio.subprocess.PIPE, **variables: str
) -> tuple[int, bytes, bytes]:
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "PYTHONIOENCODING", "LC_ALL"}}
    program = await asyncio.create_subprocess_exec(
        PROGRAM,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
        stderr=stderr,
        env=kept | {"SYSHAX_SOCKET": str(socket), "TERM": "xterm"} | variables,
    )
    async with asyncio.timeout(IN_TIME_S):
        out, err = await program.communicate()
    assert program.returncode is not None
    return program.returncode, out or b"", err


@pytest.mark.parametrize(
    "variables",
    [
        {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
    ],
)
async def test_top_and_parity_on_a_terminal_that_is_not_utf_8(socket: Path, variables: dict[str, str]) -> None:
    for words in (("top", "--once"), ("parity", "gpu", "cpu")):
        outside, inside = pty.openpty()
        try:
            code, _, err = await _run(socket, *words, stdout=inside, **variables)
            shown = os.read(outside, 65536).decode("latin-1")
        finally:
            os.close(outside)
            os.close(inside)
        assert (code, err) == (0, b""), words
        assert "cpu" in shown


_RETITLES = "\x1b]0;owned\x07\x1b[2J\x9b31m"


@asynccontextmanager
async def _hostile_daemon(tmp_path: Path) -> AsyncIterator[Path]:
    """A daemon that passes on what an instance says, control sequences included; yields its socket."""
    engine = FakeEngine()
    engine.become("cpu", State.FAILED, reason=_RETITLES)
    engine.lines = [_RETITLES]
    path = tmp_path / "run" / "admin.sock"
    async with fake_daemon(tmp_path) as daemon:
        engine.requests = daemon.engine.requests
        server = ControlServer(operations_of(engine, leases=Leases(daemon.engine)), path)
        await server.start()
        yield path
        await server.stop()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("words", [("logs", "gpu"), ("status",), ("top", "--once"), ("start", _RETITLES)])
async def test_no_text_of_others_controls_the_terminal(tmp_path: Path, words: tuple[str, ...], encoding: str) -> None:
    outside, inside = pty.openpty()
    try:
        async with _hostile_daemon(tmp_path) as path:
            await _run(path, *words, stdout=inside, stderr=inside, PYTHONIOENCODING=encoding, COLUMNS="300")
        shown = os.read(outside, 65536)
    finally:
        os.close(outside)
        os.close(inside)
    assert b"\\x1b]" in shown
    assert not [sequence for sequence in (b"\x1b]", b"\x07", b"\x1b[2J", "\x9b".encode()) if sequence in shown]


async def test_logs_are_unchanged_in_a_pipe(tmp_path: Path) -> None:
    async with _hostile_daemon(tmp_path) as path:
        _, out, _ = await _run(path, "logs", "gpu", PYTHONIOENCODING="utf-8")
    assert out.decode() == f"{_RETITLES}\n"


@pytest.mark.parametrize("words", [("status",), ("status", "-o", "json"), ("logs", "gpu")])
async def test_nobody_reads_the_output(socket: Path, words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, _, err = await _run(socket, *words, stdout=writer)
    finally:
        os.close(writer)
    assert err == b""
    assert code in {0, 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("words", [("status",), ("status", "-o", "json")])
async def test_the_disk_is_full(socket: Path, words: tuple[str, ...]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, _, err = await _run(socket, *words, stdout=full)
    finally:
        os.close(full)
    assert (code, err) == (1, b"Error: No space left on device (where the output goes)\n")


@pytest.mark.parametrize("closed", ["0", "1", "2", "1 2", "0 1 2"])
async def test_closed_descriptors(socket: Path, closed: str) -> None:
    closing = " ".join(f"{each}>&-" if each != "0" else "0<&-" for each in closed.split())
    for words in ("status", "top --once", "start gpu"):
        program = await asyncio.create_subprocess_shell(
            f"exec {PROGRAM} {words} {closing}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ) | {"SYSHAX_SOCKET": str(socket)},
        )
        async with asyncio.timeout(IN_TIME_S):
            _, err = await program.communicate()
        assert b"Traceback" not in err
        assert program.returncode == 0


@pytest.mark.parametrize("width", ["1", "20", "0", "x"])
async def test_a_very_narrow_terminal(socket: Path, width: str) -> None:
    for words in (("status",), ("top", "--once"), ("parity", "gpu", "cpu"), ("topology",), ("--help",)):
        code, out, err = await _run(socket, *words, COLUMNS=width)
        assert (code, err) == (0, b""), words
        assert out


async def test_files_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    text = tmp_path / "lscpu.txt"
    text.write_bytes(KUNPENG_LSCPU.encode() + "Model name:  Prozessor ü\n".encode("latin-1"))
    for encoding in ("ascii", "utf-8"):
        code, _, err = await _run(tmp_path, "topology", str(text), PYTHONIOENCODING=encoding)
        assert (code, err) == (0, b"")
    config = tmp_path / "new.yaml"
    config.write_bytes("models: {default: ü}\n".encode("latin-1"))
    code, _, err = await _run(tmp_path, "config", "apply", str(config))
    assert code == 1
    assert b"is not UTF-8 text" in err
    code, _, err = await _run(tmp_path, "config", "apply", str(tmp_path))
    assert code != 0
    assert b"Traceback" not in err


def test_an_error_that_no_command_has_foreseen_names_its_file() -> None:
    @click.command(cls=Program)
    def reads() -> None:
        Path("/nowhere/file").read_text("utf-8")

    done = CliRunner().invoke(reads)
    assert (done.exit_code, done.stderr) == (1, "Error: /nowhere/file: No such file or directory\n")


def test_errors_of_decoding_are_not_ours() -> None:
    with pytest.raises(UnicodeDecodeError):
        b"\xff".decode("utf-8", _ERRORS)


def test_programs_are_made_for_any_terminal() -> None:
    from syshaxd import daemon
    from syshaxd.system.terminal import Program, ProgramGroup

    assert isinstance(main, ProgramGroup)
    assert isinstance(syshax.main, ProgramGroup)
    assert isinstance(daemon.main, Program)
    assert isinstance(main, click.Group)
