# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The daemon's runtimes: what containers need is loaded when there are some."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import asyncio
import sys
from pathlib import Path

import syshaxd.daemon.program
from syshaxd.core.config.schema import DockerConfig
from syshaxd.core.types import RuntimeKind
from syshaxd.daemon.runtimes import Runtimes
from syshaxd.system.sidetasks import SideTasks


async def main() -> None:
    runtimes = Runtimes(
        Path(sys.argv[1]),
        DockerConfig(host=f"unix://{sys.argv[1]}/none.sock"),
        tasks=SideTasks(),
        note=lambda name, generation, text: None,
        reconnected=lambda: None,
    )
    [runtimes[kind] for kind in RuntimeKind if kind.value in sys.argv[2:]]
    await runtimes.end_others([])
    await runtimes.close()
    print("docker" in sys.modules)


asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kinds", "had_containers", "loads"),
    [
        (("external", "process"), False, False),
        (("docker",), False, True),
        ((), True, True),  # a former configuration may have left containers running
    ],
)
def test_the_engine_s_sdk_is_loaded_for_containers_only(
    tmp_path: Path, kinds: tuple[str, ...], had_containers: bool, loads: bool
) -> None:
    if had_containers:
        (tmp_path / "containers").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), *kinds], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{loads}\n", done.stderr
