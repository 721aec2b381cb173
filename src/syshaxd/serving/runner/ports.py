# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a journey calls: the Runner below it, and who gives it slots."""

from typing import Protocol

from syshaxd.core.errors import SyshaxError
from syshaxd.core.placement.records import RequestRecord
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import InstanceSpec
from syshaxd.serving.runner.exchange import Downstream, Exchange, Outgoing


class Exchanger(Protocol):
    """Who sends requests to instances: the Runner."""

    async def run(
        self, spec: InstanceSpec, outgoing: Outgoing, client: Downstream, record: RequestRecord, *, last_try: bool
    ) -> bool:
        """Relays a whole answer."""

    async def exchange(self, spec: InstanceSpec, outgoing: Outgoing, exchange: Exchange) -> None:
        """Sends a request; the exchange takes its answer."""


class SlotSource(Protocol):
    """Where the journey gets slots for the rest of its answer."""

    async def another(self, failed: str, error: SyshaxError, *, begun: bool) -> Grant:
        """Gets a slot for the rest of the answer, after `failed` has failed. Raises SyshaxError: there is none.

        `begun`: it had made some of the answer.
        """

    def again(self, present: Slot) -> Slot | None:
        """Decides again where the rest is made, and takes a slot there; None: it stays at `present`."""
