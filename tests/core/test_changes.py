# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.config import Config, parse
from syshaxd.core.config.diff import Changes, changed_keys, changes, is_proven
from syshaxd.core.errors import ConflictError, LaunchFailedError
from syshaxd.core.types import InstanceStatus, State
from tests.fakes.specs import make_spec

OLD = parse({})


def differs(**sections: object) -> Changes:
    return changes(OLD, parse(sections), (), ())


def test_equal_configurations_change_nothing() -> None:
    assert changes(OLD, parse({}), (make_spec("gpu"),), (make_spec("gpu"),)) == Changes()


def test_keys_are_named_in_the_order_of_the_file() -> None:
    done = differs(decider={"gpu_cache_threshold": 0.5}, services={"gpu": {"port": 9, "args": {"x": 1}}})
    assert done.keys == ("services.gpu.port", "services.gpu.args", "decider.gpu_cache_threshold")
    assert not done.needs_restart


def test_what_only_the_start_looks_at_is_named_and_does_not_take_effect() -> None:
    done = differs(services={"conductor": {"port": 9}}, monitor={"interval": 2.0}, control={"socket": "/x"})
    assert done.needs_restart == ("services.conductor.port", "monitor.interval_s", "control.socket")
    assert not done.keys


def test_a_pending_restart_is_named_again_until_it_has_happened() -> None:
    pending = parse({"services": {"conductor": {"port": 9}}})
    assert changes(pending, pending, (), (), started_with=OLD).needs_restart == ("services.conductor.port",)
    assert not changes(pending, OLD, (), (), started_with=OLD).needs_restart


specs = st.dictionaries(st.sampled_from(["gpu", "cpu"]), st.integers(1, 2)).map(
    lambda ports: tuple(make_spec(name, port=port) for name, port in ports.items())
)


@given(specs, specs)
def test_each_instance_is_kept_replaced_added_or_removed(old: tuple, new: tuple) -> None:  # type: ignore[type-arg]
    done = changes(OLD, OLD, old, new)
    before, after = {spec.name: spec for spec in old}, {spec.name: spec for spec in new}
    kept = {name for name in before if before[name] == after.get(name)}
    assert kept | set(done.replaced) | set(done.added) == set(after)
    assert kept | set(done.replaced) | set(done.removed) == set(before)
    assert len(kept) + len(done.replaced) + len(done.added) + len(done.removed) == len({**before, **after})


@given(st.floats(0, 1), st.integers(0, 5))
def test_changed_keys_are_symmetric(threshold: float, size: int) -> None:
    new: Config = parse({"decider": {"gpu_cache_threshold": threshold}, "system": {"max_queue_size": size}})
    assert changed_keys(OLD, new) == changed_keys(new, OLD)
    assert not changed_keys(new, new)


UP = InstanceStatus(spec=make_spec("gpu"), state=State.STARTING, wanted=True, generation=2)


def test_a_new_instance_is_proven_when_it_is_ready() -> None:
    assert not is_proven(UP)
    assert is_proven(replace(UP, state=State.READY))


@pytest.mark.parametrize("state", [State.BACKOFF, State.FAILED])
def test_one_failed_launch_speaks_against_the_change(state: State) -> None:
    with pytest.raises(LaunchFailedError, match="no such file"):
        is_proven(replace(UP, state=state, attempts=1, reason="no such file"))


def test_a_stop_by_somebody_else_ends_the_waiting() -> None:
    with pytest.raises(ConflictError, match="stopped meanwhile"):
        is_proven(replace(UP, state=State.STOPPING, wanted=False))
