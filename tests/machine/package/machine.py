# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A booted machine: systemd as PID 1 over a copy-on-write view of the root file system that `setup.sh` has made."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.fakes.waiting import until

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
BED = ROOT / "build/machine/package"
_BOOT_TIMEOUT_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Machine:
    """From `with` to its end, after which nothing of it is left: no process, mount or file."""

    def __init__(self, network: str, *, mounts: Mapping[Path, str]) -> None:
        """Does no I/O yet.

        Args:
            network: Network namespace that it shares.
            mounts: Files of this host, and where they are in the machine.
        """
        self._network = network
        self._mounts = mounts
        self.name = f"syshax-package-{os.getpid()}"
        self.folder = BED / self.name
        self.root = self.folder / "root"
        self.log = self.folder / "console.log"
        self._stack = ExitStack()
        self._init_pid = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in ("root", "upper", "work"):
                (self.folder / name).mkdir(parents=True)
            stack.callback(shutil.rmtree, self.folder)
            layers = f"lowerdir={BED}/root,upperdir={self.folder}/upper,workdir={self.folder}/work"
            _host("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
            stack.callback(_host, "umount", str(self.root))
            boot = [
                *("systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}", "--boot"),
                *("--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
                *(f"--network-namespace-path=/run/netns/{self._network}", f"--bind-ro={ROOT}:/repo", "--console=pipe"),
                *(f"--bind={source}:{target}" for source, target in self._mounts.items()),
            ]
            with self.log.open("wb") as log:
                container = subprocess.Popen(
                    boot, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            stack.callback(_end, container)
            self._init_pid = self.until("the machine has a PID 1", lambda: _init_pid(container), _BOOT_TIMEOUT_S)
            self.until("the machine has booted", self._has_booted, _BOOT_TIMEOUT_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def command(self, *words: str) -> list[str]:
        """What runs a command in the machine, for `subprocess`."""
        return ["nsenter", "-t", str(self._init_pid), "-a", "--", "env", "-i", f"PATH={_PATH}", "HOME=/root", *words]

    def try_run(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Runs a command in the machine."""
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def run(self, *words: str, timeout_s: float = 120.0) -> str:
        """Runs a command in the machine that must succeed. Returns its output."""
        done = self.try_run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def until(self, what: str, probe: Callable[[], T], timeout_s: float = 20.0) -> T:
        """Waits for a probe to become true. Returns what it found."""
        return until(probe, timeout_s, lambda: f"{what}\n{self.log.read_text()[-2000:]}")

    def _has_booted(self) -> bool:
        return self.try_run("timeout", "5", "systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}


def _init_pid(container: subprocess.Popen[bytes]) -> int:
    """The process that is PID 1 in the machine; 0: not yet."""
    assert container.poll() is None, "systemd-nspawn has ended: its console.log tells why"
    for child in Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split():
        with suppress(FileNotFoundError):  # a first child only prepares, and ends
            status = Path(f"/proc/{child}/status").read_text()
            if re.search(r"^NSpid:.*\s1$", status, re.MULTILINE):
                return int(child)
    return 0


def _end(container: subprocess.Popen[bytes]) -> None:
    """Powers off; what does not is killed, and with its PID 1 everything in it."""
    child = 0 if container.poll() is not None else _init_pid(container)
    container.send_signal(signal.SIGTERM)
    try:
        container.wait(30)
    except subprocess.TimeoutExpired:
        if child:
            os.kill(child, signal.SIGKILL)
        container.kill()
        container.wait(30)


def _host(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})
