# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import errno
import os
import resource
from collections.abc import Iterator
from contextlib import suppress

import pytest

from syshaxd.system import descriptors


@pytest.fixture
def low_limit() -> Iterator[None]:
    """The soft limit is a little over what is open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 400, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_clients_leave_a_reserve(low_limit: None) -> None:
    assert 0 < descriptors.reserve() < descriptors.limit()
    assert not descriptors.is_short()
    held: list[int] = []
    try:
        while not descriptors.is_short():
            held.append(os.dup(2))
        spare = [os.dup(2) for _ in range(descriptors.reserve() - 2)]  # there is a reserve
        held += spare
        assert descriptors.is_short()
    finally:
        for number in held:
            os.close(number)
    assert not descriptors.is_short()


def test_none_at_all_is_short_too(low_limit: None) -> None:
    held: list[int] = []
    try:
        for _ in range(descriptors.limit()):
            with suppress(OSError):
                held.append(os.dup(2))
        assert descriptors.is_short()
        with pytest.raises(OSError, match="Too many open files") as caught:
            os.dup(2)
        assert descriptors.is_own_shortage(caught.value)
    finally:
        for number in held:
            os.close(number)


def test_the_limit_is_raised_to_the_hard_one(low_limit: None, caplog: pytest.LogCaptureFixture) -> None:
    descriptors.raise_limit()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard == descriptors.limit()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_our_own_shortage_is_found_under_what_it_led_to(code: int) -> None:
    error = RuntimeError("the instance could not be reached")
    error.__cause__ = OSError(code, os.strerror(code))
    assert descriptors.is_own_shortage(error)
    assert descriptors.is_own_shortage(ExceptionGroup("several", [ValueError(), OSError(code, "")]))


def test_a_thread_that_cannot_be_started_is_our_own_shortage() -> None:
    assert descriptors.is_own_shortage(RuntimeError("can't start new thread"))
    assert not descriptors.is_own_shortage(RuntimeError("cannot schedule new futures after shutdown"))


def test_the_others_fault_is_not_ours() -> None:
    assert not descriptors.is_own_shortage(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not descriptors.is_own_shortage(TimeoutError())
