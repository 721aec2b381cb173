# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A server that serves nothing: `python server.py [stubborn] [child] [shy]`.

It exits with code N on SIGRTMIN+N, and says "said" on SIGUSR1. `stubborn`: takes no notice of SIGTERM. `child`: has a
stubborn child; `shy`: the child is in a session of its own. Says "ready" once all this holds.
"""

import os
import signal
import subprocess
import sys
import time

_CHILD = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('child', flush=True); time.sleep(600)"
)


def main() -> None:
    options = sys.argv[1:]
    for code in range(8):
        signal.signal(signal.SIGRTMIN + code, lambda number, _: os._exit(number - signal.SIGRTMIN))
    signal.signal(signal.SIGUSR1, lambda *_: print("said", flush=True))
    if "stubborn" in options:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if "child" in options:
        child = subprocess.Popen([sys.executable, "-c", _CHILD], start_new_session="shy" in options)
        print(f"child {child.pid}", flush=True)
    print("ready", flush=True)
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main()
