# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Why a server can't be reached or an address can't be used, as a person calls it."""

import os
import socket

import aiohttp

NO_ANSWER = (
    *(aiohttp.ClientError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    RecursionError,
)
"""What reading an answer ends with if there is none, or an unexpected one: JSON may be anything, nested deeply, say."""


def why_no_connection(error: OSError | UnicodeError, host: str) -> str:
    """What went wrong. asyncio's own text names the address, and takes the resolver's codes for the kernel's."""
    if isinstance(error, UnicodeError):
        return f"{host!r} cannot be the name of a host"
    if isinstance(error, socket.gaierror):
        why = error.strerror or str(error)
        return f"the name {host!r} cannot be resolved ({why}); see `host` in the configuration, DNS and /etc/hosts"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def why_no_answer(error: Exception, host: str) -> str:
    """The same for whatever a request with aiohttp may end with."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return why_no_connection(error.os_error, host)
    if isinstance(error, UnicodeError):
        return why_no_connection(error, host)
    return str(error) or type(error).__name__
