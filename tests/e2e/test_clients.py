# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clients that people use, unmodified, against the real daemon and real vLLM."""

import os
import subprocess
from pathlib import Path

import pytest

from syshax_embedded.engine import engine_python
from tests.e2e.conftest import MODEL, Daemon

pytestmark = pytest.mark.timeout(120)
PYTHON = Path(__file__).parents[2] / "build/clients/bin/python"
SCRIPTS = Path(__file__).with_name("client_scripts.py")

BENCHMARK = """
from argparse import ArgumentParser
from vllm.benchmarks.serve import add_cli_args, main
parser = ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`, without the program, which asks for the package's metadata."""


@pytest.mark.parametrize("client", ["openai", "anthropic", "langchain", "litellm"])
def test_a_client_works_unmodified(daemon: Daemon, client: str) -> None:
    if not PYTHON.exists():
        pytest.fail(f"{PYTHON} is missing: `make clients` installs it")
    daemon.wait_ready()
    # It is to ask nobody but the daemon.
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [PYTHON, SCRIPTS, client, daemon.url, MODEL], capture_output=True, text=True, env=os.environ | quiet, timeout=90
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_vllms_own_benchmark_runs(daemon: Daemon, tiny_model: Path) -> None:
    daemon.wait_ready()
    argv = [engine_python(), "-c", BENCHMARK, "--base-url", daemon.url, "--model", MODEL]
    argv += ["--tokenizer", tiny_model, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions"]
    argv += ["--dataset-name", "random", "--random-input-len", "24", "--random-output-len", "8", "--num-prompts", "6"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env=environment, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Successful requests:                     6" in done.stdout, done.stdout[-3000:]
