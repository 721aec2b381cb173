# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One container engine for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.docker.bed import Bed


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    with Bed(Path(__file__).parents[3] / "build" / "machine" / "docker") as bed:
        yield bed


@pytest.fixture(autouse=True)
def _no_container_is_left(bed: Bed) -> Iterator[None]:
    yield
    left = bed.docker("ps", "--all", "--quiet").split()
    if left:
        bed.docker("rm", "--force", "--volumes", *left)
