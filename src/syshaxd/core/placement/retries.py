# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether and when a request that failed is tried again: one that ends instances must not end them all.

If an instance ends, one of its requests may have ended it, and most are innocent. A request is suspect if nothing of
its answer had come when its instance ended, or if a second instance has ended with it. A suspect never runs on the last
instance that is ready: it waits for a second one, few suspects are tried at a time, and one that runs is withdrawn if
the second one is lost. All others are tried elsewhere at once. No request is tried again once two instances have ended
while they ran it.
"""

import hashlib
from collections import Counter, OrderedDict, deque

MAX_TRIES = 4
"""Of one request, whatever goes wrong with them."""
MAX_ENDS = 2
"""Instances that may end while they run one request."""
TRIAL_S = 5.0
"""A suspect that has run for so long no longer keeps others waiting, though it stays suspect until it is answered."""
KEPT_S = 300.0
ABANDONED_S = 60.0
"""An instance that hangs is ended within this time."""
_MAX_KEPT = 1024
_HASHED_BYTES = 1 << 20


class Retries:
    """What has gone wrong with one request, in its whole life."""

    def __init__(self) -> None:
        self._remembered = False
        self._failures = 0
        self._ends = 0
        self._ended_unanswered = False
        self._counted: Exception | None = None

    def remember(self) -> None:
        """One with the same content was suspect lately."""
        self._remembered = True

    @property
    def suspect(self) -> bool:
        """It may end instances."""
        return self._remembered or self._ended_unanswered or self._ends >= MAX_ENDS

    def failed(self, error: Exception, *, ended: bool, begun: bool) -> None:
        """Counts a failure; the same error again counts once.

        Args:
            error: What failed.
            ended: The instance ended while it ran the request, and nobody had asked it to.
            begun: Some of the answer had come, from that instance or from another one before.
        """
        if error is self._counted:
            return
        self._counted = error
        self._failures += 1
        self._ends += ended
        self._ended_unanswered |= ended and not begun

    @property
    def has_failed(self) -> bool:
        """It was tried, and not answered."""
        return self._failures > 0

    @property
    def harmful(self) -> bool:
        """Instances have ended with it, or with its like, as often as they may."""
        return self._ends + self._remembered >= MAX_ENDS

    def refusal(self) -> str:
        """Why it is not tried again; empty: it may be, if it is suspect only beside a second instance that is ready."""
        if self._failures >= MAX_TRIES:
            return f"it has failed {self._failures} times"
        if self._ends >= MAX_ENDS:
            return f"{self._ends} instances ended while they ran this request"
        if self._remembered and self._failures:
            return "an equal request may have ended an instance lately, and this one may have ended one now"
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
        """It no longer keeps others waiting; `harmless`: it ran, and its instance has not ended."""
        self._running -= 1
        self._limit += harmless

    def harmed(self) -> None:
        """An instance has ended with a suspect."""
        self._limit = 1


class Suspects:
    """Remembers the content of suspect requests for a while, the latest ones."""

    def __init__(self) -> None:
        self._until_s: OrderedDict[bytes, tuple[float, bool]] = OrderedDict()
        self._sizes: Counter[int] = Counter()  # few bodies are hashed for being as long as a suspect one
        self._abandoned: deque[tuple[str, float, bytes]] = deque(maxlen=_MAX_KEPT)

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, path: str, body: bytes, now_s: float, *, harmful: bool = False) -> None:
        """Remembers a request; `harmful`: as often as they may, instances have ended with it."""
        self._add(_fingerprint(path, body), now_s, harmful=harmful)

    def abandon(self, instance: str, path: str, body: bytes, now_s: float) -> None:
        """A client has left without an answer, and may send the request again: its instance may yet end of it."""
        self._abandoned.append((instance, now_s, _fingerprint(path, body)))

    def blame_abandoned(self, instance: str, now_s: float) -> None:
        """An instance ends, or seems to: what clients have abandoned there lately is suspect."""
        kept = [entry for entry in self._abandoned if entry[1] > now_s - ABANDONED_S]
        self._abandoned = deque((entry for entry in kept if entry[0] != instance), maxlen=_MAX_KEPT)
        for name, _, key in kept:
            if name == instance:
                self._add(key, now_s)

    def knows(self, path: str, body: bytes, now_s: float) -> bool:
        """Whether one with that content was suspect lately."""
        return len(body) in self._sizes and self._until_s.get(_fingerprint(path, body), (0.0, False))[0] > now_s

    def refused_for_s(self, path: str, body: bytes, now_s: float) -> float:
        """For how long one with that content is not to be tried at all; 0: it may be."""
        if len(body) not in self._sizes:
            return 0.0
        until_s, harmful = self._until_s.get(_fingerprint(path, body), (0.0, False))
        return max(0.0, until_s - now_s) if harmful else 0.0

    def forget(self, path: str, body: bytes) -> None:
        """It was answered: it was not to blame."""
        if len(body) in self._sizes:
            self._drop(_fingerprint(path, body))

    def _add(self, key: bytes, now_s: float, *, harmful: bool = False) -> None:
        harmful = harmful or self._until_s.get(key, (0.0, False))[1]
        self._drop(key)
        self._until_s[key] = (now_s + KEPT_S, harmful)
        self._sizes[_size_of(key)] += 1
        if len(self._until_s) > _MAX_KEPT:
            self._drop(next(iter(self._until_s)))

    def _drop(self, key: bytes) -> None:
        if self._until_s.pop(key, None) is not None:
            size = _size_of(key)
            self._sizes[size] -= 1
            if not self._sizes[size]:
                del self._sizes[size]


def _fingerprint(path: str, body: bytes) -> bytes:
    """The body's length, and a hash; of a very long one, of its beginning and its end."""
    digest = hashlib.blake2b(path.encode() + b"\0", digest_size=16)
    digest.update(memoryview(body)[:_HASHED_BYTES])
    digest.update(memoryview(body)[max(_HASHED_BYTES, len(body) - _HASHED_BYTES) :])
    return len(body).to_bytes(8) + digest.digest()


def _size_of(key: bytes) -> int:
    return int.from_bytes(key[:8])
