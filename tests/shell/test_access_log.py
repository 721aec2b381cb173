# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The access log: what it tells, and what becomes of it when its file is moved or cannot be written."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.placement.records import RequestRecord
from syshaxd.observe import access_log
from syshaxd.observe.access_log import AccessLog, Caller
from tests.fakes.gateway import CHAT, MakeStand, stands

CALLER = Caller(client="10.0.0.9", method="POST", path="/v1/completions", model="m", key="ci")
RECORD = RequestRecord(request_id="r1", route="/v1/completions", status=200, placement="gpu", tokens_out=5)
IN_TIME_S = 50.0


@pytest.fixture
async def make_stand() -> AsyncIterator[MakeStand]:
    async with stands() as make:
        yield make


@asynccontextmanager
async def writing(log: AccessLog) -> AsyncIterator[None]:
    """What is added within is written at the latest when it ends."""
    task = asyncio.create_task(log.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


async def until_written(path: Path, count: int) -> None:
    async with asyncio.timeout(IN_TIME_S):
        while len(lines(path)) < count:
            await asyncio.sleep(0.01)


async def test_a_line_for_each_request(make_stand: MakeStand, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    async with writing(log):
        stand = await make_stand(access_log=log)
        secret = {"Authorization": "Bearer sk-secret", "X-Request-Id": "mine"}
        async with stand.post(path="/v1/chat/completions?token=secret", headers=secret) as response:
            assert response.status == 200
        async with stand.post(CHAT | {"model": "no-such-model"}) as response:
            assert response.status == 404
        async with stand.session.put(stand.url + "/v1/models?key=secret") as response:
            assert response.status == 405
        async with stand.session.get(stand.url + "/health") as response:
            assert response.status == 200
    answered, unknown, refused = lines(path)
    assert answered["request_id"] == "mine"
    assert (answered["status"], answered["outcome"], answered["placement"]) == (200, "ok", "gpu")
    assert (answered["method"], answered["path"], answered["model"]) == ("POST", "/v1/chat/completions", "m")
    assert (answered["client"], answered["prompt_tokens"], answered["generation_tokens"]) == ("127.0.0.1", 3, 5)
    assert answered["duration_s"] > 0
    assert (unknown["status"], unknown["outcome"], unknown["placement"]) == (404, "client_error", "")
    assert (refused["status"], refused["method"], refused["path"]) == (405, "PUT", "/v1/models")
    assert "secret" not in path.read_text()


async def test_a_file_that_is_moved_away_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    async with writing(log):
        log.request(CALLER, RECORD)
        await until_written(path, 1)
        path.rename(tmp_path / "access.log.1")
        log.refused(CALLER, "r2", 401)
    assert [line["request_id"] for line in lines(tmp_path / "access.log.1")] == ["r1"]
    assert [(line["request_id"], line["status"], line["key"]) for line in lines(path)] == [("r2", 401, "ci")]
    assert path.stat().st_mode & 0o007 == 0


async def test_a_file_that_cannot_be_written_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "missing"
    log = AccessLog(str(folder / "access.log"))
    async with writing(log):
        log.request(CALLER, RECORD)
        async with asyncio.timeout(IN_TIME_S):
            while "cannot be written" not in caplog.text:
                await asyncio.sleep(0.01)
        folder.mkdir()
        log.request(CALLER, RECORD)
    assert len(lines(folder / "access.log")) == 1
    assert "1 requests are missing" in caplog.text


async def test_lines_that_nobody_writes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_MAX_WAITING", 3)
    log = AccessLog(str(tmp_path / "access.log"))
    for _ in range(5):
        log.request(CALLER, RECORD)
    async with writing(log):
        pass
    assert len(lines(tmp_path / "access.log")) == 3


async def test_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log = AccessLog("stderr")
    async with writing(log):
        log.request(CALLER, RECORD)
    assert json.loads(capsys.readouterr().err)["generation_tokens"] == 5


async def test_a_key_in_the_wrong_place_is_hidden(tmp_path: Path) -> None:
    key = f"sk-syshax-{'k3Y' * 14}"
    log = AccessLog(str(tmp_path / "access.log"))
    async with writing(log):
        log.refused(Caller(client="10.0.0.9", method="GET", path=f"/{key}", model=key), key, 404)
    (line,) = lines(tmp_path / "access.log")
    assert (line["request_id"], line["path"], line["model"]) == ("(hidden)", "/(hidden)", "(hidden)")
