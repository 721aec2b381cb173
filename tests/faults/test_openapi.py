# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""schemathesis on the OpenAPI document: answers are as it says, and what it does not allow is refused."""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.client import Got
from tests.faults.conftest import MakeBed
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(1800)

SEED = os.environ.get("FAULTS_SEED", "7")
_ROOT = Path(__file__).parents[2]
_PROGRAM = _ROOT / "build" / "schemathesis" / "bin" / "schemathesis"


async def test_requests_by_the_openapi_document(make_bed: MakeBed, row: Row, tmp_path: Path) -> None:
    """With a key, in short answers of two simulated instances whose document is vLLM's."""
    assert _PROGRAM.exists(), "schemathesis is missing: run `make schemathesis`"
    bed = await asyncio.to_thread(
        make_bed,
        changes={"gateway": {"metrics_open": True}},  # for the bed's own look
        engine_env={"FAULTS_CONTEXT": "256"},
        step_s=0.0002,
    )
    made = await asyncio.to_thread(bed.ctl, "keys", "create", "fuzz", "--access", "admin")
    report = tmp_path / "report.json"
    argv = [_PROGRAM, "--config-file", Path(__file__).with_name("schemathesis.toml")]
    argv += ["run", f"{bed.url}/openapi.json", "--header", f"Authorization: Bearer {made.stdout.splitlines()[0]}"]
    argv += ["--max-examples", str(sized(20, 200)), "--seed", SEED, "--request-timeout", "60"]
    argv += ["--report", "json", "--report-json-path", report]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, cwd=tmp_path)
    assert report.exists(), done.stdout + done.stderr
    told = json.loads(await asyncio.to_thread(report.read_text))
    cases, operations = told["test_cases"], told["operations"]
    for _ in range(cases["generated"]):
        row.counts.add(Got("ok"))
    row.done = (
        f"schemathesis {told['schemathesis_version']}, with an API key: {cases['generated']:,} requests to "
        f"{operations['tested']} of {operations['total']} operations, {cases['unique_failures']} faults (seed {SEED})"
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    assert operations["tested"] == operations["total"] >= 20
