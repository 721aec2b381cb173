# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshax_quantize FOLDER` makes the folder from the plan on its standard input, one line of JSON.

It writes its progress to standard output, one JSON object per line. It ends when its standard input is closed, because
then the process that started it is gone.
"""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else NumPy allocates memory for each CPU, which nothing here uses

from syshax_quantize.maker import Maker, MakingError
from syshax_quantize.orphaned import end_when_orphaned

_INTERVAL_S = 0.5
_NICE = 19
_MOST_THREADS = 16
"""Each needs memory, and no disk is faster than this many."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    plan = json.loads(sys.stdin.buffer.readline())
    end_when_orphaned()
    os.nice(_NICE)
    if plan["cores"]:
        with suppress(OSError):  # these CPUs no longer exist, or are not allowed: any others do
            os.sched_setaffinity(0, plan["cores"])
    told_s = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= _INTERVAL_S or done == total:
            told_s = now_s
            _say({"done_bytes": done, "total_bytes": total})

    threads = min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    maker = Maker(plan, Path(argv[0]), threads=threads, report=report)
    try:
        maker.make(waiting=lambda: _say({"waiting": True}))
    except MakingError as error:
        _say({"error": str(error)})
        return 1
    return 0


def _say(news: Mapping[str, object]) -> None:
    print(json.dumps(news), flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
