# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Holds clients to their limits: by API key, and all together."""

from collections.abc import Callable

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import BadRequestError
from syshaxd.core.placement.rate_limits import RateLimits, RateMeter
from syshaxd.core.placement.records import RequestRecord

_FEW_METERS = 1000
"""Fewer are not worth looking through."""


class RateLimiter:
    """Knows what each key has used. Lives in one event loop."""

    def __init__(self, limits: RateLimits, max_prompt_tokens: int | None, clock: Callable[[], float]) -> None:
        """Has measured nothing.

        Args:
            limits: Of all clients together.
            max_prompt_tokens: Of each request; None: no limit.
            clock: Seconds that never go back.
        """
        self._all = None if limits == RateLimits() else RateMeter(limits, "all clients together", clock())
        self._max_prompt_tokens = max_prompt_tokens
        self._clock = clock
        self._meters: dict[str, tuple[str, RateMeter]] = {}
        self._clear_at = _FEW_METERS

    def begin(self, key: ApiKey | None) -> "LimitedRequest":
        """A request with this key has come. Raises RateLimitedError: it exceeds a limit."""
        meters = [] if self._all is None else [self._all]
        if key is not None and key.is_limited:
            meters.insert(0, self._meter(key))
        now_s = self._clock()
        for meter in meters:
            meter.check(now_s)
        for meter in meters:
            meter.begin(now_s)
        return LimitedRequest(self, tuple(meters), key)

    def begin_line(self, key: ApiKey | None, prompt_tokens: int) -> "LimitedLine":
        """A line of a batch that this key has ordered may begin: of the key's limits it takes tokens alone.

        Raises:
            RateLimitedError: It has to wait.
            BadRequestError: The prompt is too long.
        """
        self.check_prompt(key, prompt_tokens)
        meter = self._meter(key) if key is not None and key.is_limited else None
        if meter is not None:
            meter.check_tokens(max(1, prompt_tokens), self._clock())
        return LimitedLine(self, meter, prompt_tokens)

    def _meter(self, key: ApiKey) -> RateMeter:
        """Of a key; another key of the same name has another one."""
        known = self._meters.get(key.name)
        if known is None or known[0] != key.sha256:
            self._clear_unused()
            limits = RateLimits(
                requests_per_minute=key.requests_per_minute,
                tokens_per_minute=key.tokens_per_minute,
                max_requests=key.max_requests,
            )
            known = self._meters[key.name] = key.sha256, RateMeter(limits, f"the API key {key.name}", self._clock())
        return known[1]

    def _clear_unused(self) -> None:
        """Keys come and go: now and then, drops the meters that measure nothing any more."""
        if len(self._meters) < self._clear_at:
            return
        now_s = self._clock()
        self._meters = {name: known for name, known in self._meters.items() if not known[1].is_unused(now_s)}
        self._clear_at = max(_FEW_METERS, 2 * len(self._meters))

    def header_lines(self, key: ApiKey | None) -> bytes:
        """Header lines for an answer: on the key's limits, else on those of all."""
        meter = self._meter(key) if key is not None and key.is_limited else self._all
        return b"" if meter is None else meter.header_lines(self._clock())

    def check_prompt(self, key: ApiKey | None, tokens: int) -> None:
        """Raises BadRequestError: the prompt is too long."""
        limit, of_key = self._max_prompt_tokens, None if key is None else key.max_prompt_tokens
        if limit is None or (of_key is not None and of_key < limit):
            limit = of_key
        if limit is not None and tokens > limit:
            raise BadRequestError(
                f"the request has about {tokens} tokens; a prompt may have at most {limit} "
                "(gateway.max_prompt_tokens, or the API key's limit)",
                code="context_length_exceeded",
            )

    @property
    def now_s(self) -> float:
        """The present moment."""
        return self._clock()


class LimitedRequest:
    """What one request has used, until it ends."""

    __slots__ = ("_counted_tokens", "_key", "_limiter", "_meters")

    def __init__(self, limiter: RateLimiter, meters: tuple[RateMeter, ...], key: ApiKey | None) -> None:
        self._limiter = limiter
        self._meters = meters
        self._key = key
        self._counted_tokens = 0

    def expect(self, prompt_tokens: int) -> None:
        """Its prompt has about this many tokens.

        Raises:
            BadRequestError: They are too many.
            RateLimitedError: They are too many at this moment.
        """
        self._limiter.check_prompt(self._key, prompt_tokens)
        if not self._meters:
            return
        now_s = self._limiter.now_s
        for meter in self._meters:
            meter.check_tokens(prompt_tokens, now_s)
        self._use(prompt_tokens)

    def end(self, tokens: int) -> None:
        """It has ended, and has taken this many tokens in all."""
        self._use(tokens - self._counted_tokens)
        for meter in self._meters:
            meter.end()
        self._meters = ()

    def _use(self, tokens: int) -> None:
        self._counted_tokens += tokens
        if self._meters:
            now_s = self._limiter.now_s
            for meter in self._meters:
                meter.use(tokens, now_s)


class LimitedLine:
    """What one line of a batch has used, until it ends."""

    __slots__ = ("_counted_tokens", "_limiter", "_meter", "_used_tokens")

    def __init__(self, limiter: RateLimiter, meter: RateMeter | None, prompt_tokens: int) -> None:
        self._limiter = limiter
        self._meter = meter
        self._counted_tokens = prompt_tokens
        self._used_tokens = 0
        self._use(prompt_tokens)

    def add(self, tokens: int) -> None:
        """One try has taken this many tokens."""
        self._used_tokens += tokens

    def end(self) -> None:
        """It has ended."""
        self._use(self._used_tokens - self._counted_tokens)
        self._meter = None

    def _use(self, tokens: int) -> None:
        if self._meter is not None:
            self._meter.use(tokens, self._limiter.now_s)


def used_tokens(record: RequestRecord, expected_prompt_tokens: int) -> int:
    """What a request has taken, by its instance's account as far as there is one."""
    if not record.placement:
        return 0
    return (record.tokens_in or expected_prompt_tokens) + record.tokens_out
