# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import blockbuster
import pytest

from syshaxd.core.errors import LaunchFailedError
from syshaxd.core.types import ExitStatus, Handle, InstanceSpec
from syshaxd.runtime.logfile import LogFile
from syshaxd.runtime.process import ProcessRuntime, procfs
from syshaxd.runtime.process.record import Record
from tests.fakes import server
from tests.fakes.specs import make_spec
from tests.shell.runtime_contract import LONG_S, RuntimeContract, said_until_ready


class ProcessHarness:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime: ProcessRuntime | None = None

    def new_runtime(self) -> ProcessRuntime:
        self.runtime = ProcessRuntime(self.folder, misfit_grace_s=1.0)
        return self.runtime

    def spec(self, name: str = "gpu", *options: str, stubborn: bool = False) -> InstanceSpec:
        return make_spec(name, argv=(sys.executable, server.__file__, *options, *(["stubborn"] if stubborn else [])))

    def broken_spec(self) -> InstanceSpec:
        return make_spec(argv=("/nowhere/bin/python",))

    async def ready(self, handle: Handle) -> None:
        await said_until_ready(self.runtime, handle)

    async def exit(self, handle: Handle, code: int) -> None:
        await self.ready(handle)
        os.kill(int(handle.ident), signal.SIGRTMIN + code)

    async def say(self, handle: Handle) -> None:
        await self.ready(handle)
        os.kill(int(handle.ident), signal.SIGUSR1)

    async def is_alive(self, handle: Handle) -> bool:
        return await lives(int(handle.ident))

    def end_all(self) -> None:
        for path in self.folder.glob("*.json"):
            record = Record.read(path)
            if record is not None and record.pid:
                for process in procfs.family(record.process):
                    procfs.send(process, signal.SIGKILL)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ProcessHarness]:
    harness = ProcessHarness(tmp_path / "state")
    yield harness
    harness.end_all()


class TestContract(RuntimeContract):
    pass


@pytest.fixture
async def runtime(harness: ProcessHarness) -> AsyncIterator[ProcessRuntime]:
    runtime = harness.new_runtime()
    yield runtime
    await runtime.close()


async def lives(pid: int) -> bool:
    return await asyncio.to_thread(procfs.find, pid) is not None


def python(code: str, **options: Any) -> InstanceSpec:
    return make_spec(argv=(sys.executable, "-c", code), **options)


async def output(runtime: ProcessRuntime, name: str = "gpu") -> list[str]:
    lines = [line async for line in runtime.logs(name, tail=None, follow=False)]
    return [line for line in lines if not line.startswith("====")]


class TestLaunch:
    async def test_it_and_its_children_are_bound_to_the_cores(self, runtime: ProcessRuntime) -> None:
        core = min(os.sched_getaffinity(0))
        show = "import os; print(os.sched_getaffinity(0), flush=True)"
        code = f"import subprocess, sys; {show}; subprocess.run([sys.executable, '-c', '{show}'])"
        handle = await runtime.launch(python(code, cores=(core,)), 1)
        assert await runtime.wait(handle) == ExitStatus(code=0)
        assert await output(runtime) == [f"{{{core}}}"] * 2

    async def test_it_gets_its_environment_but_not_the_daemons_secrets(
        self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
        monkeypatch.setenv("INHERITED", "1")
        code = "import os; print([os.environ.get(key) for key in ('NOTIFY_SOCKET', 'INHERITED', 'OWN')])"
        await runtime.wait(await runtime.launch(python(code, env=(("OWN", "x y"),)), 1))
        assert await output(runtime) == ["[None, '1', 'x y']"]

    async def test_it_has_a_session_of_its_own(self, runtime: ProcessRuntime) -> None:
        code = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
        await runtime.wait(await runtime.launch(python(code), 1))
        assert await output(runtime) == ["True"]

    async def test_both_outputs_go_to_the_log(self, runtime: ProcessRuntime) -> None:
        code = "import sys; print('out', flush=True); print('err', file=sys.stderr); print(end='unfinished')"
        await runtime.wait(await runtime.launch(python(code), 1))
        assert (await output(runtime))[:2] == ["out", "err"]

    async def test_a_program_that_is_not_executable(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        with pytest.raises(LaunchFailedError, match=rf"{tmp_path}: Permission denied.*services\.gpu\.python") as error:
            await runtime.launch(make_spec(argv=(str(tmp_path),)), 1)
        assert error.value.permanent

    async def test_a_model_that_is_not_there(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        absent = replace(python(""), model=str(tmp_path / "absent"))
        with pytest.raises(
            LaunchFailedError, match=rf"{absent.model}; set models\.path, or services\.gpu\.model"
        ) as error:
            await runtime.launch(absent, 1)
        assert error.value.permanent

    async def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        runtime = ProcessRuntime(tmp_path / "file" / "state")
        with pytest.raises(
            LaunchFailedError, match=r"file/state: Not a directory; let this user write there, or set XDG"
        ):
            await runtime.launch(python(""), 1)

    async def test_cores_that_are_not_there(self, runtime: ProcessRuntime) -> None:
        with pytest.raises(LaunchFailedError, match=r"CPUs 1000-1001: .*services\.gpu\.cores") as error:
            await runtime.launch(python("", cores=(1000, 1001)), 1)
        assert error.value.permanent

    async def test_cores_of_which_some_are_not_there(self, runtime: ProcessRuntime) -> None:
        with pytest.raises(LaunchFailedError, match=r"CPUs 0,1000: .*services\.gpu\.cores") as error:
            await runtime.launch(python("", cores=(0, 1000)), 1)
        assert error.value.permanent

    async def test_an_address_of_another_machine(self, runtime: ProcessRuntime) -> None:
        with pytest.raises(LaunchFailedError, match=r"203\.0\.113\.1:8001: .*services\.gpu\.host") as error:
            await runtime.launch(python("", host="203.0.113.1", port=8001), 1)
        assert error.value.permanent

    async def test_a_port_that_is_taken(self, runtime: ProcessRuntime) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(LaunchFailedError, match=rf"port {port}.* taken by pid {os.getpid()} \(.+\)") as error:
                await runtime.launch(python("", port=port), 1)
        assert not error.value.permanent
        assert [line async for line in runtime.logs("gpu", tail=1, follow=False)] == [
            f"==== gpu, generation 1: {error.value}"
        ]

    async def test_a_full_disk_is_named(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(LaunchFailedError, match=rf"can't be written in {harness.folder}: .*make room") as error:
                await runtime.launch(harness.spec(), 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not error.value.permanent
        await runtime.terminate(await runtime.launch(harness.spec(), 2), LONG_S)

    async def test_a_folder_in_use_by_another_daemon(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        await runtime.adopt(harness.spec())
        with pytest.raises(LaunchFailedError, match="another syshaxd"):
            await ProcessRuntime(harness.folder).launch(harness.spec(), 1)


class TestCheck:
    async def test_a_full_disk(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(LaunchFailedError, match=r"gpu: its record and its log can't be written in .*make room"):
                await runtime.check(harness.spec(), needs_port=False)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert await harness.is_alive(handle)
        await runtime.terminate(handle, LONG_S)

    async def test_a_program_that_has_gone(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        with pytest.raises(LaunchFailedError, match=r"no such program; set services\.gpu\.python"):
            await runtime.check(harness.broken_spec(), needs_port=False)

    async def test_a_model_that_has_gone(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        with pytest.raises(LaunchFailedError, match="cannot find its model"):
            await runtime.check(replace(python(""), model=str(tmp_path / "gone")), needs_port=False)

    async def test_a_port_that_is_taken(self, runtime: ProcessRuntime) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            spec = replace(python(""), port=other.getsockname()[1])
            with pytest.raises(LaunchFailedError, match=rf"is taken by pid {os.getpid()}"):
                await runtime.check(spec, needs_port=True)
            await runtime.check(spec, needs_port=False)

    async def test_an_address_that_is_not_here(self, runtime: ProcessRuntime) -> None:
        with pytest.raises(LaunchFailedError, match=r"cannot listen at 192\.0\.2\.1"):
            await runtime.check(replace(python(""), host="192.0.2.1", port=8001), needs_port=True)

    @pytest.mark.parametrize("cores", [(9_999,), (10**30,)])
    async def test_cpus_that_are_not_there(self, runtime: ProcessRuntime, cores: tuple[int, ...]) -> None:
        with pytest.raises(LaunchFailedError, match=r"cannot be bound to CPUs .*services\.gpu\.cores"):
            await runtime.check(replace(python(""), cores=cores), needs_port=False)

    async def test_it_leaves_nothing(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        await runtime.check(harness.spec(), needs_port=False)
        left = await asyncio.to_thread(lambda: {path.name for path in harness.folder.rglob("*")})
        assert left <= {"lock", "tmp"}


class TestEnd:
    async def test_death_by_signal(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        os.kill(int(handle.ident), signal.SIGKILL)
        status = await runtime.wait(handle)
        assert status.signal == 9
        assert "dmesg" in status.cause

    async def test_its_log_tells_why_it_ended_by_itself(self, runtime: ProcessRuntime) -> None:
        spec = python("import sys; print(sys.argv[1]); sys.exit(1)")
        for text, cause in (
            ("No available memory for the cache blocks", "gpu-memory-utilization"),
            (
                "error: unrecognized arguments: --max-modle-len=8 --api-kee sk-secret",
                "--max-modle-len, --api-kee: correct",
            ),
            ("fine", ""),
        ):
            handle = await runtime.launch(replace(spec, argv=(*spec.argv, text)), 1)
            status = await runtime.wait(handle)
            assert cause in status.cause
            assert bool(cause) == bool(status.cause)
            assert "sk-secret" not in status.cause

    async def test_who_was_asked_to_end_needs_no_cause(self, runtime: ProcessRuntime, harness: ProcessHarness) -> None:
        handle = await runtime.launch(
            python("import time; print('No available memory for the cache blocks'); time.sleep(99)"), 1
        )
        await runtime.terminate(handle, LONG_S)
        assert (await runtime.wait(handle)).cause == ""

    async def test_children_of_a_crashed_server_are_killed(
        self, runtime: ProcessRuntime, harness: ProcessHarness
    ) -> None:
        handle = await runtime.launch(harness.spec("gpu", "child"), 1)
        child = await child_of(harness, handle)
        await harness.exit(handle, 1)
        assert await runtime.wait(handle) == ExitStatus(code=1)
        assert not await lives(child)

    async def test_what_is_left_because_its_watching_failed_is_ended_by_the_next_launch(
        self, harness: ProcessHarness, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = await runtime.launch(harness.spec("gpu", "child"), 1)
        child = await child_of(harness, handle)

        def fail(*_: object) -> None:
            raise OSError("too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(procfs, "family", fail)
            os.kill(int(handle.ident), signal.SIGKILL)
            with pytest.raises(OSError, match="too many open files"):
                await runtime.wait(handle)
        assert await lives(child)
        again = await runtime.launch(harness.spec("gpu"), 2)
        assert not await lives(child)
        await runtime.terminate(again, LONG_S)

    @pytest.mark.parametrize("session", ["its own", "the server's"])
    async def test_stubborn_children_are_killed_after_the_grace(
        self, runtime: ProcessRuntime, harness: ProcessHarness, session: str
    ) -> None:
        options = ["child", "shy"] if session == "its own" else ["child"]
        handle = await runtime.launch(harness.spec("gpu", *options), 1)
        child = await child_of(harness, handle)
        await runtime.terminate(handle, 0.1)
        assert not await lives(child)
        assert await runtime.wait(handle) == ExitStatus(code=0)

    @pytest.mark.parametrize("asked", [True, False])
    async def test_shared_memory_that_it_leaves_is_removed(
        self, runtime: ProcessRuntime, harness: ProcessHarness, asked: bool
    ) -> None:
        handle = await runtime.launch(harness.spec("gpu", "shm", *([] if asked else ["child"])), 1)
        path = Path(await said(harness, handle, "shm"))
        if asked:
            await runtime.terminate(handle, LONG_S)
        else:
            await harness.exit(handle, 1)
            await runtime.wait(handle)
        assert not await asyncio.to_thread(path.exists)

    @pytest.mark.parametrize("how", ["rb", "r+b"])
    @pytest.mark.parametrize("where", ["model-{}.safetensors", "models-{}/model.safetensors"])
    async def test_weights_in_shared_memory_are_left_alone(
        self, runtime: ProcessRuntime, where: str, how: str, request: pytest.FixtureRequest
    ) -> None:
        path = Path("/dev/shm", where.format(os.getpid()))
        top = path if path.parent == Path("/dev/shm") else path.parent
        request.addfinalizer(lambda: shutil.rmtree(top) if top.is_dir() else top.unlink())
        await asyncio.to_thread(make_weights, path)
        code = (
            f"import mmap, signal; f = open({str(path)!r}, {how!r}); signal.signal(signal.SIGTERM, signal.SIG_DFL);"
            f"m = mmap.mmap(f.fileno(), 0, prot={3 if '+' in how else 1}); print('ready', flush=True); signal.pause()"
        )
        handle = await runtime.launch(replace(python(code), model=str(top)), 1)
        async with aclosing(runtime.logs("gpu", tail=None, follow=True)) as lines:
            while await anext(lines) != "ready":
                pass
        await runtime.terminate(handle, LONG_S)
        assert await asyncio.to_thread(path.read_bytes) == bytes(4096)

    async def test_a_record_of_another_version_is_no_proof_of_whose_a_file_is(
        self, runtime: ProcessRuntime, harness: ProcessHarness, tmp_path: Path
    ) -> None:
        path = Path(f"/dev/shm/psm_{os.getpid():08x}")
        handle = await runtime.launch(harness.spec(), 1)
        await runtime.close()
        record = harness.folder / "gpu.json"
        await asyncio.to_thread(make_weights, path)
        record.write_text(json.dumps(json.loads(record.read_text()) | {"shared_memory": [str(path)]}))
        later = harness.new_runtime()
        assert await later.adopt(harness.spec()) == handle
        await later.terminate(handle, LONG_S)
        await later.close()
        await asyncio.to_thread(path.unlink)  # it is still there

    async def test_its_temporary_files_are_in_a_folder_of_its_own_that_goes_with_it(
        self, runtime: ProcessRuntime, harness: ProcessHarness
    ) -> None:
        code = (
            "import os, signal, tempfile; t = tempfile.mkdtemp(); open(t + '/left', 'w');"
            "os.symlink('/etc', t + '/link');"
            "print('tmp', t); print('ready', flush=True); signal.pause()"
        )
        folders = set()
        for generation in (1, 2):
            handle = await runtime.launch(python(code), generation)
            made = Path(await said(harness, handle, "tmp")).parent
            folders.add(made)
            assert made.stat().st_mode & 0o777 == 0o700
            assert len(os.fsencode(made)) <= 39
            os.kill(int(handle.ident), signal.SIGKILL)
            await runtime.wait(handle)
            assert not await asyncio.to_thread(made.exists)
        assert len(folders) == 2
        assert await asyncio.to_thread(Path("/etc/passwd").exists)

    async def test_a_folder_for_temporary_files_that_the_settings_name_stays(
        self, runtime: ProcessRuntime, tmp_path: Path
    ) -> None:
        code = "import tempfile; print(tempfile.mkdtemp())"
        await runtime.wait(await runtime.launch(python(code, env=(("TMPDIR", str(tmp_path)),)), 1))
        left = Path((await output(runtime))[-1])
        assert left.parent == tmp_path
        assert await asyncio.to_thread(left.exists)

    async def test_a_folder_that_was_exchanged_stays(self, runtime: ProcessRuntime, tmp_path: Path) -> None:
        code = "import os, sys; t = os.environ['TMPDIR']; os.rmdir(t); os.symlink(sys.argv[1], t); print(t)"
        (tmp_path / "kept").touch()
        spec = python(code)
        await runtime.wait(await runtime.launch(replace(spec, argv=(*spec.argv, str(tmp_path))), 1))
        assert (tmp_path / "kept").exists()
        await asyncio.to_thread(Path((await output(runtime))[-1]).unlink)

    async def test_a_launch_that_fails_leaves_no_folder(
        self, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)
        (tmp_path / "state").mkdir(exist_ok=True)
        with pytest.raises(LaunchFailedError):
            await runtime.launch(make_spec(argv=("/nowhere/bin/python",)), 1)
        assert not [name for name in await asyncio.to_thread(os.listdir, tmp_path) if name.startswith("syshax-")]

    @pytest.mark.parametrize(
        "spec", [{"env": (("A", "x\0y"),)}, {"argv": ("/bin/true", "\0")}, {"argv": ("/x\udcff\ud800",)}]
    )
    async def test_what_the_kernel_cannot_be_given_is_a_failed_launch(
        self, runtime: ProcessRuntime, spec: dict[str, Any]
    ) -> None:
        with pytest.raises(LaunchFailedError, match="gpu"):
            await runtime.launch(replace(python(""), **spec), 1)

    async def test_shared_memory_that_somebody_else_uses_is_kept(
        self, runtime: ProcessRuntime, harness: ProcessHarness
    ) -> None:
        handle = await runtime.launch(harness.spec("gpu", "shm"), 1)
        path = Path(await said(harness, handle, "shm"))
        fd = os.open(path, os.O_RDONLY)
        await runtime.terminate(handle, LONG_S)
        os.close(fd)
        await asyncio.to_thread(path.unlink)  # it is still there

    async def test_semaphores_of_a_killed_one_are_removed_by_its_resource_tracker(
        self, runtime: ProcessRuntime, harness: ProcessHarness
    ) -> None:
        code = (
            "import multiprocessing, signal; semaphore = multiprocessing.get_context('spawn').Semaphore();"
            "print('semaphore', semaphore._semlock.name); print('ready', flush=True); signal.pause()"
        )
        handle = await runtime.launch(python(code), 1)
        path = Path("/dev/shm/sem." + (await said(harness, handle, "semaphore")).removeprefix("/"))
        assert await asyncio.to_thread(path.exists)
        os.kill(int(handle.ident), signal.SIGKILL)
        await runtime.wait(handle)
        assert not await asyncio.to_thread(path.exists)


def make_weights(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(4096))


async def said(harness: ProcessHarness, handle: Handle, what: str) -> str:
    """What follows `what` in the server's output."""
    lines = await said_until_ready(harness.runtime, handle)
    return next(line.removeprefix(f"{what} ") for line in lines if line.startswith(f"{what} "))


async def child_of(harness: ProcessHarness, handle: Handle) -> int:
    return int(await said(harness, handle, "child"))


DAEMON = """
import asyncio, pathlib, sys
from syshaxd.runtime.process import ProcessRuntime
from tests.fakes.specs import make_spec
async def main():
    runtime = ProcessRuntime(pathlib.Path(sys.argv[1]))
    handle = await runtime.launch(make_spec(argv=tuple(sys.argv[2:])), 4)
    print(handle.ident, flush=True)
    await runtime.wait(handle)
asyncio.run(main())
"""


@pytest.fixture
def killed_daemon(harness: ProcessHarness) -> Callable[[InstanceSpec], int]:
    """Launches a server from a daemon that gets SIGKILL after that; returns the server's pid."""

    def launch(spec: InstanceSpec) -> int:
        command = [sys.executable, "-c", DAEMON, str(harness.folder), *spec.argv]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
            assert daemon.stdout is not None
            pid = int(daemon.stdout.readline())
            daemon.kill()
        return pid

    return launch


class TestAdopt:
    async def test_after_a_sigkill_of_the_daemon(
        self, harness: ProcessHarness, runtime: ProcessRuntime, killed_daemon: Callable[[InstanceSpec], int]
    ) -> None:
        spec = harness.spec()
        pid = await asyncio.to_thread(killed_daemon, spec)
        handle = await runtime.adopt(spec)
        assert handle is not None
        assert (handle.ident, handle.generation) == (str(pid), 4)
        await harness.say(handle)
        async with aclosing(runtime.logs("gpu", tail=None, follow=True)) as lines:
            while await anext(lines) != "said":
                pass
        await harness.exit(handle, 3)
        assert await runtime.wait(handle) == ExitStatus()

    async def test_an_instance_that_is_not_configured_any_more_is_ended(
        self, harness: ProcessHarness, runtime: ProcessRuntime, killed_daemon: Callable[[InstanceSpec], int]
    ) -> None:
        spec = harness.spec("gpu", "child")
        pid = await asyncio.to_thread(killed_daemon, spec)
        child = await child_of(harness, Handle("gpu", 4, str(pid), 0.0))
        await runtime.end_others(["gpu", "cpu"])
        assert await lives(pid)
        await runtime.end_others(["cpu"])
        assert not await lives(pid)
        assert not await lives(child)
        assert await runtime.adopt(spec) is None

    async def test_what_a_crashed_server_left_is_ended(
        self, harness: ProcessHarness, runtime: ProcessRuntime, killed_daemon: Callable[[InstanceSpec], int]
    ) -> None:
        spec = harness.spec("gpu", "child")
        pid = await asyncio.to_thread(killed_daemon, spec)
        child = await child_of(harness, Handle("gpu", 4, str(pid), 0.0))
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(select.select, [pidfd], [], [])
        os.close(pidfd)
        assert await lives(child)
        assert await runtime.adopt(spec) is None
        assert not await lives(child)

    async def test_a_pid_that_belongs_to_another_process_now(
        self, harness: ProcessHarness, runtime: ProcessRuntime
    ) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await runtime.close()
        self.change_record(harness, start_ticks=1, started_at_s=1.0)
        later = harness.new_runtime()
        assert await later.adopt(harness.spec()) is None
        assert await harness.is_alive(handle)
        await later.close()
        os.kill(int(handle.ident), signal.SIGKILL)

    async def test_a_record_from_before_a_reboot(self, harness: ProcessHarness, runtime: ProcessRuntime) -> None:
        handle = await runtime.launch(harness.spec(), 1)
        await runtime.close()
        self.change_record(harness, boot_id="another")
        later = harness.new_runtime()
        assert await later.adopt(harness.spec()) is None
        assert await harness.is_alive(handle)
        await later.close()
        os.kill(int(handle.ident), signal.SIGKILL)

    async def test_a_damaged_record(self, harness: ProcessHarness, runtime: ProcessRuntime) -> None:
        harness.folder.mkdir()
        (harness.folder / "gpu.json").write_text('{"pid": 1')
        assert await runtime.adopt(harness.spec()) is None

    def change_record(self, harness: ProcessHarness, **changes: Any) -> None:
        path = harness.folder / "gpu.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_it_works_under_uvloop_too(harness: ProcessHarness) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def work() -> None:
        runtime = harness.new_runtime()
        handle = await runtime.launch(harness.spec(), 1)
        await harness.exit(handle, 4)
        assert await runtime.wait(handle) == ExitStatus(code=4)
        handle = await runtime.launch(harness.spec(), 2)
        await runtime.terminate(handle, LONG_S)
        assert not await harness.is_alive(handle)
        await runtime.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


async def test_blocking_calls_would_be_noticed(tmp_path: Path) -> None:
    with pytest.raises(blockbuster.BlockingError):
        LogFile(tmp_path / "log", max_bytes=1)._append("x")


class TestSecrets:
    async def test_the_title_of_a_generation_shows_none(self, runtime: ProcessRuntime) -> None:
        spec = python("print('done')")
        spec = replace(spec, argv=(*spec.argv, "--api-key", "q1q1", "q2q2", "--hf-token=q3q3", "--port", "8001"))
        await runtime.wait(await runtime.launch(spec, 1))
        lines = [line async for line in runtime.logs("gpu", tail=None, follow=False)]
        assert not [line for line in lines if any(secret in line for secret in ("q1q1", "q2q2", "q3q3"))]
        assert lines[0].endswith("--port 8001")
