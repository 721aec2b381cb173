# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Who is told of changes of instances. A subscriber that fails does not keep the news from the others."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from syshaxd.core.types import InstanceStatus

_log = logging.getLogger(__name__)

OnStatus = Callable[[InstanceStatus], None]
OnInstances = Callable[[Sequence[InstanceStatus]], None]


class Subscribers:
    """Calls back in the order of the subscriptions."""

    def __init__(self) -> None:
        self._on_status: list[OnStatus] = []
        self._on_instances: list[OnInstances] = []

    def subscribe(self, on_status: OnStatus) -> Callable[[], None]:
        """Calls back at every change of a status, until the returned function is called."""
        self._on_status.append(on_status)
        return lambda: self._on_status.remove(on_status)

    def subscribe_instances(self, on_instances: OnInstances) -> None:
        """Calls back with all statuses when instances were exchanged."""
        self._on_instances.append(on_instances)

    def publish(self, status: InstanceStatus) -> None:
        """A status has changed."""
        for on_status in tuple(self._on_status):
            try:
                on_status(status)
            except Exception:  # noqa: BLE001 - who listens must not break what it listens to
                _log.exception("%s: a subscriber failed", status.spec.name)

    def publish_instances(self, statuses: Sequence[InstanceStatus]) -> None:
        """Instances were exchanged."""
        for on_instances in self._on_instances:
            try:
                on_instances(statuses)
            except Exception:  # noqa: BLE001 - see above
                _log.exception("a subscriber to the list of instances failed")

    async def first(self, present: InstanceStatus, predicate: Callable[[InstanceStatus], bool]) -> InstanceStatus:
        """Returns the first status of an instance that fits, from the present one on."""
        fits: asyncio.Future[InstanceStatus] = asyncio.get_running_loop().create_future()

        def check(status: InstanceStatus) -> None:
            if status.spec.name == present.spec.name and not fits.done() and predicate(status):
                fits.set_result(status)

        unsubscribe = self.subscribe(check)
        try:
            check(present)
            return await fits
        finally:
            unsubscribe()
