# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""In which order changed instances are exchanged."""

from dataclasses import replace

import pytest

from syshaxd.core.config.rounds import mixed, rounds
from syshaxd.core.types import InstanceSpec
from tests.fakes.specs import make_spec


def spec(name: str, model: str, port: int, **changes: object) -> InstanceSpec:
    return replace(make_spec("gpu", port=port), name=name, served_model=model, **changes)  # type: ignore[arg-type]


BEFORE = [
    spec("a-0", "a", 1, gpus=("0",)),
    spec("a-1", "a", 2, gpus=("1",)),
    spec("b", "b", 3, cores=(4, 5)),
    spec("a-2", "a", 4, gpus=("2",)),
]


def changed(**specs: dict[str, object]) -> list[InstanceSpec]:
    names = {name.replace("_", "-"): changes for name, changes in specs.items()}
    return [replace(each, **names.get(each.name, {"argv": ("new",)})) for each in BEFORE]  # type: ignore[arg-type]


def test_of_each_model_one_at_a_time_is_exchanged() -> None:
    names = ["a-0", "a-1", "b", "a-2"]
    assert rounds(BEFORE, changed(), names) == [("a-0", "b"), ("a-1",), ("a-2",)]
    assert rounds(BEFORE, changed(), ["a-1"]) == [("a-1",)]
    assert rounds(BEFORE, changed(), []) == []


@pytest.mark.parametrize("changes", [{"port": 2}, {"gpus": ("0", "1")}, {"cores": (3, 4)}, {"depends_on": "b"}])
def test_what_needs_anothers_place_is_exchanged_with_all(changes: dict[str, object]) -> None:
    names = ["a-0", "a-1", "b", "a-2"]
    assert rounds(BEFORE, changed(a_0=changes), names) == [tuple(names)]


def test_what_two_share_already_does_not_bind_them() -> None:
    before = [spec("x", "a", 1, gpus=("0",)), spec("y", "a", 2, gpus=("0",))]
    after = [replace(each, argv=("new",)) for each in before]
    assert rounds(before, after, ["x", "y"]) == [("x",), ("y",)]


def test_between_rounds_some_have_their_new_settings() -> None:
    after = changed()
    assert mixed(BEFORE, after, ["a-0"]) == [after[0], *BEFORE[1:]]
