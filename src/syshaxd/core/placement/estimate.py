# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the instances were measured to do: learnt from readings, from answers that ended and from hand-overs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.placement.measured import Lengths, Line, Measured
from syshaxd.core.placement.records import HandoverRecord

_Key = TypeVar("_Key")

_MAX_KINDS = 64
"""Kinds of requests whose lengths are remembered apart."""
_MIN_FOR_A_KIND = 8
"""Answers from which a kind's own lengths count."""
_MIN_KV_RATIO = 0.02
"""KV-cache usage under which a reading says little of what a request takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What was measured so far; an instance or a pair that is missing was never seen at it."""

    token_s: Mapping[str, Line] = field(default_factory=dict)
    """Seconds between two tokens of one stream, by instance, over the requests that run there."""
    prefill_s: Mapping[str, Line] = field(default_factory=dict)
    """Seconds from a request's admission by the instance to its first token, over the tokens of the prompt."""
    kv_per_request: Mapping[str, Measured] = field(default_factory=dict)
    """Share of the KV cache that a running request has, by instance."""
    lengths: Lengths = field(default_factory=Lengths)
    """Of all answers."""
    lengths_by_kind: Mapping[str, Lengths] = field(default_factory=dict)
    """By InferenceRequest.kind."""
    handover_s: Mapping[tuple[str, str], Measured] = field(default_factory=dict)
    """From the last token of the source to the first of the target, where the KV cache was handed over."""
    refused: Mapping[str, Measured] = field(default_factory=dict)
    """Share of the hand-overs from an instance whose KV cache did not arrive, so that the target computed it."""
    read_at_s: Mapping[str, float] = field(default_factory=dict)
    """Monotonic times of the readings that are in it already."""

    def lengths_of(self, kind: str) -> Lengths:
        """The lengths of answers to requests of a kind; of all, as long as few of that kind have ended."""
        its = self.lengths_by_kind.get(kind)
        return its if its is not None and len(its.latest) >= _MIN_FOR_A_KIND else self.lengths


def observe_loads(estimates: Estimates, snapshot: Snapshot) -> Estimates:
    """Takes new readings into account; what an instance without work does is not known from them."""
    token_s, prefill_s = dict(estimates.token_s), dict(estimates.prefill_s)
    kv_per_request, read_at_s = dict(estimates.kv_per_request), dict(estimates.read_at_s)
    for name, load in snapshot.instances.items():
        if load.error or read_at_s.get(name) == load.read_at_s:
            continue
        read_at_s[name] = load.read_at_s
        if (now_s := _token_s(load)) > 0:
            _draw(token_s, name, max(1, load.running), now_s)
        if load.prefill_s > 0:
            _draw(prefill_s, name, load.prefill_tokens, load.prefill_s)
        if load.running and load.kv_usage_ratio > _MIN_KV_RATIO:
            _observe(kv_per_request, name, load.kv_usage_ratio / load.running)
    return replace(estimates, token_s=token_s, prefill_s=prefill_s, kv_per_request=kv_per_request, read_at_s=read_at_s)


def observe_answer(estimates: Estimates, tokens: int, kind: str = "") -> Estimates:
    """Takes the length of an answer into account."""
    by_kind = dict(estimates.lengths_by_kind)
    its = by_kind.pop(kind, Lengths())
    if len(by_kind) >= _MAX_KINDS:
        del by_kind[next(iter(by_kind))]  # that which was not seen for longest
    by_kind[kind] = its.observe(tokens)
    return replace(estimates, lengths=estimates.lengths.observe(tokens), lengths_by_kind=by_kind)


def observe_handover(estimates: Estimates, handover: HandoverRecord) -> Estimates:
    """Takes a hand-over into account, if a KV cache was to go with it."""
    if not handover.asked or handover.gap_s is None:
        return estimates
    refused, handover_s = dict(estimates.refused), dict(estimates.handover_s)
    its = refused.get(handover.source, Measured(0.0, 0.0))
    refused[handover.source] = its.observe(1.0 if handover.failed else 0.0)
    if not handover.failed:
        _observe(handover_s, (handover.source, handover.target), handover.gap_s)
    return replace(estimates, refused=refused, handover_s=handover_s)


def _draw(lines: dict[str, Line], name: str, x: float, y: float) -> None:
    lines[name] = lines[name].observe(x, y) if name in lines else Line.first(x, y)


def _observe(known: dict[_Key, Measured], name: _Key, value: float) -> None:
    known[name] = known[name].observe(value) if name in known else Measured.first(value)


def _token_s(load: InstanceLoad) -> float:
    """0: it did nothing. Servers before vLLM 0.11 tell only how many tokens they made."""
    if load.token_s > 0 or load.running < 1 or load.generation_tokens_per_s <= 0:
        return load.token_s
    return load.running / load.generation_tokens_per_s
