# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The ways in which a request could have been served when it was decided, with the predictions for each.

They are computed from a decision's inputs when an operator asks for it, not when it is made.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, RunOn
from syshaxd.core.placement.prediction import LONG, MEDIAN, predict_first_s, predict_help
from syshaxd.core.placement.rules import RULES, View
from syshaxd.core.placement.rules.cost import ways
from syshaxd.core.types import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One way to serve a request. Times are predictions; None: too little was known."""

    places: tuple[str, ...]
    """The instance, or the instance for the prompt and the one for the answer."""
    first_s: float | None = None
    """Seconds to the first token."""
    whole_s: float | None = None
    """Seconds to the end of the answer."""
    others_s: float | None = None
    """Delay of other requests, in seconds, summed over them."""
    least_s: float | None = None
    """For help by a CPU: a lower bound of the gain less the cost for others."""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedLength:
    """The length of an answer that the predictions assume, in tokens; the client's limit counts."""

    mean: float
    median: int
    long: int
    """Nine of ten answers are no longer."""
    basis: str
    """What it was learnt from."""


def expected_length(view: View, request: InferenceRequest) -> ExpectedLength:
    """What is expected of the answer to a request."""
    estimates, kinds, most = view.estimates, request.kinds, request.max_tokens
    lengths, kind = estimates.lengths_of(kinds), estimates.known_kind(kinds)
    if kind is None:
        basis = "no answers yet" if lengths.are_assumed else "answers of all kinds"
    else:
        basis = f"answers to the key {request.key}" if request.key and kind == kinds[0] else "answers to such requests"
    return ExpectedLength(
        mean=lengths.mean if most is None else min(lengths.mean, most),
        median=lengths.quantile(MEDIAN, most),
        long=lengths.quantile(LONG, most),
        basis=basis,
    )


def alternatives(view: View, request: InferenceRequest, decision: Decision) -> tuple[Alternative, ...]:
    """All ways, the chosen one first."""
    places = decision.places if isinstance(decision, RunOn | Offload) else ()
    found = [replace(way, chosen=way.places == places) for way in _ways(view, request)]
    return tuple(sorted(found, key=lambda way: not way.chosen))


def short_form(view: View, request: InferenceRequest, decision: Decision) -> str:
    """A decision for a header line: what was chosen, the alternatives with their seconds, and the reasons."""
    kind = "offload" if isinstance(decision, Offload) else "run-on"
    ways = alternatives(view, request, decision)
    parts = [f"{kind} {_way_text(way)}" if way.chosen else f"instead {_way_text(way)}" for way in ways]
    if isinstance(decision, RunOn | Offload):
        if not ways or not ways[0].chosen:
            parts.insert(0, f"{kind} {'+'.join(decision.places)}")
        parts += (*decision.reasons, *request.split_limits)
    text = "; ".join((*parts, f"policy {view.policy.name}"))
    return "".join(each if each.isascii() and each.isprintable() else "?" for each in text)


def _way_text(way: Alternative) -> str:
    times = {"first": way.first_s, "whole": way.whole_s, "others": way.others_s}
    return " ".join(("+".join(way.places), *(f"{name}={s:.2f}s" for name, s in times.items() if s is not None)))


def _ways(view: View, request: InferenceRequest) -> Iterator[Alternative]:
    rules = RULES[view.policy.name]
    allowed = [spec for spec in view.candidates if request.pinned in {None, spec.name}]
    gpus = [rules.room(view, spec) for spec in allowed if spec.role is Role.GPU]
    for gpu in gpus:
        yield _alone(view, request, gpu)
    for cpu in (rules.room(view, spec) for spec in allowed if spec.role is Role.CPU):
        if not gpus:
            yield _alone(view, request, cpu)
            continue
        for way in ways(view, request, gpus, cpu):
            places = (way.gpu, way.cpu) if way.splits else (way.cpu,)
            predicted = predict_help(view.estimates, way)
            if predicted is None:
                yield Alternative(places=places)
            else:
                yield Alternative(
                    places=places,
                    first_s=predicted.offload_first_s,
                    whole_s=predicted.offload_s,
                    others_s=predicted.others_s,
                    least_s=predicted.least_s,
                )


def _alone(view: View, request: InferenceRequest, room: Room) -> Alternative:
    """One instance does everything; if it is full, the request waits for its turn."""
    name, estimates = room.spec.name, view.estimates
    step = estimates.token_s.get(name)
    if step is None:
        return Alternative(places=(name,))
    first_s = predict_first_s(estimates, room, request, view.queued)
    running = room.slots if room.full else room.running + 1
    whole_s = first_s + expected_length(view, request).mean * step.at(running)
    return Alternative(places=(name,), first_s=first_s, whole_s=whole_s, others_s=0.0)
