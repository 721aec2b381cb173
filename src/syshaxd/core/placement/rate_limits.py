# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How many requests and tokens one client, or all together, may have in a time."""

import math
from dataclasses import dataclass

from syshaxd.core.errors import RateLimitedError

_MINUTE_S = 60.0
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """None: no such limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Of prompts and answers together."""
    max_requests: int | None = None
    """That run or wait at a time."""


class TokenBucket:
    """Holds a minute's amount at most, and gets it back evenly. It may be overdrawn: what comes then has to wait."""

    __slots__ = ("_at_s", "_left", "per_minute")

    def __init__(self, per_minute: int, now_s: float) -> None:
        """Is full."""
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at_s = now_s

    def left(self, now_s: float) -> float:
        """What may be taken now; below zero: more was taken."""
        if now_s > self._at_s:
            self._left = min(self.per_minute, self._left + (now_s - self._at_s) * self.per_minute / _MINUTE_S)
            self._at_s = now_s
        return self._left

    def wait_s(self, amount: float, now_s: float) -> float:
        """How long until an amount may be taken; of more than fits, until the bucket is full."""
        lacking = min(amount, self.per_minute) - self.left(now_s)
        return max(0.0, lacking * _MINUTE_S / self.per_minute)

    def full_in_s(self, now_s: float) -> float:
        """How long until it is full."""
        return self.wait_s(self.per_minute, now_s)

    def take(self, amount: float, now_s: float) -> None:
        """Takes an amount, also if it is not there; a negative one is given back."""
        self._left = min(self.per_minute, self.left(now_s) - amount)


class RateMeter:
    """Measures one client, or all together, against limits."""

    __slots__ = ("_max_requests", "_requests", "_tokens", "_who", "running")

    def __init__(self, limits: RateLimits, who: str, now_s: float) -> None:
        """`who` is limited, as messages say it."""
        self._who = who
        self._requests = _bucket(limits.requests_per_minute, now_s)
        self._tokens = _bucket(limits.tokens_per_minute, now_s)
        self._max_requests = limits.max_requests
        self.running = 0
        """Requests that run or wait."""

    def check(self, now_s: float) -> None:
        """Raises RateLimitedError: one more request exceeds a limit."""
        if self._max_requests is not None and self.running >= self._max_requests:
            text = f"{self._who} may have {self._max_requests} requests at a time, and already has {self.running}"
            raise RateLimitedError(text, retry_after_s=_RETRY_S, limit="concurrent")
        if self._requests is not None:
            self._check(self._requests, 1, "requests", now_s)
        if self._tokens is not None:  # a client in debt
            self._check(self._tokens, 1, "tokens", now_s)

    def check_tokens(self, tokens: int, now_s: float) -> None:
        """Raises RateLimitedError: this many tokens exceed a limit."""
        if self._tokens is not None:
            self._check(self._tokens, tokens, "tokens", now_s)

    def begin(self, now_s: float) -> None:
        """A request has begun."""
        self.running += 1
        if self._requests is not None:
            self._requests.take(1, now_s)

    def use(self, tokens: int, now_s: float) -> None:
        """Tokens are used; a negative number: less than was thought."""
        if self._tokens is not None:
            self._tokens.take(tokens, now_s)

    def end(self) -> None:
        """A request has ended."""
        self.running -= 1

    def is_unused(self, now_s: float) -> bool:
        """Whether it is as good as a new one: nothing runs, and everything that was taken has come back."""
        buckets = [bucket for bucket in (self._requests, self._tokens) if bucket is not None]
        return not self.running and all(bucket.left(now_s) >= bucket.per_minute for bucket in buckets)

    def header_lines(self, now_s: float) -> bytes:
        """OpenAI's header lines on the state of the limits, each with its end."""
        return b"".join(
            _lines(name, bucket, now_s)
            for name, bucket in ((b"requests", self._requests), (b"tokens", self._tokens))
            if bucket is not None
        )

    def _check(self, bucket: TokenBucket, amount: int, what: str, now_s: float) -> None:
        if (wait_s := bucket.wait_s(amount, now_s)) > 0:
            raise RateLimitedError(
                f"{self._who} may have {bucket.per_minute} {what} a minute; try again in {math.ceil(wait_s)} s",
                retry_after_s=wait_s,
                limit=what,
            )


def _bucket(per_minute: int | None, now_s: float) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute, now_s)


def _lines(name: bytes, bucket: TokenBucket, now_s: float) -> bytes:
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %b\r\n" % (
        name,
        bucket.per_minute,
        name,
        max(0, int(bucket.left(now_s))),
        name,
        duration_text(bucket.full_in_s(now_s)).encode(),
    )


def duration_text(duration_s: float) -> str:
    """A duration as OpenAI writes it: `1m12.5s`, `300ms`."""
    if duration_s < 1:
        return f"{math.ceil(duration_s * 1000)}ms"
    minutes, seconds = divmod(math.ceil(duration_s * 10) / 10, 60)
    return f"{int(minutes)}m{seconds:g}s" if minutes else f"{seconds:g}s"
