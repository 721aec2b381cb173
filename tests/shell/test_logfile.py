# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from syshaxd.core.errors import LaunchFailedError
from syshaxd.runtime.logfile import LogFile, check_room


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpu.log"


@pytest.fixture
def log(path: Path) -> LogFile:
    return LogFile(path, max_bytes=100)


@pytest.fixture
def write(path: Path) -> Iterator[Callable[[str], None]]:
    """Writes as an instance does, which has the file open all the time."""
    with path.open("a", encoding="utf-8", newline="") as file:

        def write(text: str) -> None:
            file.write(text)
            file.flush()

        yield write


async def everything(log: LogFile, tail: int | None = None) -> list[str]:
    return [line async for line in log.lines(tail=tail, follow=False)]


async def take(lines: AsyncIterator[str], count: int) -> list[str]:
    return [await anext(lines) for _ in range(count)]


async def test_nothing_was_written(log: LogFile) -> None:
    assert await everything(log) == []
    assert await everything(log, tail=5) == []
    await log.limit()


async def test_content_moves_to_the_second_file(log: LogFile, path: Path, write: Callable[[str], None]) -> None:
    expected = []
    for number in range(20):
        expected.append(f"line {number:3} " + "x" * 20)
        write(expected[-1] + "\n")
        await log.limit()
        assert (await asyncio.to_thread(path.stat)).st_size <= 100
    kept = await everything(log)
    assert len(kept) >= 4
    assert kept == expected[-len(kept) :]
    for tail in range(len(kept) + 2):
        assert await everything(log, tail=tail) == kept[len(kept) - min(tail, len(kept)) :]


async def test_a_follower_misses_nothing_when_content_moves(log: LogFile, write: Callable[[str], None]) -> None:
    write("first\n")
    async with aclosing(log.lines(tail=None, follow=True)) as lines:
        assert await anext(lines) == "first"
        for number in range(10):
            write(f"a {number}\n" + "x" * 80 + "\n")
            await log.limit()
            write(f"b {number}\n")
            assert await take(lines, 3) == [f"a {number}", "x" * 80, f"b {number}"]


async def test_a_slow_follower_goes_on_with_what_is_kept(log: LogFile, write: Callable[[str], None]) -> None:
    async with aclosing(log.lines(tail=None, follow=True)) as lines:
        first = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        for number in range(3):
            write(f"{number}" + "x" * 100 + "\n")
            await log.limit()
        write("end\n")
        seen = [await first]
        while seen[-1] != "end":
            seen.append(await anext(lines))
        assert seen[-2].startswith("2")


async def test_an_unfinished_line_is_told_once_it_is_finished(log: LogFile, write: Callable[[str], None]) -> None:
    write("one\ntw")
    assert await everything(log) == ["one", "tw"]
    assert await everything(log, tail=1) == ["tw"]
    async with aclosing(log.lines(tail=1, follow=True)) as lines:
        assert await anext(lines) == "one"
        write("o\n")
        assert await anext(lines) == "two"


async def test_tail_reaches_back_over_long_lines(path: Path, write: Callable[[str], None]) -> None:
    log = LogFile(path, max_bytes=10_000_000)
    long = [letter * 100_000 for letter in "abc"]
    write("\n".join(["start", *long, "end"]) + "\n")
    for tail in range(6):
        assert await everything(log, tail=tail) == ["start", *long, "end"][5 - tail :]


async def test_progress_bars_and_rubbish(log: LogFile, path: Path) -> None:
    await asyncio.to_thread(path.write_bytes, b"0%\r50%\r100%\r\n\xff\xfe\n\n")
    assert await everything(log) == ["100%", "\ufffd\ufffd", ""]


async def test_following_begins_before_anything_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    log = LogFile(folder / "gpu.log", max_bytes=100)
    async with aclosing(log.lines(tail=None, follow=True)) as lines:
        first = asyncio.create_task(anext(lines))
        await asyncio.sleep(0)
        await asyncio.to_thread(folder.mkdir)
        await log.append("here")
        assert await first == "here"


async def test_logs_are_for_this_user_alone_whatever_the_umask(path: Path, log: LogFile) -> None:
    await asyncio.to_thread(path.touch, 0o644)
    before = os.umask(0)
    try:
        await log.append("x" * 200)
        await log.limit()
        await log.append("y")
    finally:
        os.umask(before)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.with_name("gpu.log.1"))] == [0o600, 0o600]


def test_a_folder_that_somebody_removed_is_made_again_before_a_launch(tmp_path: Path) -> None:
    check_room(tmp_path / "state" / "syshax", "gpu")
    assert stat.S_IMODE((tmp_path / "state" / "syshax").stat().st_mode) == 0o700
    (tmp_path / "file").touch()
    with pytest.raises(LaunchFailedError, match="Not a directory; let this user write there"):
        check_room(tmp_path / "file" / "syshax", "gpu")
