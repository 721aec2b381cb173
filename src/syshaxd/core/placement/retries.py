# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether a request that failed is tried elsewhere: one that ends instances must not end them all.

An instance may end while it has a request without that being the request's fault: its requests go on elsewhere, once.
A request is suspect if two instances broke off with it, or if it was on one that was ended for not answering its probes
and had said nothing of the answer. A suspect gets one try, and only where another instance stays healthy beside it.
"""

import hashlib
from collections import OrderedDict

MAX_TRIES = 4
"""Of one request, whatever goes wrong with them."""
MAX_BREAKS = 2
"""Instances that may break off with one request."""
KEPT_S = 300.0
_MAX_KEPT = 256


class Retries:
    """What has gone wrong with one request, in its whole life."""

    def __init__(self) -> None:
        self._remembered = False
        self._failures = 0
        self._breaks = 0
        self._unresponsive = False
        self._counted: Exception | None = None

    def remember(self) -> None:
        """One with the same content was suspect lately."""
        self._remembered = True

    @property
    def suspect(self) -> bool:
        """It is likely to end instances."""
        return self._remembered or self._unresponsive or self._breaks >= MAX_BREAKS

    def failed(self, error: Exception, *, broke: bool, unresponsive: bool, begun: bool) -> None:
        """Counts a failure; the same error again counts once.

        Args:
            error: What failed.
            broke: The instance broke the connection off while it had the request.
            unresponsive: The instance was being ended, as it did not answer its probes any more.
            begun: The instance had said something of the answer.
        """
        if error is self._counted:
            return
        self._counted = error
        self._failures += 1
        self._breaks += broke
        self._unresponsive = self._unresponsive or (broke and unresponsive and not begun)

    def refusal(self, healthy: int, instances: int) -> str:
        """Why it must not be tried now.

        Args:
            healthy: Instances that could be asked now.
            instances: All that there are.

        Returns:
            Empty: it may be tried.
        """
        if self._failures >= MAX_TRIES:
            return f"it has failed {self._failures} times"
        if self._breaks >= MAX_BREAKS:
            return f"{self._breaks} instances broke off while they had this request"
        if self.suspect and self._failures:
            return "this request may have ended an instance"
        if self.suspect and healthy < 2 <= instances:
            return "such a request may have ended an instance lately, and only one is healthy"
        return ""


class Suspects:
    """Remembers the content of suspect requests for a while, the latest ones."""

    def __init__(self) -> None:
        self._until_s: OrderedDict[bytes, float] = OrderedDict()
        self._sizes: frozenset[int] = frozenset()  # few bodies are hashed for being as long as a suspect one

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, path: str, body: bytes, now_s: float) -> None:
        """Remembers a request."""
        key = _fingerprint(path, body)
        self._until_s[key] = now_s + KEPT_S
        self._until_s.move_to_end(key)
        if len(self._until_s) > _MAX_KEPT:
            self._until_s.popitem(last=False)
        self._note_sizes()

    def knows(self, path: str, body: bytes, now_s: float) -> bool:
        """Whether one with that content was suspect lately."""
        if len(body) not in self._sizes:
            return False
        return self._until_s.get(_fingerprint(path, body), 0.0) > now_s

    def forget(self, path: str, body: bytes) -> None:
        """It was answered: it was not to blame."""
        if len(body) in self._sizes:
            self._until_s.pop(_fingerprint(path, body), None)
            self._note_sizes()

    def _note_sizes(self) -> None:
        self._sizes = frozenset(int.from_bytes(key[:8]) for key in self._until_s)


def _fingerprint(path: str, body: bytes) -> bytes:
    """The body's length, and a hash."""
    digest = hashlib.blake2b(path.encode() + b"\0", digest_size=16)
    digest.update(body)
    return len(body).to_bytes(8) + digest.digest()
