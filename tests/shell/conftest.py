# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import signal
from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest
from blockbuster import blockbuster_ctx

from tests.fakes.gateway import MakeStand, stands


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays_up() -> Iterator[None]:
    """gRPC ends its poller, which blocks, when its last object is collected: that may be in any later test's loop."""
    grpc.aio.init_grpc_aio()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(scope="session", autouse=True)
def _programs_hear_ctrl_c() -> Iterator[None]:
    """A shell's background job ignores SIGINT, and so would every program that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A call that blocks the event loop fails the test, if it comes from our code."""
    with blockbuster_ctx("syshaxd"):
        yield


@pytest.fixture
async def make_stand() -> AsyncIterator[MakeStand]:
    """Makes gateways in front of fake instances."""
    async with stands() as make:
        yield make
