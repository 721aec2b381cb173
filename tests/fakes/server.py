# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A server that serves nothing: `python server.py [stubborn] [child] [shy] [shm]`.

It exits with code N on SIGRTMIN+N, and says "said" on SIGUSR1. `stubborn`: takes no notice of SIGTERM. `child`: has a
stubborn child; `shy`: the child is in a session of its own. `shm`: has a file of its own in /dev/shm mapped,
and its child has it open. Says "ready" once all this holds.
"""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

_CHILD = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child', flush=True); time.sleep(600)"
)


def main() -> None:
    options = sys.argv[1:]
    # Waited for, not handled: of two that come close together, that with the lower number is first.
    signals = {signal.SIGUSR1, signal.SIGTERM, *(signal.SIGRTMIN + code for code in range(8))}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    passed = []
    if "shm" in options:
        path = Path(f"/dev/shm/psm_{os.getpid():08x}")
        with path.open("w+b") as file:
            file.truncate(4096)
            memory = mmap.mmap(file.fileno(), 4096)  # noqa: F841 - only its being mapped matters
            passed.append(os.dup(file.fileno()))
        print(f"shm {path}", flush=True)
    if "child" in options:
        command = [sys.executable, "-c", _CHILD]
        child = subprocess.Popen(command, start_new_session="shy" in options, pass_fds=passed)
        print(f"child {child.pid}", flush=True)
    for fd in passed:
        os.close(fd)
    print("ready", flush=True)
    while True:
        number = signal.sigwait(signals)
        if number == signal.SIGUSR1:
            print("said", flush=True)
        elif number >= signal.SIGRTMIN:
            os._exit(number - signal.SIGRTMIN)
        elif "stubborn" not in options:
            sys.exit(0)


if __name__ == "__main__":
    main()
