# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Many requests at once, and more than there are files for."""

import pytest

from tests.faults.bed import Bed
from tests.faults.client import ask_many
from tests.faults.conftest import MakeBed
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(900)


async def test_streams(bed: Bed, row: Row) -> None:
    streams, at_once = sized(200, 5000), sized(100, 1000)
    row.done = f"{streams:,} streams of 40 tokens, {at_once} at once"
    row.counts = await ask_many(bed.port, range(streams), at_once=at_once, tokens=40)
    assert row.counts.verdicts == {"ok": streams}, row.counts.told()


async def test_short_requests(bed: Bed, row: Row) -> None:
    requests, at_once = sized(1000, 20_000), sized(50, 200)
    row.done = f"{requests:,} requests of 2 tokens, {at_once} at once"
    row.counts = await ask_many(bed.port, range(requests), at_once=at_once, tokens=2, stream=False)
    assert row.counts.verdicts == {"ok": requests}, row.counts.told()


async def test_more_streams_than_files(make_bed: MakeBed, row: Row) -> None:
    streams, files = sized(200, 1000), sized(256, 1024)
    bed = make_bed(files=files)
    row.done = f"{streams:,} streams at once in a shell with {files:,} files"
    row.counts = await ask_many(bed.port, range(streams), at_once=streams, tokens=40)
    verdicts = row.counts.verdicts
    assert verdicts["ok"] + verdicts["refused"] == streams, row.counts.told()
    assert not row.counts.statuses[502], "our own want of files is blamed on an instance"
