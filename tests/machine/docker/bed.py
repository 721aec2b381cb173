# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A real container engine for tests: dockerd in a network namespace of its own, with an image of a simulated vLLM.

with Bed(folder) as bed:      # this process and its children are in that network meanwhile
    bed.socket, bed.image, bed.docker("ps")
"""

import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.machine.docker.image import make_tar

IMAGE = "syshax-sim:test"
LONG_S = 60.0
"""Within this, what is waited for happens also beside other work."""
_NUMBERS = itertools.count(1)
_CLONE_NEWNET = 0x40000000
_START_TIMEOUT_S = 60.0
_SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_NOBODY = ("nobody", "nogroup")
_FIRST_SUBORDINATE_ID = 300_000
# Docker takes any request for GPUs if it finds this program; it sets up nothing here.
_GPU_HOOK = "nvidia-container-runtime-hook"


class Bed:
    """The engine and its network, from `with` to its end, after which nothing of them is left."""

    def __init__(self, folder: Path, *, remapped: bool = False) -> None:
        """Does no I/O yet.

        Args:
            folder: For the engine's state and socket; made, and removed again.
            remapped: With `userns-remap`: root in a container is not root here.
        """
        self.folder = folder
        self._remapped = remapped
        self.socket = folder / "docker.sock"
        self.image = IMAGE
        self.network = f"syshax-{os.getpid()}-{next(_NUMBERS)}"
        self.log = folder / "dockerd.log"
        self._engine: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """Of the engine's API."""
        return f"unix://{self.socket}"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder.mkdir(parents=True)
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.enter_context(_Network(self.network))
            self._prepare()
            stack.callback(self._clear)
            self.start_engine()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def docker(self, *arguments: str) -> str:
        """Runs the `docker` program. Returns its output."""
        done = subprocess.run(
            ["docker", "-H", self.url, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
        return done.stdout.strip()

    def start_engine(self) -> None:
        """Returns once it answers. It may be started again: containers live on while it is away."""
        options = ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--live-restore"]
        options += ["--pidfile", f"{self.folder}/pid", "--storage-driver", "overlay2", "-H", self.url]
        options += ["--add-runtime", f"limited={self.folder}/bin/limited-runc", "--default-runtime", "limited"]
        command = ["dockerd", *options]
        if self._remapped:
            command = [*self._with_subordinate_ids(), *command, "--userns-remap", ":".join(_NOBODY)]
        environment = os.environ | {"PATH": f"{self.folder}/bin:{_SEARCH_PATH}"}
        deadline = time.monotonic() + _START_TIMEOUT_S
        with self.log.open("ab") as log:
            while True:
                self._engine = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                while self._engine.poll() is None and not self.answers():
                    assert time.monotonic() < deadline, self.log.read_text()[-4000:]
                    time.sleep(0.05)
                if self._engine.poll() is None:
                    break
                # After a SIGKILL the first start may fail over what the last one left.
                assert time.monotonic() < deadline, self.log.read_text()[-4000:]
                time.sleep(0.2)
        if IMAGE not in self.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split():
            archive = self.folder / "image.tar"
            make_tar(archive)
            self.docker("import", str(archive), IMAGE)
            archive.unlink()

    def _with_subordinate_ids(self) -> list[str]:
        """A command that runs another one, for which alone user and group ids are set aside for containers."""
        ids = self.folder / "subid"
        ids.write_text("".join(f"{name}:{_FIRST_SUBORDINATE_ID}:65536\n" for name in _NOBODY))
        mounts = [f'mount --bind "{ids}" {path}' for path in ("/etc/subuid", "/etc/subgid")]
        return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]

    def stop_engine(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it; containers run on."""
        assert self._engine is not None
        self._engine.send_signal(number)
        self._engine.wait(30)

    @contextmanager
    def without_gpus(self) -> Iterator[None]:
        """Meanwhile requests for GPUs are refused, as where NVIDIA's runtime is not installed."""
        hook = self.folder / "bin" / _GPU_HOOK
        away = hook.rename(hook.with_suffix(".away"))
        try:
            self._restart()
            yield
        finally:
            away.rename(hook)
            self._restart()

    def _restart(self) -> None:
        self.stop_engine()
        self.start_engine()

    def answers(self) -> bool:
        """Whether the engine is there."""
        probe = ["docker", "-H", self.url, "version", "--format", "{{.Server.Version}}"]
        return self.socket.exists() and subprocess.run(probe, capture_output=True, timeout=30).returncode == 0

    def _prepare(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        wrapper = Path(__file__).with_name("oci_runtime.py")
        scripts = {
            "limited-runc": f'#!/bin/sh\nexec "{sys.executable}" -I "{wrapper}" "$@"\n',
            _GPU_HOOK: "#!/bin/sh\nexit 0\n",
        }
        for name, text in scripts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    def _clear(self) -> None:
        if self._engine is None:
            return
        if self._engine.poll() is not None:
            with suppress(AssertionError):
                self.start_engine()
        with suppress(AssertionError):
            if containers := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", *containers)
        self.stop_engine()
        # With live-restore its helper daemon stays.
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int((self.folder / "exec/containerd/containerd.pid").read_text()), signal.SIGKILL)
        with Path("/proc/self/mounts").open() as mounts:
            points = [line.split()[1] for line in mounts]
        for point in sorted((point for point in points if point.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


class _Network:
    """A network namespace, in which this thread and all that it starts are meanwhile."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._home = -1

    def __enter__(self) -> None:
        _run("ip", "netns", "add", self._name)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        own = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
        _enter(own)
        os.close(own)
        _run("ip", "link", "set", "lo", "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _enter(self._home)
        os.close(self._home)
        _run("ip", "netns", "delete", self._name)


def _enter(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, env=os.environ | {"PATH": _SEARCH_PATH}, timeout=30)
