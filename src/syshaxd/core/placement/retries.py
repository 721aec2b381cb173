# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether and when a request that failed is tried again: one that ends instances must not end them all.

If an instance ends, one of its requests may have ended it, and most are innocent. A request is suspect if it had just
come and nothing of its answer had, or if its instance was ended for not answering probes and nothing of its answer had
come, or if a second instance has ended with it. A suspect is never sent to the last instance that is ready: it waits
for a second one, and then few suspects are tried at a time. All others are tried elsewhere at once. No request is tried
again once two instances have ended while they ran it.
"""

import hashlib
from collections import OrderedDict

MAX_TRIES = 4
"""Of one request, whatever goes wrong with them."""
MAX_ENDS = 2
"""Instances that may end while they run one request."""
HARMLESS_S = 5.0
"""What ends an instance mostly does so when its prompt is read; one that has run a request for longer has read it."""
KEPT_S = 300.0
_MAX_KEPT = 256


class Retries:
    """What has gone wrong with one request, in its whole life."""

    def __init__(self) -> None:
        self._remembered = False
        self._failures = 0
        self._ends = 0
        self._ended_early = False
        self._counted: Exception | None = None

    def remember(self) -> None:
        """One with the same content was suspect lately."""
        self._remembered = True

    @property
    def suspect(self) -> bool:
        """It is likely to end instances."""
        return self._remembered or self._ended_early or self._ends >= MAX_ENDS

    def failed(self, error: Exception, *, ended: bool, unresponsive: bool, begun: bool, ran_s: float) -> None:
        """Counts a failure; the same error again counts once.

        Args:
            error: What failed.
            ended: The instance ended while it ran the request, and nobody had asked it to.
            unresponsive: The supervisor ended it, as it no longer answered its probes.
            begun: The instance had made some of the answer.
            ran_s: For how long it had run the request.
        """
        if error is self._counted:
            return
        self._counted = error
        self._failures += 1
        self._ends += ended
        self._ended_early |= ended and not begun and (unresponsive or ran_s < HARMLESS_S)

    def refusal(self) -> str:
        """Why it is not tried again; empty: it may be, if it is suspect only beside a second instance that is ready."""
        if self._failures >= MAX_TRIES:
            return f"it has failed {self._failures} times"
        if self._ends >= MAX_ENDS:
            return f"{self._ends} instances ended while they ran this request"
        if self._remembered and self._failures:
            return "such a request may have ended an instance lately, as this one may have now"
        return ""


class Trials:
    """How many suspects are tried at a time: one, and more with each that proves harmless."""

    def __init__(self) -> None:
        self._running = 0
        self._limit = 1

    @property
    def may_begin(self) -> bool:
        """Another suspect may be tried."""
        return self._running < self._limit

    def begin(self) -> None:
        """A suspect is tried."""
        self._running += 1

    def end(self, *, harmless: bool) -> None:
        """It has ended its instance, or has not."""
        self._running -= 1
        self._limit = self._limit + 1 if harmless else 1


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
