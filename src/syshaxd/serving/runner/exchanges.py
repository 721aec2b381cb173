# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The exchanges of an answer that several instances make, one after the other."""

from collections.abc import Callable, Mapping
from typing import Any

from syshaxd.core.types import InstanceSpec
from syshaxd.serving.request import Request
from syshaxd.serving.runner.exchange import Part
from syshaxd.serving.runner.response import Response
from syshaxd.serving.runner.runner import Runner
from syshaxd.serving.runner.segment import Segment


def _ignore(event: Mapping[str, Any]) -> None:
    """An event where none is expected."""


class Exchanges:
    """Sends the parts of one request; passes on what its client's connection says (a `Flow`)."""

    def __init__(self, runner: Runner, request: Request) -> None:
        """Sends nothing yet."""
        self._runner = runner
        self._request = request
        self._loop = runner.loop
        self._count = 0
        self.paused = False
        """The client takes no more for now."""
        self.response: Response | None = None
        """The present one."""
        self.cut_off = False
        """The latest response was ended by the daemon."""

    def pause(self) -> None:
        """Flow: the client takes no more for now."""
        self.paused = True
        if self.response is not None:
            self.response.pause()

    def resume(self) -> None:
        """Flow: the client takes more again."""
        self.paused = False
        if self.response is not None:
            self.response.resume()

    def cancel(self) -> None:
        """Flow: the client is gone."""
        if self.response is not None:
            self.response.cancel()

    async def send(self, spec: InstanceSpec, response: Response, part: Part) -> None:
        """Sends a part; returns when its response is over. Raises what `Runner.exchange` raises."""
        self._count += 1
        self.response, self.cut_off = response, False
        await self._runner.exchange(spec, self._request, response, part)
        self.cut_off = response.cut_off

    async def read(
        self,
        spec: InstanceSpec,
        path: str,
        body: bytes,
        take: Callable[[Mapping[str, Any]], None] = _ignore,
        *,
        last_try: bool = False,
    ) -> Segment:
        """Sends a part whose response the daemon itself reads; `take` gets each event. Raises as `send`."""
        # Should one instance get two parts, its log can tell them apart.
        ident = f"{self._request.id}-{self._count}" if self._count else self._request.id
        response = Segment(take, self._loop.create_future(), last_try=last_try, paused=self.paused)
        await self.send(spec, response, Part(path, body, ident))
        return response
