# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The parts that need PyTorch and vLLM, in vLLM's own environment."""

import os
import subprocess
from pathlib import Path

import pytest

import syshax_connector
from syshax_embedded.engine import engine_python

pytestmark = pytest.mark.timeout(300)


def test_caches_are_read_and_written_as_vllm_does_and_unknown_ones_are_refused() -> None:
    script = Path(__file__).with_name("in_engine.py")
    paths = {"PYTHONPATH": str(Path(syshax_connector.__file__).parents[1])}
    done = subprocess.run([engine_python(), script], env=os.environ | paths, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    assert "read and written: vec torch.bfloat16 128 64" in done.stdout
    assert done.stdout.endswith("all is well\n")
