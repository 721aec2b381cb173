# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from collections.abc import Iterator

import grpc.aio
import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(scope="session", autouse=True)
def _grpc_stays_up() -> Iterator[None]:
    """gRPC ends its poller, which blocks, when its last object is collected: that may be in any later test's loop."""
    grpc.aio.init_grpc_aio()
    yield
    grpc.aio.shutdown_grpc_aio()


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A call that blocks the event loop fails the test, if it comes from our code."""
    with blockbuster_ctx("syshaxd"):
        yield
