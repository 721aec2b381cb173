# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""File descriptors of this process: raises their limit and reserves some from clients.

Each client uses one, and a second one while an instance answers. Without a reserve, many clients would leave
none for health probes, for the control plane and for starting instances.
"""

import errno
import logging
import os
import resource

_log = logging.getLogger(__name__)
_RESERVE = 64
# Of a very low limit, at most this share is reserved.
_RESERVE_RATIO = 0.25
_NO_THREAD = "can't start new thread"
"""All that Python says of it."""
_OWN_SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard limit, as far as the kernel allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("cannot raise the limit of open files from %d to %d: %s", soft, hard, error)
    _log.info("open files: at most %d (was %d), %d of them reserved from clients", limit(), soft, reserve())


def limit() -> int:
    """The number of descriptors that this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def reserve() -> int:
    """The number of them reserved from clients."""
    return min(_RESERVE, int(limit() * _RESERVE_RATIO))


def is_short() -> bool:
    """Whether clients have used up their share, so that new requests are refused. Costs two system calls."""
    try:
        lowest_free = os.dup(2)
    except OSError as error:
        return error.errno in _OWN_SHORTAGE
    os.close(lowest_free)
    return lowest_free >= limit() - reserve()


def is_own_shortage(error: BaseException) -> bool:
    """Whether an error, or its cause, is a shortage of this process or host rather than a fault of the peer."""
    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        cause = causes.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _OWN_SHORTAGE):
            return True
        if isinstance(cause, RuntimeError) and _NO_THREAD in str(cause):
            return True
        if isinstance(cause, BaseExceptionGroup):
            causes += cause.exceptions
        causes += [cause.__cause__, cause.__context__, getattr(cause, "os_error", None)]
    return False
