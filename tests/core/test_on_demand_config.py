# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of on-demand models, and what these need."""

from typing import Any

import pytest

from syshaxd.core.config import parse
from syshaxd.core.errors import ConfigError
from syshaxd.core.launch.bound import Bound
from syshaxd.core.launch.needs import on_demand_needs
from syshaxd.core.launch.spec import instance_specs

PROCESS: dict[str, Any] = {"role": "gpu", "runtime": "process", "python": "/engine/python"}


def config(*, starts: tuple[str, str], gpus: tuple[Any, Any] = ([0], [0]), runtime: str = "process") -> dict[str, Any]:
    services = {
        name: PROCESS | {"model": f"m-{name}", "port": port, "gpus": its, "runtime": runtime}
        for name, port, its in zip("ab", (1, 2), gpus, strict=True)
    }
    services = {name: {key: it for key, it in its.items() if it is not None} for name, its in services.items()}
    models = {f"m-{name}": {"path": "/m", "start": start} for name, start in zip("ab", starts, strict=True)}
    return {"services": services, "models": models}


def faults(given: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(given)
    return [fault.key for fault in caught.value.faults]


def test_on_demand_models_may_name_the_same_gpu() -> None:
    parsed = parse(config(starts=("on-demand", "on-demand")))
    needs, capacity = on_demand_needs(parsed, Bound(specs=instance_specs(parsed)))
    assert needs == {"m-a": {"GPU 0": 0.9}, "m-b": {"GPU 0": 0.9}}
    assert capacity == {"GPU 0": 1.0}


def test_a_gpu_of_what_always_runs_is_promised() -> None:
    assert faults(config(starts=("always", "on-demand"))) == ["services.b.gpus"]
    assert faults(config(starts=("on-demand", "always"))) == ["services.b.gpus"]


def test_an_instance_that_names_no_gpu_may_be_on_any() -> None:
    parsed = parse(config(starts=("on-demand", "on-demand"), gpus=([1], None)))
    needs, _ = on_demand_needs(parsed, Bound(specs=instance_specs(parsed)))
    assert needs == {"m-a": {"GPU 1": 0.9}, "m-b": {"GPU": 0.9, "GPU 1": 0.9}}


def test_what_syshaxd_does_not_start_is_not_on_demand() -> None:
    given = config(starts=("on-demand", "always"), gpus=(None, None), runtime="external")
    assert faults(given) == ["models.m-a.start"]
