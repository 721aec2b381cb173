# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`syshaxctl numa plan`, for the seed's server and for this host."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from syshaxd.cli.numa import numa
from tests.core.topologies import KUNPENG_LSCPU


@pytest.fixture
def server(tmp_path: Path) -> str:
    path = tmp_path / "lscpu.txt"
    path.write_text(KUNPENG_LSCPU)
    return str(path)


def plan(*words: str) -> Result:
    return CliRunner().invoke(numa, ["plan", *words])


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


def test_what_can_not_be(server: str) -> None:
    done = plan(server, "--threads", "161")
    assert done.exit_code == 1
    assert "161 threads can't be shared out evenly" in done.output


def test_an_odd_reservation(server: str) -> None:
    assert plan(server, "--reserve", "gpu").exit_code == 2
