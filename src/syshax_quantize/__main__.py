# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshax_quantize PLAN FOLDER`: makes the folder. Says on its standard output, a JSON object a line, how far it is.

It ends with whoever started it: when its standard input is closed.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy would take memory for each CPU, for what is not used here

from syshax_quantize.maker import Maker, MakingError

_INTERVAL_S = 0.5
_NICE = 19
_ORPHANED = 3


def main(argv: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(_NICE)
    plan = json.loads(Path(argv[0]).read_bytes())
    told_s = 0.0

    def report(done: int, total: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s >= _INTERVAL_S or done == total:
            told_s = now_s
            _say({"done_bytes": done, "total_bytes": total})

    maker = Maker(plan, Path(argv[1]), threads=len(os.sched_getaffinity(0)), report=report)
    try:
        maker.make(waiting=lambda: _say({"waiting": True}))
    except MakingError as error:
        _say({"error": str(error)})
        return 1
    return 0


def _say(news: Mapping[str, object]) -> None:
    print(json.dumps(news), flush=True)  # noqa: T201


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(_ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
