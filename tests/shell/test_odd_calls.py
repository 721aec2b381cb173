# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whatever is called on the control plane, however often: a status with a sentence, no trace, and nothing is kept."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from syshaxd.api.v1 import admin_pb2, scheduling_pb2
from syshaxd.client import ControlClient
from syshaxd.core.errors import BadRequestError
from tests.fakes.daemon import fake_daemon, serving_control

IN_TIME_S = 100.0
CALLS = 600
AT_ONCE = 3000
"""Three times what gRPC's server takes up by default before it drops calls."""
ENDING = {"Shutdown", "Calibrate", "CompareInstances", "RolloutInstances"}
"""These take minutes, or end the test."""
METHODS = [
    (f"/{service.full_name}/{method.name}", GetMessageClass(method.input_type))
    for module in (admin_pb2, scheduling_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name not in ENDING
]
TEXTS = ("", "gpu", "cpu", "m", "x" * 10_000, "\0", "\x1b[31m", "two\nlines", "中文", "services.gpu.port", "turn", "[")
FLOATS = (0.0, -1.0, 0.5, 1e-320, 1.7e308, -1.7e308, float("nan"), float("inf"), -float("inf"))
RANGES = {
    Field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    Field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    Field.CPPTYPE_UINT32: (0, 2**32 - 1),
    Field.CPPTYPE_UINT64: (0, 2**64 - 1),
}
ANSWERS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}


def message(kind: type[Message], random: Random) -> Any:
    """A message with odd values in some of its fields."""
    made: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        if random.random() < 0.3:
            continue
        target, count = getattr(made, field.name), random.randint(0, 3)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, its = field.message_type.fields
            for _ in range(count):
                if its.message_type is None:
                    target[value(key, random)] = value(its, random)
                else:
                    target[value(key, random)].CopyFrom(value(its, random))
        elif field.is_repeated:
            target.extend(value(field, random) for _ in range(count))
        elif field.message_type is not None:
            target.CopyFrom(value(field, random))
        else:
            setattr(made, field.name, value(field, random))
    return made


def value(field: Field, random: Random) -> Any:
    if field.message_type is not None:
        return message(GetMessageClass(field.message_type), random)
    if field.type == Field.TYPE_STRING:
        return random.choice(TEXTS)
    if field.type == Field.TYPE_BYTES:
        return random.randbytes(9)
    if field.type == Field.TYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type in RANGES:
        return random.choice((0, 1, *RANGES[field.cpp_type]))
    return random.choice((0, 1, 999)) if field.type == Field.TYPE_ENUM else random.choice(FLOATS)


def spoilt(raw: bytes, random: Random) -> bytes:
    """What came of a message on its way; often the whole of it."""
    fate = random.random()
    if fate < 0.1:
        return raw[: random.randint(0, len(raw))]
    if fate < 0.2:
        return random.randbytes(random.randint(1, 60))
    if fate < 0.3 and raw:
        place = random.randrange(len(raw))
        return raw[:place] + random.randbytes(1) + raw[place + 1 :]
    return raw


async def called(channel: grpc.aio.Channel, method: str, raw: bytes) -> tuple[str, str]:
    """Name of the status, and its text. The stream of an answer without an end is broken off."""
    call = channel.stream_stream(method)(iter([raw]), timeout=IN_TIME_S)
    try:
        async with asyncio.timeout(0.3):
            async for _ in call:
                pass
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    except TimeoutError:  # it follows
        call.cancel()
    return "OK", ""


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """The socket of a daemon that is quiet when the test ends."""
    async with (
        asyncio.timeout(IN_TIME_S),
        fake_daemon(tmp_path) as daemon,
        serving_control(daemon, tmp_path, stop=lambda leave_running: None) as (_, path),
    ):
        yield path


@pytest.mark.parametrize("seed", range(2))
async def test_any_call_gets_a_status_with_a_sentence(path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    random = Random(seed)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:

        async def call() -> None:
            method, kind = random.choice(METHODS)
            raw = spoilt(message(kind, random).SerializeToString(), random)
            code, text = await called(channel, method, raw)
            assert code in ANSWERS, (method, raw, text)
            assert text or code == "OK", (method, raw)

        for _ in range(CALLS // 50):
            await asyncio.gather(*(call() for _ in range(50)))
    assert not [entry for entry in caplog.records if entry.exc_info or entry.levelno >= logging.CRITICAL]


async def test_no_call_is_dropped_however_many_come_at_once(path: Path) -> None:
    statuses: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        place = channel.unary_unary("/syshaxd.api.v1.SchedulingService/PlaceRequest")

        async def call() -> None:
            try:
                await place(b"", timeout=IN_TIME_S)
            except grpc.aio.AioRpcError as error:
                statuses[error.code().name] += 1
            else:
                statuses["OK"] += 1

        await asyncio.gather(*(call() for _ in range(AT_ONCE)))
    assert statuses == {"OK": AT_ONCE}


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("PlaceRequest", {"ttl_s": float("nan")}),
        ("PlaceRequest", {"query": {"prompt_tokens": 10**30}}),
        ("SetPolicy", {"policy": {"holdout": float("inf")}}),
        ("ExplainDecision", {"request_id": "\udcff"}),
    ],
)
async def test_a_value_that_no_field_holds_is_refused_before_it_is_sent(
    path: Path, method: str, fields: dict[str, Any]
) -> None:
    async with ControlClient(path) as client:
        with pytest.raises(BadRequestError, match="a value does not fit"):
            await client.ask(method, **fields)
        with pytest.raises(BadRequestError, match="a value does not fit"):
            await anext(client.stop("\udcff", drain=True, wait=True))
