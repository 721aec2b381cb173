# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An answer that one instance makes, passed on as it comes."""

import asyncio
from types import TracebackType
from typing import Self

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError, SyshaxError
from syshaxd.core.placement.records import Outcome
from syshaxd.core.placement.slots import Slot
from syshaxd.serving.request import Request
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.relay import Relay
from syshaxd.serving.runner.runner import Runner


class RelayedAnswer:
    """Another instance can start it over as long as the client has got nothing; none can continue it."""

    def __init__(
        self, runner: Runner, request: Request, slot: Slot, *, last_try: bool, answer: ClientAnswer | None = None
    ) -> None:
        """Begins nothing.

        Args:
            runner: Has the connections to instances.
            request: What is answered.
            slot: Where.
            last_try: There is no other instance to ask: its own error is the answer.
            answer: The client's; None: a new one.
        """
        self._runner = runner
        self._request = request
        self._slot = slot
        self.last_try = last_try
        self._loop = asyncio.get_running_loop()
        self._answer = answer or ClientAnswer(request, clock=self._loop.time)
        self._relay = Relay(self._answer, request, self._loop.create_future(), last_try=last_try)
        self.over = False

    @property
    def instance(self) -> str:
        """That which makes it."""
        return self._slot.spec.name

    @property
    def begun(self) -> bool:
        """The client has got some of it."""
        return self._answer.begun

    @property
    def progressed(self) -> bool:
        """The instance has made some of it."""
        return self._answer.begun

    @property
    def outcome(self) -> Outcome:
        """How it has ended."""
        return self._answer.outcome

    @property
    def tokens(self) -> int:
        """Tokens of a stream that have come: events."""
        return self._relay.events

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer; 0: the instance did not tell."""
        return self._relay.tokens_in, self._relay.tokens_out

    async def run(self) -> None:
        """Sends the request to the instance and its answer to the client.

        Cancelling this drops the connection to the instance, which stops working on the request.

        Raises:
            InstanceFailedError: The instance has failed; `begun` tells whether another may be asked.
            InstanceTimeoutError: As above, and the instance was silent for too long.
        """
        assert self._request.client is not None
        self._request.client.attach(self._relay)
        try:
            await self._runner.exchange(self._slot.spec, self._request, self._relay)
        except (InstanceFailedError, InstanceTimeoutError):
            if self._relay.client_stalled:
                self._relay.abandon()
            elif not self._relay.complete():
                raise
        finally:
            self._request.client.detach()
        self.over = True

    def break_off(self, error: SyshaxError) -> None:
        """Ends what the client has got with an error event, or its connection."""
        self._relay.break_off(error)
        self.over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
