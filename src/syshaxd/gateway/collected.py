# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""An instance's answer for the daemon itself."""

from collections.abc import Callable

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.wire.http1 import Dechunker, parse_response_head
from syshaxd.serving.request import Flow


class Collected:
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
