# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Batches: the official client uploads, creates, polls, cancels and downloads; a restart asks no line twice."""

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from syshaxd.client import ControlClient
from syshaxd.control import ControlServer
from syshaxd.core.errors import BadRequestError, ConflictError, NotFoundError, TooLargeError
from syshaxd.core.types import QuantisedWeights, State
from syshaxd.core.wire.batches import BatchStatus
from syshaxd.gateway.authentication import Authentication
from syshaxd.gateway.batches import BatchOptions
from syshaxd.gateway.batches.multipart import read_form
from syshaxd.system.api_keys import ApiKeys
from syshaxd.system.batch_store import BatchStore
from tests.fakes.control import operations_of
from tests.fakes.engine import FakeEngine
from tests.fakes.gateway import Stand, stands
from tests.fakes.instance import Request, json_answer
from tests.shell.test_syshaxctl import syshaxctl

IN_TIME_S = 50.0
CHAT_ROUTE = "/v1/chat/completions"


def lines(count: int, **changes: Any) -> bytes:
    rows = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": CHAT_ROUTE,
            "body": {"model": "m", "messages": [{"role": "user", "content": f"n{number}"}]},
        }
        | changes
        for number in range(count)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def echo(request: Request) -> None:
    asked = json.loads(request.body)["messages"][0]["content"]
    answer = {
        "choices": [{"message": {"content": f"to {asked}"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    await request.send(json_answer(json.dumps(answer).encode()))


CLOCK_S = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now_s = CLOCK_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Bed:
    stand: Stand
    client: openai.AsyncOpenAI
    working: "asyncio.Task[None]"

    async def upload(self, data: bytes) -> str:
        return (await self.client.files.create(file=("in.jsonl", data), purpose="batch")).id

    async def create(self, data: bytes, **options: Any) -> str:
        file_id = await self.upload(data)
        options = {"endpoint": CHAT_ROUTE, "completion_window": "24h"} | options
        return (await self.client.batches.create(input_file_id=file_id, **options)).id

    async def ended(self, its_id: str) -> Any:
        async with asyncio.timeout(IN_TIME_S):
            while True:
                batch = await self.client.batches.retrieve(its_id)
                if batch.status in {"completed", "failed", "cancelled", "expired"}:
                    return batch
                await asyncio.sleep(0.02)

    async def download(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self.client.files.content(file_id)).text.splitlines()]


MakeBed = Callable[..., Any]


@asynccontextmanager
async def bed_in(folder: Path, **options: Any) -> AsyncIterator[Bed]:
    """A gateway with its batches in that folder."""
    store = partial(BatchStore, folder, max_bytes=options.pop("max_bytes", 10**7), file_ttl_s=86_400.0)
    concurrency = options.pop("max_concurrency", 4)
    async with AsyncExitStack() as stack:
        make = await stack.enter_async_context(stands())
        stand = await make(batches=BatchOptions(store=store, max_concurrency=concurrency), **options)
        stand.gpu.answer = stand.cpu.answer = echo
        worker = stand.gateway.batch_worker
        assert worker is not None
        stack.push_async_callback(worker.close)
        working = asyncio.create_task(worker.run())

        async def stop() -> None:
            working.cancel()
            await asyncio.wait((working,))

        stack.push_async_callback(stop)
        client = openai.AsyncOpenAI(base_url=f"{stand.url}/v1", api_key="none", max_retries=3)
        await stack.enter_async_context(client)
        async with asyncio.timeout(IN_TIME_S):
            while not worker.is_ready:
                await asyncio.sleep(0)
        yield Bed(stand, client, working)


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[Bed]:
    async with bed_in(tmp_path / "b") as made:
        yield made


async def test_the_official_client_creates_polls_and_downloads(bed: Bed) -> None:
    its_id = await bed.create(lines(10), metadata={"job": "nightly"})
    batch = await bed.ended(its_id)
    assert (batch.status, batch.metadata) == ("completed", {"job": "nightly"})
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (10, 10, 0)
    assert batch.error_file_id is None
    found = await bed.download(batch.output_file_id)
    assert [row["custom_id"] for row in found] == [f"line-{number}" for number in range(10)], (
        "in the order of the input"
    )
    for number, row in enumerate(found):
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        assert row["response"]["body"]["choices"][0]["message"]["content"] == f"to n{number}"
    assert [each.id async for each in bed.client.batches.list()] == [its_id]
    assert {each.id async for each in bed.client.files.list()} == {batch.input_file_id, batch.output_file_id}
    assert {record.outcome for record in bed.stand.metrics.records} == {"ok"}
    deleted = await bed.client.files.delete(batch.input_file_id)
    assert deleted.deleted
    with pytest.raises(openai.NotFoundError):
        await bed.client.files.retrieve(batch.input_file_id)


async def test_lines_that_fail_are_in_the_error_file(bed: Bed) -> None:
    async def picky(request: Request) -> None:
        if b"n1" in request.body:
            await request.send(json_answer(b'{"error":{"message":"too long"}}', "400 Bad Request"))
        else:
            await echo(request)

    bed.stand.gpu.answer = bed.stand.cpu.answer = picky
    unknown = lines(1, custom_id="other", body={"model": "unknown", "messages": []})
    batch = await bed.ended(await bed.create(lines(3) + unknown))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    assert [row["custom_id"] for row in await bed.download(batch.output_file_id)] == ["line-0", "line-2"]
    bad, missing = await bed.download(batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("line-1", 400)
    assert (missing["custom_id"], missing["error"]["code"]) == ("other", "model_not_found")


async def test_a_file_with_faults_is_refused_with_all_of_them(bed: Bed) -> None:
    data = b"".join((lines(1), b"no json\n", b"[]\n", lines(1), lines(1, custom_id="a", url="/v1/embeddings")))
    batch = await bed.ended(await bed.create(data + lines(1, custom_id="b", body={"stream": True})))
    assert batch.status == "failed"
    assert [(fault.line, fault.code) for fault in batch.errors.data] == [
        (2, "invalid_json_line"),
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "invalid_url"),
        (6, "invalid_body"),
    ]
    assert not bed.stand.gpu.requests
    odd = await bed.ended(await bed.create(lines(1, custom_id="\ud800")))
    assert [fault.code for fault in odd.errors.data] == ["invalid_custom_id"]
    empty = await bed.ended(await bed.create(b"\n"))
    assert [fault.code for fault in empty.errors.data] == ["empty_file"]


async def test_a_batch_is_cancelled_and_what_was_answered_stays(bed: Bed) -> None:
    answered, held = asyncio.Event(), asyncio.Event()

    async def then_hold(request: Request) -> None:
        if b"n0" in request.body:
            await echo(request)
            answered.set()
        else:
            held.set()
            await request.gone.wait()

    bed.stand.gpu.answer = bed.stand.cpu.answer = then_hold
    its_id = await bed.create(lines(20))
    await asyncio.wait_for(asyncio.gather(answered.wait(), held.wait()), IN_TIME_S)
    async with asyncio.timeout(IN_TIME_S):
        while not (await bed.client.batches.retrieve(its_id)).request_counts.completed:
            await asyncio.sleep(0.02)
    batch = await bed.client.batches.cancel(its_id)
    assert batch.status == "cancelled"
    assert [row["custom_id"] for row in await bed.download(batch.output_file_id)] == ["line-0"]
    cancelled = await bed.download(batch.error_file_id)
    assert {row["error"]["code"] for row in cancelled} == {"batch_cancelled"}
    assert len(cancelled) == 19
    assert (await bed.client.batches.cancel(its_id)).status == "cancelled", "twice is once"


async def test_a_restart_asks_no_line_twice(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()
    stuck = asyncio.Event()

    async def first_half(request: Request) -> None:
        content = json.loads(request.body)["messages"][0]["content"]
        if int(content[1:]) < 6:
            asked[content] += 1
            await echo(request)
        else:
            stuck.set()
            await request.gone.wait()

    async with bed_in(tmp_path / "b") as bed:
        bed.stand.gpu.answer = bed.stand.cpu.answer = first_half
        its_id = await bed.create(lines(12))
        await asyncio.wait_for(stuck.wait(), IN_TIME_S)
        async with asyncio.timeout(IN_TIME_S):
            while (await bed.client.batches.retrieve(its_id)).request_counts.completed < 6:
                await asyncio.sleep(0.02)

    async def second_half(request: Request) -> None:
        asked[json.loads(request.body)["messages"][0]["content"]] += 1
        await echo(request)

    async with bed_in(tmp_path / "b") as bed:
        bed.stand.gpu.answer = bed.stand.cpu.answer = second_half
        batch = await bed.ended(its_id)
        assert batch.request_counts.completed == 12
        found = await bed.download(batch.output_file_id)
    assert [row["custom_id"] for row in found] == [f"line-{number}" for number in range(12)]
    assert asked == {f"n{number}": 1 for number in range(12)}


async def test_a_batch_waits_while_no_instance_is_ready(bed: Bed) -> None:
    for name in ("gpu", "cpu"):
        bed.stand.supervisor.become(name, State.UNHEALTHY)
    its_id = await bed.create(lines(2))
    async with asyncio.timeout(IN_TIME_S):
        while (await bed.client.batches.retrieve(its_id)).status != "in_progress":
            await asyncio.sleep(0.02)
    await bed.stand.ready("gpu", "cpu")
    assert (await bed.ended(its_id)).request_counts.completed == 2


@pytest.mark.parametrize("has_keys", [False, True])
async def test_lines_carry_the_key_of_the_instances(tmp_path: Path, has_keys: bool) -> None:
    keys = ApiKeys(tmp_path / "api_keys")
    async with bed_in(tmp_path / "b", authentication=Authentication(keys), instance_key="theirs") as bed:
        theirs = replace(bed, client=bed.client.with_options(api_key="theirs"))
        allowed = await as_key(bed, keys, "alice") if has_keys else theirs
        batch = await allowed.ended(await allowed.create(lines(1)))
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 0)
        (request,) = bed.stand.gpu.requests + bed.stand.cpu.requests
        assert b"Authorization: Bearer theirs\r\n" in request.head
        with pytest.raises(openai.AuthenticationError):  # who can't use the instances can't have lines answered there
            await (theirs if has_keys else bed).upload(lines(1))


async def test_lines_of_a_key_for_full_weights_get_no_others(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "api_keys")
    weights = QuantisedWeights(quantize="q8_0")
    async with bed_in(tmp_path / "b", authentication=Authentication(keys), cpu_weights=weights) as bed:
        exact = await as_key(bed, keys, "exact", full_weights=True)
        batch = await exact.ended(await exact.create(lines(12)))  # more than the GPU runs at a time
        assert (batch.request_counts.completed, len(bed.stand.gpu.requests), bed.stand.cpu.requests) == (12, 12, [])


@asynccontextmanager
async def bed_with_keys(tmp_path: Path) -> AsyncIterator[tuple[Bed, ApiKeys, Clock]]:
    """One line runs at a time."""
    clock = Clock()
    keys = ApiKeys(tmp_path / "api_keys", clock=clock)
    async with bed_in(tmp_path / "b", max_concurrency=1, authentication=Authentication(keys)) as made:
        yield made, keys, clock


async def as_key(bed: Bed, keys: ApiKeys, name: str, **fields: Any) -> Bed:
    """What the client of a new key sees."""
    secret = (await asyncio.to_thread(lambda: keys.create(name, **fields))).secret
    return replace(bed, client=bed.client.with_options(api_key=secret))


@pytest.mark.parametrize("end", ["revoke", "expire", "revoke while it waits"])
async def test_a_key_that_is_not_valid_any_more_ends_its_batches(tmp_path: Path, end: str) -> None:
    async with bed_with_keys(tmp_path) as (bed, keys, clock):
        alice = await as_key(bed, keys, "alice", expires_at_s=CLOCK_S + 60.0)
        other = await as_key(bed, keys, "operator", access="admin")
        runs, go = asyncio.Event(), asyncio.Event()

        async def answer(request: Request) -> None:
            runs.set()
            await go.wait()
            await echo(request)

        bed.stand.gpu.answer = bed.stand.cpu.answer = answer
        if end == "revoke while it waits":
            for name in ("gpu", "cpu"):
                bed.stand.supervisor.become(name, State.UNHEALTHY)
        its_id = await alice.create(lines(3))
        worker = bed.stand.gateway.batch_worker
        assert worker is not None
        if end == "revoke while it waits":
            while not bed.stand.metrics.records:
                await asyncio.sleep(0)
        else:
            await runs.wait()
        if end == "expire":
            clock.now_s += 60.0
        else:
            await asyncio.to_thread(keys.revoke, "alice")
        go.set()
        async with asyncio.timeout(IN_TIME_S):
            while (batch := (await worker.every())[0]).status is not BatchStatus.CANCELLED:
                await asyncio.sleep(0.01)
        assert batch.id == its_id
        assert batch.completed == (0 if end == "revoke while it waits" else 1), "a line that ran ends"
        assert [fault["code"] for fault in batch.faults] == ["invalid_api_key"]
        assert len(bed.stand.gpu.requests) + len(bed.stand.cpu.requests) <= 1
        with pytest.raises(openai.NotFoundError):
            await other.client.batches.retrieve(its_id)


async def test_a_keys_models_and_tokens_hold_for_each_line(tmp_path: Path) -> None:
    """A key without tokens left does not keep batches of others waiting."""
    async with bed_with_keys(tmp_path) as (bed, keys, _):
        poor = await as_key(bed, keys, "poor", tokens_per_minute=20, requests_per_minute=1, max_requests=1)
        rich = await as_key(bed, keys, "rich", models=("m",), max_prompt_tokens=100)
        waiting = await poor.create(lines(3))
        for content, code in (("x" * 1000, "context_length_exceeded"), ("fine", "")):
            body = {"model": "m", "messages": [{"role": "user", "content": content}]}
            batch = await rich.ended(await rich.create(lines(2, body=body)))
            assert batch.status == "completed"
            found = await rich.download(batch.output_file_id or batch.error_file_id)
            assert [row["error"] and row["error"]["code"] for row in found] == [code or None] * 2
        assert (await poor.client.batches.retrieve(waiting)).request_counts.completed < 3
        await asyncio.to_thread(keys.revoke, "rich")
        renewed = await as_key(bed, keys, "rich")
        assert len([each async for each in renewed.client.batches.list()]) == 2, "a new key of the name has them"
        await poor.client.batches.cancel(waiting)


async def test_a_full_disk_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syshaxd.gateway.batches.worker._FIRST_PAUSE_S", 0.01)
    left = dict.fromkeys(("finish_line", "finish", "waiting", "validate"), 2)

    def failing(name: str) -> Callable[..., Any]:
        works = getattr(BatchStore, name)

        def act(*args: Any, **options: Any) -> Any:
            left[name] -= 1
            if left[name] >= 0:
                raise sqlite3.OperationalError("database or disk is full")
            return works(*args, **options)

        return act

    for name in left:
        monkeypatch.setattr(BatchStore, name, failing(name))
    async with bed_in(tmp_path / "b") as bed:
        batch = await bed.ended(await bed.create(lines(3)))
        assert (batch.status, batch.request_counts.completed) == ("completed", 3)
        assert len(bed.stand.gpu.requests) + len(bed.stand.cpu.requests) == 3, "no line is asked twice"
        monkeypatch.setattr(BatchStore, "_insert_file", fails_with(OSError(28, "No space left on device")))
        client = bed.client.with_options(max_retries=0)
        with pytest.raises(openai.InternalServerError, match=r"batches cannot be stored.*No space left") as caught:
            await client.files.create(file=("in.jsonl", lines(1)), purpose="batch")
        assert (caught.value.status_code, caught.value.code) == (503, "daemon_unavailable")
        kept = {path.name for path in (tmp_path / "b" / "files").iterdir()}
        assert kept == {batch.input_file_id, batch.output_file_id}, "half a file is left"


def fails_with(error: Exception) -> Callable[..., Any]:
    def fails(*args: Any, **options: Any) -> Any:
        raise error

    return fails


async def test_at_most_so_many_lines_run_at_a_time(tmp_path: Path) -> None:
    running, most = 0, 0

    async def slow(request: Request) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await echo(request)

    async with bed_in(tmp_path / "b", max_concurrency=3, slots=50) as bed:
        bed.stand.gpu.answer = bed.stand.cpu.answer = slow
        both = [await bed.create(lines(12)) for _ in range(2)]
        for its_id in both:
            assert (await bed.ended(its_id)).status == "completed"
    assert most <= 3


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
    ],
)
async def test_a_bad_batch_is_refused(bed: Bed, options: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await bed.create(lines(1), **options)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "changes",
    [{"endpoint": {}}, {"endpoint": []}, {"endpoint": "\ud800"}, {"input_file_id": "\ud800"}, {"input_file_id": 5}],
)
async def test_values_of_other_types_are_refused(bed: Bed, changes: dict[str, Any]) -> None:
    asked = {"endpoint": CHAT_ROUTE, "input_file_id": "file-1", "completion_window": "24h"} | changes
    async with bed.stand.session.post(f"{bed.stand.url}/v1/batches", json=asked) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == next(iter(changes))


async def test_pages(bed: Bed) -> None:
    ids = [await bed.upload(lines(1)) for _ in range(3)]
    found = []
    for query in ("?limit=2", f"?limit=2&after={ids[1]}"):
        async with bed.stand.session.get(f"{bed.stand.url}/v1/files{query}") as response:
            page = await response.json()
            found += [each["id"] for each in page["data"]]
    assert sorted(found) == sorted(ids), "each once"
    for query, status in (("limit=0", 400), ("limit=101", 400), ("limit=x", 400), ("limit=", 400), ("after=gone", 404)):
        async with bed.stand.session.get(f"{bed.stand.url}/v1/files?{query}") as response:
            assert response.status == status, query


async def test_routes_and_methods(bed: Bed) -> None:
    session, url = bed.stand.session, bed.stand.url
    for method, path, status in (
        ("GET", "/v1/files/none", 404),
        ("GET", "/v1/files/none/content", 404),
        ("DELETE", "/v1/files/none", 404),
        ("GET", "/v1/batches/none", 404),
        ("POST", "/v1/batches/none/cancel", 404),
        ("PUT", "/v1/files", 405),
        ("DELETE", "/v1/batches/none", 405),
        ("GET", "/v1/files/a/b/c", 404),
        ("POST", "/v1/batches", 400),
        ("POST", "/v1/files", 400),
    ):
        async with session.request(method, url + path) as response:
            assert response.status == status, path
            assert (await response.json())["error"]["message"]


async def test_the_quota(tmp_path: Path) -> None:
    async with bed_in(tmp_path / "b", max_bytes=1000) as bed:
        with pytest.raises(openai.APIStatusError) as caught:
            await bed.upload(lines(20))
        assert caught.value.status_code == 413
        assert "batches.max_bytes" in caught.value.message
        assert list((tmp_path / "b" / "files").iterdir()) == []


async def test_a_large_output_reaches_a_slow_client(bed: Bed) -> None:
    data = b"x" * 3_000_000
    worker = bed.stand.gateway.batch_worker
    assert worker is not None
    stored = await worker.call(BatchStore.add_file, "", "big", "batch", data)
    async with bed.stand.session.get(f"{bed.stand.url}/v1/files/{stored.id}/content") as response:
        got = bytearray()
        async for piece in response.content.iter_chunked(100_000):
            got += piece
            await asyncio.sleep(0)
    assert bytes(got) == data


async def test_operators_list_and_cancel_batches(bed: Bed, tmp_path: Path) -> None:
    worker = bed.stand.gateway.batch_worker
    assert worker is not None
    its_id = await bed.create(lines(2))
    await bed.ended(its_id)
    server = ControlServer(operations_of(FakeEngine(), batches=lambda: worker), tmp_path / "run" / "admin.sock")
    await server.start()
    try:
        async with ControlClient(tmp_path / "run" / "admin.sock") as control:
            (found,) = (await control.ask("ListBatches"))["batches"]
            assert (found["id"], found["status"], found["completed"], found["total"]) == (its_id, "completed", 2, 2)
            assert (await control.ask("CancelBatch", id=its_id))["batch"]["status"] == "completed"
            with pytest.raises(NotFoundError):
                await control.ask("CancelBatch", id="batch_none")
        listed = await syshaxctl(tmp_path / "run" / "admin.sock", "batches", "list")
        assert its_id in listed.out
        assert "2 of 2" in listed.out
    finally:
        await server.stop()


# The store.


def opened(folder: Path, clock: Clock) -> BatchStore:
    return BatchStore(folder, max_bytes=10**6, file_ttl_s=1000.0, clock=clock)


def test_files_and_batches_belong_to_their_key(tmp_path: Path) -> None:
    store = opened(tmp_path, Clock())
    mine = store.add_file("me", "f", "batch", lines(1))
    batch = store.create("me", CHAT_ROUTE, mine.id, window="24h", metadata={})
    for act in (
        partial(store.file, "you", mine.id),
        partial(store.remove_file, "you", mine.id),
        partial(store.batch, batch.id, "you"),
        partial(store.cancel, batch.id, "you"),
        partial(store.create, "you", CHAT_ROUTE, mine.id, window="24h", metadata={}),
    ):
        with pytest.raises(NotFoundError):
            act()
    assert (store.files("you"), store.batches("you")) == ([], [])
    with pytest.raises(ConflictError, match="which has not ended"):
        store.remove_file("me", mine.id)
    store.close()


def test_a_keys_models_hold_for_its_batches(tmp_path: Path) -> None:
    store = opened(tmp_path, Clock())
    given = store.add_file("me", "f", "batch", lines(1))
    batch = store.create("me", CHAT_ROUTE, given.id, window="24h", metadata={}, models=("other",))
    assert [fault["code"] for fault in store.validate(batch.id).faults] == ["model_not_permitted"]
    store.close()


def test_a_result_is_stored_once(tmp_path: Path) -> None:
    store = opened(tmp_path, Clock())
    given = store.add_file("", "f", "batch", lines(2))
    batch = store.create("", CHAT_ROUTE, given.id, window="24h", metadata={})
    store.validate(batch.id)
    store.finish_line(batch.id, 1, b"first\n", good=True)
    store.finish_line(batch.id, 1, b"second\n", good=False)
    now = store.batch(batch.id)
    assert (now.completed, now.failed) == (1, 0)
    store.close()
    again = opened(tmp_path, Clock())
    assert [line.number for line in again.waiting(batch.id, 0, 10)] == [2]
    done = again.finish(batch.id, BatchStatus.EXPIRED)
    assert done.output_file_id is not None
    assert again.path(done.output_file_id).read_bytes() == b"first\n"
    assert done.error_file_id is not None
    assert b"batch_expired" in again.path(done.error_file_id).read_bytes()
    again.close()


def test_what_expires_is_removed(tmp_path: Path) -> None:
    clock = Clock()
    store = opened(tmp_path, clock)
    given = store.add_file("", "f", "batch", lines(1))
    batch = store.create("", CHAT_ROUTE, given.id, window="1h", metadata={})
    clock.now_s += 2000
    assert store.expire() == []
    assert store.file("", given.id), "a batch that has not ended needs it"
    clock.now_s += 2000
    assert store.expire() == [batch.id]
    store.finish(batch.id, BatchStatus.EXPIRED)
    assert store.expire() == []
    with pytest.raises(NotFoundError):
        store.file("", given.id)
    assert not store.path(given.id).exists()
    store.close()


def test_contents_of_which_nothing_is_known_are_swept(tmp_path: Path) -> None:
    store = opened(tmp_path, Clock())
    store.path("file-half").write_bytes(b"half")
    store.close()
    opened(tmp_path, Clock()).close()
    assert list((tmp_path / "files").iterdir()) == []
    assert (tmp_path / "batches.sqlite").stat().st_mode & 0o077 == 0


def test_no_room_no_file(tmp_path: Path) -> None:
    store = opened(tmp_path, Clock())
    with pytest.raises(TooLargeError):
        store.add_file("", "f", "batch", b"x" * (10**6 + 1))
    assert store.used_bytes() == 0
    store.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--",
        b"--b\r\n\r\n\r\n--b\r\n\r\n\r\n" * 40,
    ],
)
def test_half_a_form_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        read_form("multipart/form-data; boundary=b", body)
    with pytest.raises(BadRequestError):
        read_form("application/json", body)
