# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the client gets of an answer that several instances make."""

from syshaxd.core.errors import SyshaxError
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.wire.http1 import ResponseHead
from syshaxd.serving.runner.answer import ClientAnswer
from syshaxd.serving.runner.response import Response


class Delivery:
    """Sends a joined answer under the head of the first instance, whichever instance makes the rest."""

    def __init__(self, answer: ClientAnswer, joined: JoinedAnswer) -> None:
        """Sends nothing yet."""
        self.answer = answer
        self.joined = joined
        self.head: ResponseHead | None = None
        """Of the first instance's answer."""
        self.over = False
        """The client has got all that it gets."""

    def send(self, events: bytes) -> None:
        """Sends events, if there are any."""
        if not events:
            return
        if self.answer.begun:
            self.answer.events(events)
        else:
            self._begin(events)

    def pass_on(self, response: Response) -> bool:
        """Gives the client an answer other than 200 as it is.

        Returns:
            False: the answer is a 200, and nothing was sent.

        Raises:
            InstanceFailedError: The answer is an instance's fault; another instance may do better.
        """
        head = response.head_
        assert head is not None
        if head.status == 200:
            return False
        if response.is_fault:
            raise response.fault()
        self.answer.whole(head, response.payload())
        self.over = True
        return True

    def finish(self) -> None:
        """Sends what is missing of an answer whose last token has come."""
        assert self.head is not None
        self.over = True
        if not self.joined.stream:
            self.answer.whole(self.head, self.joined.whole())
            return
        if not self.answer.begun:
            self._begin()
        self.answer.end(self.joined.end())

    def break_off(self, error: SyshaxError) -> None:
        """Ends what the client has got with an error event, or its connection."""
        self.answer.break_off(error, at_event_end=True)
        self.over = True

    def abandon(self) -> None:
        """Drops the connection: the client takes nothing any more."""
        self.answer.abandon()
        self.over = True

    def _begin(self, events: bytes = b"") -> None:
        assert self.head is not None
        self.answer.begin_events(self.head, events)
