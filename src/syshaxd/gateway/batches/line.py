# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""One line of a batch as a request: the Engine answers it as it answers those of clients."""

import asyncio
from dataclasses import dataclass

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import SyshaxError
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.wire.batches import Batch, Line
from syshaxd.core.wire.body import RequestBody, estimated_tokens
from syshaxd.gateway.authentication import Authentication, check_model
from syshaxd.gateway.bodies import BodyIntake, answer_limit, model_of, refuse_router_fields
from syshaxd.gateway.collected import Collected
from syshaxd.gateway.errors import outcome_of
from syshaxd.gateway.rates import LimitedLine, RateLimiter, used_tokens
from syshaxd.observe.metrics import MetricsService
from syshaxd.serving.engine import Engine
from syshaxd.serving.request import Request

_HEADERS = b"content-type: application/json\r\n"
_JSON = "application/json"


class Lines:
    """Has lines answered."""

    def __init__(
        self,
        engine: Engine,
        metrics: MetricsService,
        intake: BodyIntake,
        authentication: Authentication,
        limiter: RateLimiter,
        *,
        router_fields: bool,
    ) -> None:
        """`router_fields`: lines may set what only routers need."""
        self._engine = engine
        self._metrics = metrics
        self._intake = intake
        self._authentication = authentication
        self._limiter = limiter
        self._router_fields = router_fields
        self._loop = asyncio.get_running_loop()

    def begin(self, batch: Batch, line: Line) -> "BegunLine":
        """A line that may run now.

        Raises:
            UnauthorizedError: The batch's API key is not valid any more.
            RateLimitedError: The key has used its tokens for now.
            BadRequestError: The key does not permit this line.
        """
        key = self._authentication.owner(batch.owner)
        limited = self._limiter.begin_line(key, estimated_tokens(line.body))
        return BegunLine(self, batch, line, limited)

    async def answer(self, begun: "BegunLine") -> tuple[int, bytes]:
        """Gets a line answered; returns status and body. Raises SyshaxError: it was not."""
        client = Collected()
        batch, line = begun.batch, begun.line
        key = self._authentication.owner(batch.owner)  # it may have waited for long
        asked = Request(
            id=begun.request_id,
            route=batch.endpoint,
            method="POST",
            path=batch.endpoint,
            target=batch.endpoint,
            headers=_HEADERS,
            body=line.body,
            client=client,
            key=key,
            own_credentials=True,
            started_at_s=self._loop.time(),
        )
        outcome = Outcome.FAILED
        try:
            fields = asked.fields = await self._intake.read(line.body, _JSON) or RequestBody({})
            asked.inference = self._inference(begun, key, fields)
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
            begun.limited.add(used_tokens(record, asked.inference.prompt_tokens))
            asked.release()
            self._metrics.record(record)
            self._engine.requests.keep(record)

    def _inference(self, begun: "BegunLine", key: ApiKey | None, fields: RequestBody) -> InferenceRequest:
        """What placement needs to know. Raises BadRequestError: the line may not ask for this."""
        model = model_of(fields)
        check_model(key, model)
        if not self._router_fields:
            refuse_router_fields(fields)
        return InferenceRequest(
            request_id=begun.request_id,
            model=model,
            stream=False,
            path=begun.batch.endpoint,
            full_weights=key is not None and key.full_weights,
            prompt_tokens=estimated_tokens(begun.line.body),
            max_tokens=answer_limit(begun.batch.endpoint, fields),
            request_class=RequestClass.BATCH,
            key=begun.batch.owner,
        )


@dataclass(frozen=True, slots=True)
class BegunLine:
    """A line that runs, until `end` is called."""

    lines: Lines
    batch: Batch
    line: Line
    limited: LimitedLine

    @property
    def request_id(self) -> str:
        """For records and logs."""
        return f"{self.batch.id}-{self.line.number}"

    async def answer(self) -> tuple[int, bytes]:
        """Has it answered, once more if this was called before. Raises SyshaxError: it was not."""
        return await self.lines.answer(self)

    def end(self) -> None:
        """Counts what it has used."""
        self.limited.end()
