# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Estimates of what the instances can do, from readings, finished answers and hand-overs."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.measured import Lengths, Line, Measured, Slowdown
from syshaxd.core.placement.records import HandoverRecord
from syshaxd.core.placement.steps import StepTime

_Key = TypeVar("_Key")

_MAX_KINDS = 256
"""Kinds of requests whose lengths are kept separately; the least recently used one is dropped first."""
_MIN_FOR_A_KIND = 8
"""Answers from which a kind's own lengths count."""
_MIN_KV_RATIO = 0.02
"""KV-cache usage below which a reading says little about one request."""
_NO_TOKENS: Mapping[str, float] = {}


class Estimates(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements so far; a missing instance or pair was never measured."""

    token_s: Mapping[str, StepTime] = msgspec.field(default_factory=dict)
    """Seconds between two tokens of one stream, by instance."""
    prefill_s: Mapping[str, Line] = msgspec.field(default_factory=dict)
    """Seconds from a request's admission by the instance to its first token, over the tokens of the prompt."""
    kv_per_request: Mapping[str, Measured] = msgspec.field(default_factory=dict)
    """Share of the KV cache that a running request uses, by instance."""
    kv_per_token: Mapping[str, Measured] = msgspec.field(default_factory=dict)
    """The same for each token that `kv_tokens` expects of a request."""
    lengths: Lengths = Lengths()
    """Of all answers."""
    lengths_by_kind: Mapping[str, Lengths] = msgspec.field(default_factory=dict)
    """By each of InferenceRequest.kinds."""
    handover_s: Mapping[tuple[str, str], Line] = msgspec.field(default_factory=dict)
    """From the last token of the source to the first of the target, over the tokens whose KV was handed over."""
    handover_bytes: Mapping[str, Measured] = msgspec.field(default_factory=dict)
    """Bytes of KV cache for each token that an instance hands over."""
    refused: Mapping[str, Measured] = msgspec.field(default_factory=dict)
    """Share of an instance's hand-overs whose KV cache did not arrive, so that the target computed it."""
    interference: Mapping[tuple[str, str], float] = msgspec.field(default_factory=dict)
    """Share by which an instance's steps take longer while another one computes, by (instance, the other one)."""
    slowdowns: Mapping[tuple[str, str], Slowdown] = msgspec.field(default_factory=dict)
    """The same, as far as it was seen while requests were served, by (GPU, CPU)."""
    read_at_s: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Monotonic times of the readings that it contains."""

    def known_kind(self, kinds: Sequence[str]) -> str | None:
        """The first of these kinds of which enough answers have ended; None: of none."""
        for kind in kinds:
            its = self.lengths_by_kind.get(kind)
            if its is not None and len(its.latest) >= _MIN_FOR_A_KIND:
                return kind
        return None

    def lengths_of(self, kinds: Sequence[str]) -> Lengths:
        """The lengths of answers to requests of the first of these kinds of which enough have ended, else of all."""
        kind = self.known_kind(kinds)
        return self.lengths if kind is None else self.lengths_by_kind[kind]

    def kv_tokens(self, request: InferenceRequest) -> float:
        """Tokens that a request has in the KV cache while it runs, on average over that time."""
        return request.prompt_tokens + self.lengths_of(request.kinds).made(request.max_tokens)

    def kv_share(self, name: str, tokens: float) -> Measured | None:
        """Share of an instance's KV cache that a request takes; None: not seen yet.

        Args:
            name: The instance.
            tokens: What is expected of it (`kv_tokens`), on average over those that run there; 0: not known.
        """
        per_token = self.kv_per_token.get(name)
        if per_token is None or tokens <= 0:
            return self.kv_per_request.get(name)
        return Measured(per_token.value * tokens, per_token.spread * tokens, per_token.count)

    def for_kinds(self, kinds: Sequence[str]) -> "Estimates":
        """The part that decisions on a request of these kinds use: small enough to keep with each decision."""
        kind = self.known_kind(kinds)
        kept = {} if kind is None else {kind: self.lengths_by_kind[kind].shortened(_MIN_FOR_A_KIND)}
        return replace(self, lengths=self.lengths.shortened(0), lengths_by_kind=kept)


def observe_loads(estimates: Estimates, snapshot: Snapshot, tokens: Mapping[str, float] = _NO_TOKENS) -> Estimates:
    """Adds new readings; those of an idle instance change nothing.

    Args:
        estimates: What was known before.
        snapshot: The readings.
        tokens: What `Estimates.kv_tokens` expects of a request, on average over those that run on an instance now.
    """
    token_s, prefill_s, per_token = dict(estimates.token_s), dict(estimates.prefill_s), dict(estimates.kv_per_token)
    kv_per_request, read_at_s = dict(estimates.kv_per_request), dict(estimates.read_at_s)
    for name, load in snapshot.instances.items():
        if load.error or read_at_s.get(name) == load.read_at_s:
            continue
        read_at_s[name] = load.read_at_s
        if (now_s := _token_s(load)) > 0:
            at = max(1, load.running), now_s, load.kv_usage_ratio
            token_s[name] = token_s[name].observe(*at) if name in token_s else StepTime.first(*at)
        if load.prefill_s > 0:
            _draw(prefill_s, name, load.prefill_tokens, load.prefill_s)
        if load.running and load.kv_usage_ratio > _MIN_KV_RATIO:
            share = load.kv_usage_ratio / load.running
            _observe(kv_per_request, name, share)
            if tokens.get(name, 0.0) > 0:
                _observe(per_token, name, share / tokens[name])
    return replace(
        estimates,
        token_s=token_s,
        prefill_s=prefill_s,
        kv_per_request=kv_per_request,
        kv_per_token=per_token,
        read_at_s=read_at_s,
    )


def observe_answer(estimates: Estimates, tokens: int, kinds: Sequence[str] = ()) -> Estimates:
    """Adds the length of an answer to a request of these kinds, the narrowest first."""
    by_kind = dict(estimates.lengths_by_kind)
    for kind in kinds:
        lengths = by_kind.pop(kind, Lengths())
        if len(by_kind) >= _MAX_KINDS:
            del by_kind[next(iter(by_kind))]  # the least recently used
        by_kind[kind] = lengths.observe(tokens)
    return replace(estimates, lengths=estimates.lengths.observe(tokens), lengths_by_kind=by_kind)


def observe_handover(estimates: Estimates, handover: HandoverRecord) -> Estimates:
    """Adds a hand-over, if it was to carry a KV cache."""
    if not handover.asked or handover.gap_s is None:
        return estimates
    refused, seconds = dict(estimates.refused), dict(estimates.handover_s)
    size_bytes = dict(estimates.handover_bytes)
    share = refused.get(handover.source, Measured(0.0, 0.0))
    refused[handover.source] = share.observe(1.0 if handover.failed else 0.0)
    if not handover.failed:
        _draw(seconds, (handover.source, handover.target), handover.known_tokens, handover.gap_s)
        if handover.size_bytes and handover.known_tokens:
            _observe(size_bytes, handover.source, handover.size_bytes / handover.known_tokens)
    return replace(estimates, refused=refused, handover_s=seconds, handover_bytes=size_bytes)


def _draw(lines: dict[_Key, Line], name: _Key, x: float, y: float) -> None:
    lines[name] = lines[name].observe(x, y) if name in lines else Line.first(x, y)


def _observe(known: dict[_Key, Measured], name: _Key, value: float) -> None:
    known[name] = known[name].observe(value) if name in known else Measured.first(value)


def _token_s(load: InstanceLoad) -> float:
    """0: it did nothing. Servers before vLLM 0.11 export only how many tokens they made."""
    if load.token_s > 0 or load.running < 1 or load.generation_tokens_per_s <= 0:
        return load.token_s
    return load.running / load.generation_tokens_per_s
