# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which models CPUs answer alone."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.lifecycle.carried import carried_models
from syshaxd.core.types import InstanceSpec, Role
from tests.fakes.specs import make_spec


def spec(number: int, model: str, role: Role) -> InstanceSpec:
    return replace(make_spec(role), name=f"{model}-{role}-{number}", served_model=model)


every_spec = st.builds(spec, st.integers(0, 3), st.sampled_from("abc"), st.sampled_from(Role))
fleets = st.lists(st.tuples(every_spec, st.booleans()), unique_by=lambda pair: pair[0].name)


@given(fleets)
def test_a_model_is_carried_if_and_only_if_all_its_gpus_are_away_and_a_cpu_is_there(
    fleet: list[tuple[InstanceSpec, bool]],
) -> None:
    specs = [each for each, _ in fleet]
    found = carried_models(specs, [each for each, is_ready in fleet if is_ready])
    for model in "abc":
        gpus = {each.name: is_ready for each, is_ready in fleet if (each.served_model, each.role) == (model, Role.GPU)}
        cpus = [each.name for each, is_ready in fleet if is_ready and (each.served_model, each.role) == (model, "cpu")]
        if gpus and cpus and not any(gpus.values()):
            assert found[model].instead_of == tuple(gpus)
            assert found[model].by == tuple(cpus)
        else:
            assert model not in found


def test_it_is_told_in_a_sentence() -> None:
    one, two, cpu = spec(0, "a", Role.GPU), spec(1, "a", Role.GPU), spec(0, "a", Role.CPU)
    assert str(carried_models([one, cpu], [cpu])["a"]) == "a-cpu-0 alone, as a-gpu-0 takes no requests"
    assert str(carried_models([one, two, cpu], [cpu])["a"]) == "a-cpu-0 alone, as a-gpu-0, a-gpu-1 take no requests"
