# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances keep their GPUs across restarts of the daemon."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from syshaxd.cli.syshaxctl import main
from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.gpu_binding import HostGpus
from syshaxd.core.loads import GpuLoad
from syshaxd.instances import binder
from syshaxd.system import configfile, planned_gpus, rundir
from tests.fakes.specs import make_spec

GPUS = tuple(
    GpuLoad(index=at, name="H100", uuid=f"GPU-{at}", busy_ratio=0.0, memory_used_bytes=0, memory_total_bytes=1)
    for at in range(2)
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    return tmp_path


def bound(*names: str, **keys: object) -> dict[str, tuple[str, ...]]:
    common = {"role": "gpu", "runtime": "process", "python": "p", "model": "m", "gpus": "auto", **keys}
    services = {name: common | {"port": 9000 + at} for at, name in enumerate(names)}
    found = binder.bind(parse({"services": services, "models": {"m": {"path": "/m"}}}))
    planned_gpus.write(planned_gpus.default_path(), found.specs)
    return {spec.name: spec.gpus for spec in found.specs}


def test_an_instance_that_stays_keeps_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binder, "host_gpus", lambda: HostGpus(gpus=GPUS))
    assert bound("a", "b") == {"a": ("0",), "b": ("1",)}
    assert bound("b") == {"b": ("1",)}
    assert bound("c", "b") == {"c": ("0",), "b": ("1",)}


def test_faults_of_gpus_and_of_cpus_are_told_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binder, "host_gpus", lambda: HostGpus(gpus=GPUS))
    with pytest.raises(ConfigError) as caught:
        bound("a", "b", "c", cores="4000")
    assert [fault.key for fault in caught.value.faults if "numa" not in fault.key][:2] == [
        "services.c.gpus",
        "services.a",
    ]


def test_a_file_that_cannot_be_read_or_written_stops_nothing(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = planned_gpus.default_path()
    for text in ("", "[]", '{"a": 1}', "\0"):
        path.write_text(text)
        assert planned_gpus.read(path) == {}
        assert "they are planned again" in caplog.text
        caplog.clear()
    planned_gpus.write(path / "no-folder" / "gpus.json", [replace(make_spec(), gpus=("1",))])
    assert "can't be written" in caplog.text


def test_render_by_another_user_shows_what_the_service_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, system = tmp_path / "service", tmp_path / "config.yaml"
    service.mkdir()
    (service / "gpus.json").write_text('{"a": ["1"]}')
    monkeypatch.setattr(rundir, "SERVICE_STATE", service)
    monkeypatch.setattr(configfile, "_SYSTEM_PATH", system)
    monkeypatch.setattr(binder, "host_gpus", lambda: HostGpus(gpus=GPUS))
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    text = "services: {a: {role: gpu, runtime: process, python: p, port: 9000, gpus: 1}}\nmodels: {path: /m}\n"

    def seen_by_a(path: Path) -> str:
        path.write_text(text)
        monkeypatch.delenv("STATE_DIRECTORY", raising=False)  # a process renders once
        shown = CliRunner().invoke(main, ["render", "a", "--config", str(path)], catch_exceptions=False).output
        return shown.partition("CUDA_VISIBLE_DEVICES=")[2][:1]

    assert seen_by_a(tmp_path / "own.yaml") == "0"
    assert seen_by_a(system) == "1"
