# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An answer that one instance makes, passed on as it comes."""

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
    """Another instance can start it over while the client has nothing of it; none can continue it."""

    def __init__(
        self, runner: Runner, request: Request, slot: Slot, *, last_try: bool, answer: ClientAnswer | None = None
    ) -> None:
        """Starts nothing yet.

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
        self._loop = runner.loop
        self._answer = answer or ClientAnswer(request, clock=self._loop.time)
        self._relay = Relay(self._answer, request, self._loop.create_future(), last_try=last_try)
        self.over = False

    @property
    def instance(self) -> str:
        """The name of the instance that makes it."""
        return self._slot.spec.name

    @property
    def begun(self) -> bool:
        """Whether the client has a part of it."""
        return self._answer.begun

    @property
    def progressed(self) -> bool:
        """Whether the instance has made a part of it."""
        return self._answer.begun

    @property
    def outcome(self) -> Outcome:
        """Its outcome."""
        return self._answer.outcome

    @property
    def tokens(self) -> int:
        """Tokens of a stream so far: its events."""
        return self._relay.events

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer; 0: the instance did not report them."""
        return self._relay.tokens_in, self._relay.tokens_out

    async def run(self) -> None:
        """Sends the request to the instance and its answer to the client.

        Cancelling this drops the connection to the instance, which stops working on the request.

        Raises:
            InstanceFailedError: The instance has failed; `begun` says whether another may be asked.
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
        """Ends the client's part with an error event, or drops the connection."""
        self._relay.break_off(error)
        self.over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
