# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""runc for a root that may not do everything itself: what it can't grant is left out of the container's bundle.

The engine still shows what was asked for. Where root has CAP_SYS_RESOURCE, nothing is changed.
"""

import json
import os
import sys
from pathlib import Path

_WITHHELD = "CAP_SYS_RESOURCE"
_BIT = 24


def main() -> None:
    status = Path("/proc/self/status").read_text()
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    if not effective >> _BIT & 1:
        if bundle := _option("--bundle"):  # a new container
            _limit(Path(bundle, "config.json"), "process")
        if process := _option("--process"):  # one more process in it
            _limit(Path(process))
    os.execvp("runc", ["runc", *sys.argv[1:]])


def _option(name: str) -> str:
    return next((sys.argv[i + 1] for i, word in enumerate(sys.argv[:-1]) if word == name), "")


def _limit(path: Path, key: str | None = None) -> None:
    config = json.loads(path.read_text())
    process = config[key] if key else config
    process.pop("rlimits", None)
    for names in process.get("capabilities", {}).values():
        names[:] = [name for name in names if name != _WITHHELD]
    path.write_text(json.dumps(config))


main()
