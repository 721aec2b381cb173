# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""File descriptors of this process: as many as it may have, and some kept back from clients.

Each client takes one, and a second one while an instance answers it. Without a reserve, a crowd of clients would leave
none for health probes, for the control plane and for starting instances.
"""

import errno
import logging
import os
import resource

_log = logging.getLogger(__name__)
_RESERVE = 64
# Of a very low limit, at most this part is kept back.
_RESERVE_RATIO = 0.25
_OWN_SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard one, as far as the kernel lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:
            _log.warning("the limit of open files stays %d, and is not raised to %d: %s", soft, hard, error)
    _log.info("open files: at most %d (was %d), %d of them kept back from clients", limit(), soft, reserve())


def limit() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def reserve() -> int:
    """How many of them are not for clients."""
    return min(_RESERVE, int(limit() * _RESERVE_RATIO))


def is_short() -> bool:
    """Whether clients have used up what is theirs: a new one, or a new request, is refused. Costs two system calls."""
    try:
        lowest_free = os.dup(2)
    except OSError as error:
        return error.errno in _OWN_SHORTAGE
    os.close(lowest_free)
    return lowest_free >= limit() - reserve()


def is_own_shortage(error: BaseException) -> bool:
    """Whether an error, or what caused it, tells of a shortage of this process or host, not of the other side."""
    seen: set[int] = set()
    causes: list[BaseException | None] = [error]
    while causes:
        cause = causes.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno in _OWN_SHORTAGE):
            return True
        if isinstance(cause, BaseExceptionGroup):
            causes += cause.exceptions
        causes += [cause.__cause__, cause.__context__, getattr(cause, "os_error", None)]
    return False
