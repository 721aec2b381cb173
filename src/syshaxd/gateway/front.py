# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The HTTP server: clients' connections, with one set of limits for all that clients may do to it."""

import asyncio
import errno
import ipaddress
import logging
import select
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from syshaxd.gateway.connection import ClientConnection, ClientRequest
from syshaxd.gateway.limits import Limits
from syshaxd.system import descriptors
from syshaxd.system.connecting import why_no_connection

_log = logging.getLogger(__name__)
SWEEP_INTERVAL_S = 2.0
# This many connections over the limit get an error; further ones are dropped.
_MAX_REFUSED = 48
_LOG_INTERVAL_S = 60.0

Handler = Callable[[ClientConnection, ClientRequest], Coroutine[Any, Any, bool]]


class Front:
    """Counts connections, refuses those that are too many, ends those that take too long (a `ConnectionOwner`)."""

    def __init__(self, handler: Handler, limits: Limits, clock: Callable[[], float]) -> None:
        """Prepares to serve.

        Args:
            handler: Answers a request, and says whether its connection may stay open.
            limits: What clients may take.
            clock: Seconds that never go back.
        """
        self.answer = handler
        self.limits = limits
        self.clock = clock
        self.open: dict[ClientConnection, str] = {}
        """Connections by client address."""
        self.refused = 0
        """Connections refused so far."""
        self._loop = asyncio.get_running_loop()
        self._per_address: Counter[str] = Counter()
        self._refusing = 0
        self._logged_at_s = -_LOG_INTERVAL_S

    def __call__(self) -> ClientConnection:
        """A protocol for a connection."""
        return ClientConnection(self, self._loop)

    async def close(self, timeout_s: float) -> None:
        """Closes every connection; what is being answered is cancelled."""
        tasks = [connection.task for connection in self.open if connection.task is not None]
        for connection in list(self.open):
            connection.hang_up()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def opened(self, connection: ClientConnection) -> None:
        """ConnectionOwner: counts it; one too many is refused."""
        address = _limited_address(connection.peer)
        most = self.limits.max_connections_per_address
        is_too_many = len(self.open) - self._refusing >= self.limits.max_connections or descriptors.is_short()
        is_too_many_of_one = most is not None and address != "" and self._per_address[address] >= most
        self.open[connection] = address
        self._per_address[address] += 1
        if not is_too_many and not is_too_many_of_one:
            return
        self.refused += 1
        self._refusing += 1
        connection.refused = True
        self._tell(f"{most} from {address}" if is_too_many_of_one else str(self.limits.max_connections))
        if self._refusing > _MAX_REFUSED:
            connection.abort()

    def closed(self, connection: ClientConnection) -> None:
        """ConnectionOwner: no longer counts it."""
        address = self.open.pop(connection)
        self._per_address[address] -= 1
        if not self._per_address[address]:
            del self._per_address[address]
        if connection.refused:
            self._refusing -= 1

    def sweep(self) -> None:
        """Closes connections whose clients are too slow or gone: one timer for all."""
        now_s = self.clock()
        poll = select.poll()
        unread: dict[int, ClientConnection] = {}
        for connection in list(self.open):
            connection.check(now_s)
            fd = connection.unread_fd()
            if fd is not None:
                unread[fd] = connection
                poll.register(fd, select.POLLRDHUP)
        for fd, _ in poll.poll(0) if unread else ():
            unread[fd].abort()

    async def sweep_for_ever(self, sweep: Callable[[], None]) -> None:
        """Calls `sweep` periodically. If the daemon itself was late, clients get another interval."""
        while True:
            due_s = self._loop.time() + SWEEP_INTERVAL_S
            await asyncio.sleep(SWEEP_INTERVAL_S)
            if self._loop.time() - due_s < SWEEP_INTERVAL_S:
                try:
                    sweep()
                except Exception:  # noqa: BLE001 - the next time may go better; without it nothing silent ever ends
                    _log.exception("checking for idle connections failed")

    def _tell(self, limit: str) -> None:
        now_s = self.clock()
        if now_s - self._logged_at_s >= _LOG_INTERVAL_S:
            self._logged_at_s = now_s
            _log.warning(
                "clients are refused: %d are connected, and %s may be (gateway.max_connections, "
                "gateway.max_connections_per_address, and half of the %d files that this process may have open: "
                "LimitNOFILE= or ulimit -n); %d refused so far",
                len(self.open) - self._refusing,
                limit,
                descriptors.limit(),
                self.refused,
            )


def _limited_address(peer: object) -> str:
    """A client's address, or its /64 network for IPv6; empty for this host."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(
            peer[0] if isinstance(peer, tuple) else ""
        )
    except ValueError:
        return ""
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return ""
    if address.version == 4:
        return str(address)
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


def why_not_listening(error: OSError | UnicodeError, host: str) -> str:
    """Why an address can't be bound, and the remedy."""
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            return "the port is taken; find the program (ss -ltnp), or set services.conductor.port to another"
        case errno.EACCES:
            return "this user may not listen there; set services.conductor.port to 1024 or more"
        case _:
            return (
                f"{why_no_connection(error, host)}; "
                "set services.conductor.host to an address of this host, or 0.0.0.0 for all"
            )
