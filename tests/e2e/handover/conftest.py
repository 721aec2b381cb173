# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Three real vLLM engines of a tiny model that hand KV caches to each other, shared by the tests of this folder."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import syshax_connector
from syshax_embedded.engine import engine_python
from tests.e2e.conftest import get
from tests.e2e.handover.client import Client
from tests.fakes.ports import free_port
from tests.fakes.waiting import until

START_TIMEOUT_S = 200.0
SETTINGS: dict[str, Any] = {"arena_bytes": 48 << 20, "ttl_s": 10, "wait_s": 0.5, "sweep_s": 0.3}
REAPED_WITHIN_S = 10 + 3 * 0.3 + 5
"""After what time at the latest nothing abandoned is left, with some reserve for a busy machine."""
_PREFIX = "vllm:syshax_handover_"
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TORCHDYNAMO_DISABLE": "1",  # nothing is compiled with the first requests
}
_LOGS = pytest.StashKey[list[Path]]()


@dataclass
class Engine(Client):
    """A running vLLM server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    family: list[psutil.Process] = field(default_factory=list)

    def is_up(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"engine {self.name} ended with {self.process.returncode}: {self.log.read_text()[-3000:]}")
        return get(f"{self.url}/health")[0] == 200

    def results(self) -> dict[str, float]:
        """How many saves and loads ended how: `load recomputed missing`."""
        self.complete([1], 1)  # an idle engine tells nothing
        return {
            " ".join(
                filter(None, (sample.labels["op"], sample.labels["result"], sample.labels["reason"]))
            ): sample.value
            for sample in self.samples(f"{_PREFIX}results_total")
        }

    def gauge(self, name: str) -> float:
        self.complete([1], 1)
        (sample,) = self.samples(_PREFIX + name)
        return sample.value

    def kill(self) -> None:
        """As the kernel does when memory runs out: all of its processes, at once."""
        for process in [*(server := psutil.Process(self.process.pid)).children(recursive=True), server]:
            process.send_signal(signal.SIGKILL)
        self.process.wait()


@dataclass
class Engines:
    """`a`: block 32, chunked prefill, checksums, long waits. `b`: block 128, whole prompts. `c`: two workers."""

    a: Engine
    b: Engine
    c: Engine
    folder: Path

    def handovers(self) -> list[Path]:
        return sorted(self.folder.glob("*.kv"))

    def arenas(self) -> list[Path]:
        return sorted(self.folder.glob("*.arena"))


def _start(
    name: str, model: Path, folder: Path, logs: Path, cores: list[int], arguments: list[str], **extra: Any
) -> Engine:
    port = free_port()
    transfer = {
        "kv_connector": "SyshaxConnector",
        "kv_connector_module_path": "syshax_connector.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "engine_id": name,
        "kv_connector_extra_config": SETTINGS | {"arena_dir": str(folder)} | extra,
    }
    command = [str(engine_python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "4096", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(96 << 20)]
    # Without a time to stop in, vLLM kills its own engine, and what it leaves stays until the next sweep.
    command += [
        "--shutdown-timeout",
        "10",
        "--enforce-eager",
        "--enable-prompt-tokens-details",
        "--kv-transfer-config",
        json.dumps(transfer),
    ]
    # The connector from a bare folder, as the daemon delivers it.
    bare = logs / "bare"
    bare.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (bare / "syshax_connector").symlink_to(Path(syshax_connector.__file__).parent)
    environment = os.environ | _ENVIRONMENT | {"PYTHONPATH": str(bare), "TMPDIR": str(logs)}
    if "--tensor-parallel-size" in arguments:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, cores))
    else:
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        command = ["taskset", "-c", str(cores[0]), *command, "--distributed-executor-backend", "uni"]
    log = logs / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT)
    return Engine(f"http://127.0.0.1:{port}", name, port, process, log)


@pytest.fixture(scope="package")
def engines(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Engines]:
    """Engines that are up. Afterwards no process and no file of theirs may be left."""
    logs = tmp_path_factory.mktemp("h")
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="syshax-test-") as holder:
        folder = Path(holder) / "arena"
        parallel = ["--tensor-parallel-size", "2", "--distributed-executor-backend", "mp", "--block-size", "64"]
        whole = ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096", "--block-size", "128"]
        chunked = ["--block-size", "32", "--max-num-batched-tokens", "256"]
        running = Engines(
            _start("a", tiny_model, folder, logs, [cores[0]], chunked, payload_checksum=True, wait_s=3),
            _start("b", tiny_model, folder, logs, [cores[-1]], whole),
            _start("c", tiny_model, folder, logs, [cores[0], cores[-1]], parallel),
            folder,
        )
        all_ = [running.a, running.b, running.c]
        request.session.stash[_LOGS] = [engine.log for engine in all_]
        try:
            for engine in all_:
                until(engine.is_up, START_TIMEOUT_S, f"engine {engine.name} is up")
                engine.family = psutil.Process(engine.process.pid).children(recursive=True)
            until(lambda: len(running.arenas()) == 4, 20, "each rank has its arena")
            yield running
            for engine in all_:
                engine.process.terminate()
            for engine in all_:
                engine.process.wait(60)
            until(lambda: not any(process.is_running() for process in running.c.family), 20, "all workers have ended")
            assert not list(folder.iterdir()), "a file is left"
        finally:
            for engine in all_:
                for process in engine.family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                engine.process.kill()
                engine.process.wait()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the engines said."""
    report = yield
    if report.failed:
        for log in item.session.stash.get(_LOGS, []):
            report.sections.append((f"log of engine {log.stem}", log.read_bytes()[-4000:].decode(errors="replace")))
    return report
