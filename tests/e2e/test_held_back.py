# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What vLLM holds back of a stream is made again wherever that moves: by its own code, without servers.

So a vLLM that holds back otherwise is noticed.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from syshax_embedded.engine import engine_python

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "in_engine" / "held_back.py"


@pytest.mark.timeout(240)
def test_streams_move_wherever_vllm_holds_text_back(tiny_model: Path) -> None:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    done = subprocess.run(
        [engine_python(), SCRIPT, tiny_model],
        env=os.environ | {"PYTHONPATH": path, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["differ"] == []
    assert found["streams"] == 240
    assert found["moves"] > 240
    assert found["calls"] > 60
    assert found["thoughts"] > 60
