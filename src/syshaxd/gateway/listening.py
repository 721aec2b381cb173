# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The sockets on which the endpoint listens: its own, and those that systemd hands over."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from syshaxd.core.address import Address
from syshaxd.core.errors import SyshaxError
from syshaxd.gateway.front import why_not_listening
from syshaxd.gateway.tls import Tls
from syshaxd.system.activation import listens_at

_log = logging.getLogger(__name__)
_BACKLOG = 4096
_TLS_SHUTDOWN_LIMIT_S = 5.0


class Listener:
    """Accepts connections. Lives in one event loop."""

    def __init__(
        self, protocol: Callable[[], asyncio.BaseProtocol], *, tls: Tls | None, handshake_limit_s: Callable[[], float]
    ) -> None:
        """Does not listen yet.

        Args:
            protocol: Makes the protocol of a new connection.
            tls: Encrypts the connections; None: they are not encrypted.
            handshake_limit_s: How long a TLS handshake may take.
        """
        self._protocol = protocol
        self._tls = tls
        self._handshake_limit_s = handshake_limit_s
        self._loop = asyncio.get_running_loop()
        self._servers: list[asyncio.Server] = []
        self._handed: Sequence[socket.socket] = ()

    async def start(self, host: str, port: int, handed: Sequence[socket.socket]) -> str:
        """Listens; returns the URL of the endpoint.

        Args:
            host: The endpoint's address.
            port: The endpoint's port.
            handed: Sockets that listen already, at the endpoint's address or elsewhere; connections to them wait for
                `serve_handed`.

        Raises:
            SyshaxError: The address can't be bound.
        """
        try:
            if not any(listens_at(ready, host, port) for ready in handed):
                await self._serve(host=host, port=port)
                port = self._servers[-1].sockets[0].getsockname()[1]
                if handed:
                    _log.warning(
                        "syshaxd.socket does not listen at the address of services.conductor (%s), which "
                        "therefore refuses connections while syshaxd restarts; set its ListenStream= with `systemctl "
                        "edit syshaxd.socket`",
                        Address(host, port),
                    )
        except (OSError, UnicodeError) as error:
            raise SyshaxError(
                f"services.conductor: cannot listen on {Address(host, port)}: {why_not_listening(error, host)}"
            ) from error
        self._handed = handed
        return Address(host, port).url(scheme="http" if self._tls is None else "https")

    async def serve_handed(self) -> None:
        """Accepts connections of the inherited sockets, including those that are waiting."""
        for ready in self._handed:
            await self._serve(sock=ready)

    def close(self) -> None:
        """Accepts no more connections."""
        for server in self._servers:
            server.close()

    async def _serve(self, **at: Any) -> None:
        if self._tls is not None:
            at["ssl"] = self._tls.context
            at["ssl_handshake_timeout"] = self._handshake_limit_s()
            at["ssl_shutdown_timeout"] = _TLS_SHUTDOWN_LIMIT_S
        self._servers.append(await self._loop.create_server(self._protocol, backlog=_BACKLOG, **at))
