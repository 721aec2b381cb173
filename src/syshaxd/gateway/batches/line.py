# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One line of a batch as a request: the Engine answers it as it answers those of clients."""

import asyncio
from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError, SyshaxError
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.wire.body import RequestBody
from syshaxd.core.wire.http1 import Dechunker, parse_response_head
from syshaxd.gateway.bodies import BodyIntake, answer_limit, model_of, refuse_router_fields
from syshaxd.gateway.errors import outcome_of
from syshaxd.observe.metrics import MetricsService
from syshaxd.serving.engine import Engine
from syshaxd.serving.request import Flow, Request

_HEADERS = b"content-type: application/json\r\n"
_JSON = "application/json"
_BYTES_PER_TOKEN = 4


class _Collected:
    """Takes an answer in place of a client's connection (a `Downstream`)."""

    http10 = False

    def __init__(self) -> None:
        self.answer_lines = b""
        self._parts: list[bytes] = []
        self._cut = False

    def attach(self, flow: Flow) -> None:
        """It takes everything at once."""

    def detach(self) -> None:
        """See above."""

    def writer(self) -> Callable[[bytes], None]:
        """Keeps the bytes."""
        return self._parts.append

    def abort(self) -> None:
        """The answer is incomplete."""
        self._cut = True

    def answer(self) -> tuple[int, bytes]:
        """Status and body. Raises InstanceFailedError: it is incomplete."""
        head, end, body = b"".join(self._parts).partition(b"\r\n\r\n")
        if self._cut or not end:
            raise InstanceFailedError("the instance broke off")
        told = parse_response_head(head)
        return told.status, Dechunker().feed(body) if told.chunked else body


class Lines:
    """Has lines answered."""

    def __init__(self, engine: Engine, metrics: MetricsService, intake: BodyIntake, *, router_fields: bool) -> None:
        """`router_fields`: lines may set what only routers need."""
        self._engine = engine
        self._metrics = metrics
        self._intake = intake
        self._router_fields = router_fields
        self._loop = asyncio.get_running_loop()

    async def answer(self, path: str, body: bytes, request_id: str) -> tuple[int, bytes]:
        """Has a request answered; returns status and body. Raises SyshaxError: it was not."""
        client = _Collected()
        asked = Request(
            id=request_id,
            route=path,
            method="POST",
            path=path,
            target=path,
            headers=_HEADERS,
            body=body,
            client=client,
            started_at_s=self._loop.time(),
        )
        outcome = Outcome.FAILED
        try:
            fields = asked.fields = await self._intake.read(body, _JSON) or RequestBody({})
            if not self._router_fields:
                refuse_router_fields(fields)
            asked.inference = InferenceRequest(
                request_id=request_id,
                model=model_of(fields),
                stream=False,
                path=path,
                prompt_tokens=len(body) // _BYTES_PER_TOKEN,
                max_tokens=answer_limit(path, fields),
                request_class=RequestClass.BATCH,
            )
            outcome = await self._engine.dispatch(asked)
            return client.answer()
        except SyshaxError as error:
            outcome = outcome_of(error)
            raise
        except asyncio.CancelledError:
            outcome = Outcome.CANCELLED
            raise
        finally:
            record = asked.record(outcome, self._loop.time())
            asked.release()
            self._metrics.record(record)
            self._engine.requests.keep(record)
