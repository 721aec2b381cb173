# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl numa`: plans and checks for other hosts and this one, and what a daemon says of its instances."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from syshaxd.cli.numa import numa
from syshaxd.cli.syshaxctl import main
from syshaxd.control import ControlServer
from syshaxd.core.config import Config
from syshaxd.core.launch.bound import Host
from syshaxd.core.launch.gpu_binding import HostGpus
from syshaxd.core.loads import GpuLoad
from syshaxd.core.numa import Accelerator, AcceleratorKind, BindingSettings, Dialect, Fault, Rule, Unverified
from syshaxd.system.configfile import load
from tests.core.topologies import KUNPENG, KUNPENG_LSCPU
from tests.fakes.control import operations_of
from tests.fakes.engine import DRIFT, GIB, FakeEngine, seen


@pytest.fixture
def server(tmp_path: Path) -> str:
    path = tmp_path / "lscpu.txt"
    path.write_text(KUNPENG_LSCPU)
    return str(path)


def plan(*words: str) -> Result:
    return CliRunner().invoke(numa, ["plan", *words])


def check(*words: str) -> Result:
    return CliRunner().invoke(numa, ["check", *words])


def test_the_whole_server(server: str) -> None:
    done = plan(server)
    assert done.exit_code == 0
    assert "OMP_NUM_THREADS=160\n" in done.output
    assert "CUSTOM_CPU_AFFINITY=0-159\n" in done.output


def test_reserved_cores_are_left_out(server: str) -> None:
    told = json.loads(plan(server, "--reserve", "gpu=4", "-o", "json").output)
    assert told["env"]["OMP_NUM_THREADS"] == "156"
    assert len(told["reserved"]["gpu"].split(",")) == 4


def test_stock_vllm_gets_a_group_a_rank(server: str) -> None:
    assert "VLLM_CPU_OMP_THREADS_BIND=0-38|40-78|80-118|120-158" in plan(server, "--stock", "--ranks", "4").output


def test_this_host() -> None:
    assert plan().exit_code == 0


def test_gpus_and_cores_near_to_them(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    addresses = [f"0000:{number:02x}:00.0" for number in range(4)]
    loads = tuple(
        GpuLoad(
            index=at, name="H100", uuid="", busy_ratio=0.0, memory_used_bytes=0, memory_total_bytes=1, address=address
        )
        for at, address in enumerate(addresses)
    )
    devices = tuple(
        Accelerator(kind=AcceleratorKind.GPU, address=address, vendor="NVIDIA", node=1 + at // 2)
        for at, address in enumerate(addresses)
    )
    where = Host(topology=replace(KUNPENG, accelerators=devices))
    monkeypatch.setattr("syshaxd.instances.binder.this_host", lambda: where)
    monkeypatch.setattr("syshaxd.cli.numa.host_gpus", lambda: HostGpus(gpus=loads))
    told = plan("--gpus", "a=1", "--gpus", "b=2", "--reserve", "a=2", "--reserve", "b=2").output
    assert told.splitlines()[:4] == [
        "# a: GPUs 2 on node 2",
        "# b: GPUs 0,1 on node 1",
        "# a: CPUs 118-119",
        "# b: CPUs 78-79",
    ]
    assert "too few GPUs for b: this host has 4 that are whole" in plan("--gpus", "a=1", "--gpus", "b=5").output
    assert "--gpus plans for this host" in plan(server, "--gpus", "a=1").output


def test_what_can_not_be(server: str) -> None:
    done = plan(server, "--threads", "161")
    assert done.exit_code == 1
    assert "161 threads can't be shared out evenly" in done.output


def test_an_odd_reservation(server: str) -> None:
    assert plan(server, "--reserve", "gpu").exit_code == 2


def test_a_variable_that_is_nearly_right_is_not_passed_over(server: str) -> None:
    done = check("--host", server, "INFERENCE_OP_MODE=fused", "OMP_NUM_THREAD=159", "CUSTOM_CPU_AFFINITY=0-159")
    assert done.exit_code == 2
    assert "unknown key OMP_NUM_THREAD; did you mean OMP_NUM_THREADS?" in " ".join(done.output.split())
    assert check("--host", server, "HF_TOKEN=x", "VLLM_CPU_OMP_THREADS_BIND=0-39").exit_code == 0


def test_a_check_of_nothing_says_what_to_give() -> None:
    done = check()
    assert done.exit_code == 2
    assert "KEY=VALUE, such as CUSTOM_CPU_AFFINITY=0-159, or --for INSTANCE" in " ".join(done.output.split())


# Written down.

CONFIG = """\
# Ours.
services:
  gpu:
    runtime: process
    python: /venv/bin/python
  cpu:
    runtime: process
    python: /venv/bin/python  # of the image
    cores: 0-3
    env:
      # an expert set this
      NRC: 4
      VLLM_CPU_NUM_OF_RESERVED_CPU: 2
models:
  path: /models/none
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def applied(server: str, config: Path, *words: str) -> Config:
    done = plan(server, "--apply", "--config", str(config), *words)
    assert done.exit_code == 0, done.output
    return load(config)


def test_a_plan_is_written_into_the_configuration_with_its_comments_kept(server: str, config: Path) -> None:
    written = applied(server, config, "--threads", "144", "--reserve", "gpu=4").services
    assert written.gpu.cores == "39,79,119,159"
    assert written.cpu.cores == "0-35,40-75,80-115,120-155"
    assert written.cpu.env == {
        "NRC": 4,
        "INFERENCE_OP_MODE": "fused",
        "OMP_NUM_THREADS": 144,
        "CUSTOM_CPU_AFFINITY": "0-35,40-75,80-115,120-155",
    }
    for comment in ("# Ours.", "# of the image", "# an expert set this"):
        assert comment in config.read_text()


def test_what_changes_is_told_and_how_it_is_applied(server: str, config: Path) -> None:
    done = plan(server, "--apply", "--config", str(config), "--threads", "4")
    assert "services.cpu.env.OMP_NUM_THREADS 4\n" in done.stdout
    assert "services.cpu.env.VLLM_CPU_NUM_OF_RESERVED_CPU is unset\n" in done.stdout
    assert "is changed; `syshaxctl reload` applies it" in done.stderr
    again = plan(server, "--apply", "--config", str(config), "--threads", "4", "-o", "json")
    assert json.loads(again.stdout) == {}
    assert "unchanged" in again.stderr


def test_another_plan_replaces_the_first(server: str, config: Path) -> None:
    applied(server, config, "--threads", "4")
    written = applied(server, config, "--stock", "--ranks", "4").services.cpu
    assert written.env == {
        "NRC": 4,
        "VLLM_CPU_OMP_THREADS_BIND": "0-38|40-78|80-118|120-158",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": 4,
    }
    assert written.args == {"tensor-parallel-size": 4}
    assert applied(server, config).services.cpu == written, "it speaks vLLM's own dialect, with as many ranks"


def test_cores_of_other_instances_are_left_to_them(server: str, config: Path) -> None:
    config.write_text(CONFIG.replace("  gpu:\n", "  gpu:\n    cores: 0-39\n"))
    assert applied(server, config).services.cpu.cores == "40-159"


@pytest.mark.parametrize(
    ("old", "new", "words", "message"),
    [
        ("    runtime: process", "    runtime: external", (), "services.cpu.runtime: `external`"),
        ("", "", ("--instance", "npu"), "services.npu: no such instance is enabled; available: gpu, cpu"),
        ("", "", ("--threads", "161"), "services.cpu.cores: 161 threads can't be shared out evenly"),
        ("path: /models/none", "path: [", (), "config.yaml:\n  line 16"),
    ],
)
def test_what_can_not_be_applied_leaves_the_file_as_it_is(
    server: str, config: Path, old: str, new: str, words: tuple[str, ...], message: str
) -> None:
    config.write_text(CONFIG.replace(old, new))
    before = config.read_text()
    done = plan(server, "--apply", "--config", str(config), *words)
    assert done.exit_code == 1
    assert message in done.output
    assert config.read_text() == before


def test_only_instances_have_cores_in_the_configuration(server: str, config: Path) -> None:
    assert plan(server, "--apply", "--config", str(config), "--reserve", "daemon=1").exit_code == 2


# Checked.

RIGHT = ("INFERENCE_OP_MODE=fused", "OMP_NUM_THREADS=160", "CUSTOM_CPU_AFFINITY=0-159")


def test_the_documented_binding_is_good(server: str) -> None:
    done = check("--host", server, *RIGHT)
    assert (done.exit_code, done.output) == (0, "good\n")


def test_all_faults_come_at_once_with_what_would_be_right(server: str) -> None:
    done = check("--host", server, "--taken", "gpu=36-39", RIGHT[0], "OMP_NUM_THREADS=61", "CUSTOM_CPU_AFFINITY=0-59")
    assert done.exit_code == 1
    assert [line.split("]")[0] for line in done.output.splitlines() if line.startswith("[")] == [
        *("[threads", "[balance", "[overlap", "[node-order"),
    ]
    assert "(advice)" in done.output
    changes = done.output.partition("a valid binding:\n")[2].split()
    proposed = {word.partition("=")[0]: word for word in (RIGHT[0], *changes)}
    assert check("--host", server, "--taken", "gpu=36-39", *proposed.values()).exit_code == 0


def test_what_a_plan_prints_can_be_checked(server: str) -> None:
    printed = plan(server, "--stock", "--ranks", "4").output.split()
    assert check("--host", server, *printed).output == "good\n"


def test_faults_as_json(server: str) -> None:
    told = json.loads(check("--host", server, "OMP_NUM_THREADS=2", "cpuset_cpus=200", "-o", "json").output)
    assert told["faults"][0].keys() == {"rule", "part", "detail", "blocking"}
    assert told["proposal"]["cpuset_cpus"]


def test_the_size_of_a_model_counts(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.touch()
    os.truncate(weights, 2**43)
    done = check("--model", str(tmp_path))
    assert done.exit_code == 1
    assert "[memory] node 0: weights and KV cache need" in done.output


@pytest.mark.parametrize(
    "words",
    [
        ("OMP_NUM_THREADS",),
        ("=4",),
        ("tensor-parallel-size=0",),
        ("--taken", "gpu"),
        ("--taken", "gpu=x"),
        ("--for", "cpu", "--taken", "gpu=0"),
    ],
)
def test_odd_words(words: tuple[str, ...]) -> None:
    assert check(*words).exit_code == 2


# Asked of the daemon.


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine()
    server = ControlServer(operations_of(engine), tmp_path / "run/admin.sock")
    await server.start()
    yield engine
    await server.stop()


async def syshaxctl(tmp_path: Path, *words: str) -> Result:
    """On a thread: the daemon serves meanwhile."""
    words = ("--socket", str(tmp_path / "run/admin.sock"), *words)
    return await asyncio.to_thread(CliRunner().invoke, main, words)


async def test_a_running_instance_is_verified(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seen = {"gpu": Unverified("not running: STOPPED"), "cpu": seen()}
    done = await syshaxctl(tmp_path, "numa", "verify")
    assert done.exit_code == 0
    assert "gpu: not checked: not running: STOPPED" in done.output
    (row,) = [line.split() for line in done.output.splitlines() if line.startswith("cpu ")]
    assert " ".join(row) == "cpu 40 of 40 90 0 0: 3072 MiB, 1: 1024 MiB 1024 MiB (25%)"
    assert (await syshaxctl(tmp_path, "numa", "verify", "gpu")).exit_code == 1


async def test_a_drift_is_told_and_is_an_error(engine: FakeEngine, tmp_path: Path) -> None:
    engine.seen = {"cpu": seen(DRIFT)}
    done = await syshaxctl(tmp_path, "numa", "verify", "cpu")
    assert done.exit_code == 1
    assert f"cpu: {DRIFT}" in " ".join(done.output.split())
    told = json.loads((await syshaxctl(tmp_path, "numa", "verify", "-o", "json")).output)
    assert told["cpu"]["drifts"][0]["kind"] == "thread-outside"
    assert told["cpu"]["memory_bytes"] == {"0": 3 * GIB, "1": GIB}


async def test_the_daemon_checks_for_an_instance(engine: FakeEngine, tmp_path: Path) -> None:
    engine.faults = (Fault(rule=Rule.SMT, part="cores: CPU 1", detail="why"),)
    done = await syshaxctl(tmp_path, "numa", "check", "--for", "cpu")
    assert done.exit_code == 1
    assert done.output == "[smt] cores: CPU 1: why\nno valid binding exists here\n"
    engine.faults = ()
    assert (await syshaxctl(tmp_path, "numa", "check", "--for", "cpu", "cpuset_cpus=0")).output == "good\n"
    assert [name and settings for name, settings in engine.checked] == [
        None,
        BindingSettings(dialect=Dialect.STOCK, cpuset_cpus="0"),
    ]


async def test_the_topology_is_the_daemons(engine: FakeEngine, tmp_path: Path) -> None:
    drawn = (await syshaxctl(tmp_path, "topology")).output
    assert "160 CPUs, 160 cores, 4 NUMA nodes" in drawn
    assert "0 cccccccc" in drawn
