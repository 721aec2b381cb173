# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One daemon for all scenarios that leave it as it was; a table of what became of each."""

import os
import resource
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.bed import Bed
from tests.faults.report import Row, sized, write

_ROOT = Path(__file__).parents[2]
_ROWS = pytest.StashKey[list[Row]]()
_BEGAN = pytest.StashKey[float]()
_BED = pytest.StashKey[Bed]()
# The allocator keeps part of what thousands of connections at once have taken; as many again take no more.
_MEMORY_MB = sized(48, 96)

MakeBed = Callable[..., Bed]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    config.stash[_BEGAN] = time.monotonic()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = [row for row in config.stash.get(_ROWS, []) if row.done]
    if not rows:
        return
    path = Path(os.environ.get("FAULTS_TABLE") or _ROOT / "build" / "faults.md")
    text = write(rows, time.monotonic() - config.stash[_BEGAN], path)
    terminalreporter.section(f"faults; also in {path}")
    terminalreporter.write(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed scenario shows what the daemon said."""
    report = yield
    if report.failed:
        if (bed := item.stash.get(_BED, None)) is not None:
            report.sections.append(("syshaxd's log", bed.log_tail()))
        for row in item.config.stash[_ROWS]:
            row.failed |= row.name == _name(item)
    return report


def _name(item: pytest.Item) -> str:
    return item.name.removeprefix("test_").replace("_", " ")


@pytest.fixture(scope="session", autouse=True)
def _many_files() -> Iterator[None]:
    """Clients and daemon have a connection for each request."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 16_384) if hard != resource.RLIM_INFINITY else 16_384
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """The scenario's line of the table."""
    row = Row(_name(request.node))
    request.config.stash[_ROWS].append(row)
    return row


class Shared:
    """The bed of all scenarios that need nothing special; made anew after one that spoiled it."""

    def __init__(self, make: Callable[[], Bed]) -> None:
        self._make = make
        self.bed: Bed | None = None

    def get(self) -> Bed:
        if self.bed is None:
            self.bed = self._make()
        return self.bed

    def discard(self) -> None:
        if self.bed is not None:
            self.bed.stop()
        self.bed = None


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    shared = Shared(lambda: _start(Bed(tmp_path_factory.mktemp("f"))))
    yield shared
    shared.discard()


def _start(bed: Bed) -> Bed:
    bed.start()
    try:
        bed.wait_ready()
    except BaseException:
        print(bed.log_tail())
        bed.stop()
        raise
    return bed


@pytest.fixture
def bed(shared: Shared, row: Row, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """The shared bed. After a scenario all must be as before."""
    bed = request.node.stash[_BED] = shared.get()
    before = bed.before()
    good = False
    try:
        yield bed
        bed.settle(before, row, memory_mb=_MEMORY_MB)
        good = not row.failed
    finally:
        if not good:
            shared.discard()


@pytest.fixture
def make_bed(row: Row, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeBed]:
    """A bed of the scenario's own, with settings of its own. After it all must be as before."""
    made: list[tuple[Bed, Any]] = []

    def make(**settings: Any) -> Bed:
        bed = request.node.stash[_BED] = _start(Bed(tmp_path_factory.mktemp("f"), **settings))
        made.append((bed, bed.before()))
        return bed

    yield make
    try:
        for bed, before in made:
            if not row.failed:
                bed.settle(before, row, memory_mb=_MEMORY_MB)
    finally:
        for bed, _ in made:
            bed.stop()
