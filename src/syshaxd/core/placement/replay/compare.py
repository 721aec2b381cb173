# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Policies compared over loads and sections of a trace, next to what both devices could do together."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from syshaxd.core.placement.replay.profiles import Profile
from syshaxd.core.placement.replay.run import Replayed, replay
from syshaxd.core.placement.replay.stream import Outcome
from syshaxd.core.placement.replay.trace import TracedRequest, at_rate, fit, section, with_batch
from syshaxd.core.placement.rules import Policy
from syshaxd.core.placement.targets import RequestClass, Target

DEFAULT_LOADS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Times what the GPU alone can do."""
_NOISE = "noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One policy at one load: means over sections of the trace, except where the name says otherwise."""

    profile: str
    load: float
    """Requests that arrive, as a share of those that the GPU alone can answer in the time."""
    policy: str
    goodput: float
    """Interactive requests a second that met both targets."""
    tokens_per_s: float
    """From the first arrival to the last."""
    ideal_tokens_per_s: float
    """What devices could make that work off all that has arrived at the sum of both devices' paces, each alone."""
    first_s: float
    first_p99_s: float
    whole_s: float
    whole_p99_s: float
    token_s: float
    """Between two tokens."""
    helped: float
    """Share of requests with tokens from the CPU."""
    batch_whole_s: float = 0.0
    """Mean of whole answers to batch requests; the other times are those of interactive ones."""
    worst_whole_p99: float = 1.0
    """Of all sections the highest ratio of the p99 of whole answers to that of `gpu-only`."""
    worst_goodput: float = 1.0
    """Of all sections the lowest ratio of goodput to that of `gpu-only`."""
    noise_whole_p99: float = 1.0
    """The same as `worst_whole_p99` for `gpu-only` itself, if requests arrive up to 10 ms later."""
    noise_goodput: float = 1.0
    """As `worst_goodput`, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared."""

    profile: Profile
    policies: Sequence[str]
    loads: Sequence[float] = DEFAULT_LOADS
    requests: int = 1000
    """In each section of the trace."""
    seeds: Sequence[int] = (1, 2, 3)
    """One section each."""
    told_limits: bool = False
    """Whether requests send the lengths of their answers as limits."""
    batch_share: float = 0.0
    """Share of batch requests."""
    targets: bool = False
    """Whether placement knows the profile's targets for interactive requests."""
    holdout: float = 0.0
    """Share of the requests that a CPU would help with, which wait for the GPU (`scheduler.holdout`)."""


def compare(trace: Sequence[TracedRequest], what: Comparison) -> Iterator[Row]:
    """Replays sections of a trace; yields rows by load, then by policy, as they come."""
    profile = what.profile
    longest = min(profile.gpu.max_model_len, profile.cpu.max_model_len)
    sections = [
        with_batch(fit(section(trace, what.requests, seed), longest), what.batch_share, seed) for seed in what.seeds
    ]
    target = Target(ttft_s=profile.slo_first_s, tpot_s=profile.slo_token_s)
    targets = {RequestClass.INTERACTIVE: target} if what.targets else {}
    capacities = [
        (_capacity(profile, "gpu-only", requests), _capacity(profile, "cpu-only", requests)) for requests in sections
    ]
    for load in what.loads:
        runs: dict[str, list[Row]] = {}
        for requests, (gpu, cpu) in zip(sections, capacities, strict=True):
            arriving = at_rate(requests, load * gpu.requests_per_s)
            ideal = _ideal(arriving, gpu.tokens_per_s + cpu.tokens_per_s)
            named = dict.fromkeys(("gpu-only", *what.policies), arriving) | {_NOISE: _jittered(arriving)}
            for name, given in named.items():
                rules = "gpu-only" if name == _NOISE else name
                policy = Policy(name=rules, targets=targets, holdout=what.holdout)
                replayed = replay(profile, policy, given, told_limits=what.told_limits)
                runs.setdefault(name, []).append(_row(profile, load, name, replayed, ideal))
        noise_p99, noise_goodput = _worst(runs[_NOISE], runs["gpu-only"])
        for name in what.policies:
            mean = _mean(runs[name], runs["gpu-only"])
            yield replace(mean, noise_whole_p99=noise_p99, noise_goodput=noise_goodput)


def _jittered(requests: Sequence[TracedRequest]) -> list[TracedRequest]:
    """The same requests, each up to 10 ms later: what differs then is chance."""
    chance = random.Random(0)  # noqa: S311 - no secret
    later = [replace(request, at_s=request.at_s + chance.uniform(0.0, 0.01)) for request in requests]
    return sorted(later, key=lambda request: request.at_s)


@dataclass(frozen=True, slots=True)
class _Capacity:
    requests_per_s: float
    tokens_per_s: float


def _capacity(profile: Profile, policy: str, requests: Sequence[TracedRequest]) -> _Capacity:
    """What one device does with these requests if they all arrive at once."""
    at_once = [replace(request, at_s=0.0) for request in requests]
    outcomes = replay(profile, Policy(name=policy), at_once).outcomes
    # The last answers end alone: what was done by then is told by the time in which nine tenths ended.
    ends = sorted(outcomes, key=lambda outcome: outcome.end_s)[: max(1, len(outcomes) * 9 // 10)]
    span_s = ends[-1].end_s
    return _Capacity(len(ends) / span_s, sum(outcome.traced.answer_tokens for outcome in ends) / span_s)


def _ideal(requests: Sequence[TracedRequest], tokens_per_s: float) -> float:
    """Tokens a second, up to the last arrival, of what makes so many whenever a request waits or runs."""
    made = waiting = now_s = 0.0
    for request in requests:
        done = min(waiting, (request.at_s - now_s) * tokens_per_s)
        made, waiting, now_s = made + done, waiting - done + request.answer_tokens, request.at_s
    return made / max(now_s, 1e-9)


def _row(profile: Profile, load: float, policy: str, replayed: Replayed, ideal: float) -> Row:
    batch = [outcome for outcome in replayed.outcomes if outcome.traced.is_batch]
    outcomes = [outcome for outcome in replayed.outcomes if not outcome.traced.is_batch] or batch
    arrivals_s = max(replayed.arrivals_s, 1e-9)
    good = sum(
        outcome.to_first_s <= profile.slo_first_s and outcome.token_s <= profile.slo_token_s for outcome in outcomes
    )
    return Row(
        profile=profile.name,
        load=load,
        policy=policy,
        goodput=good / arrivals_s,
        tokens_per_s=replayed.tokens / arrivals_s,
        ideal_tokens_per_s=ideal,
        first_s=fmean(outcome.to_first_s for outcome in outcomes),
        first_p99_s=_p99([outcome.to_first_s for outcome in outcomes]),
        whole_s=fmean(outcome.whole_s for outcome in outcomes),
        whole_p99_s=_p99([outcome.whole_s for outcome in outcomes]),
        token_s=fmean(outcome.token_s for outcome in outcomes),
        helped=sum(_helped(outcome) for outcome in replayed.outcomes) / len(replayed.outcomes),
        batch_whole_s=fmean(outcome.whole_s for outcome in batch) if batch else 0.0,
    )


def _helped(outcome: Outcome) -> bool:
    return "cpu" in outcome.places or any(handover.target == "cpu" for handover in outcome.handovers)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


def _mean(rows: Sequence[Row], alone: Sequence[Row]) -> Row:
    first = rows[0]

    def mean(name: str) -> float:
        return fmean(getattr(row, name) for row in rows)

    worst_p99, worst_goodput = _worst(rows, alone)
    return Row(
        profile=first.profile,
        load=first.load,
        policy=first.policy,
        goodput=mean("goodput"),
        tokens_per_s=mean("tokens_per_s"),
        ideal_tokens_per_s=mean("ideal_tokens_per_s"),
        first_s=mean("first_s"),
        first_p99_s=mean("first_p99_s"),
        whole_s=mean("whole_s"),
        whole_p99_s=mean("whole_p99_s"),
        token_s=mean("token_s"),
        helped=mean("helped"),
        batch_whole_s=mean("batch_whole_s"),
        worst_whole_p99=worst_p99,
        worst_goodput=worst_goodput,
    )


def _worst(rows: Sequence[Row], alone: Sequence[Row]) -> tuple[float, float]:
    """Of all sections the worst ratios to the GPU alone: of the p99 of whole answers, and of goodput."""
    pairs = list(zip(rows, alone, strict=True))
    return (
        max(row.whole_p99_s / other.whole_p99_s for row, other in pairs),
        min(row.goodput / other.goodput if other.goodput else 1.0 for row, other in pairs),
    )
