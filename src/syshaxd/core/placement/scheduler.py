# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Where a request goes. Pure: the same view and request give the same decision.

What the client insists on comes first. The rules of the view's policy decide everything else.
"""

from collections.abc import Sequence

from syshaxd.core.placement.capacity import Room
from syshaxd.core.placement.decision import Decision, InferenceRequest, Offload, Reject, Wait
from syshaxd.core.placement.rules import RULES, Move, Rules, View
from syshaxd.core.placement.rules.view import least_loaded
from syshaxd.core.types import InstanceSpec, Role


def decide(view: View, request: InferenceRequest) -> Decision:
    """Places a request on one of the view's candidates, or on two."""
    rules = _rules(view)
    if request.pinned is not None:
        rooms = [rules.room(view, spec) for spec in view.candidates if spec.name == request.pinned]
        return _pinned(request.pinned, rooms)
    if not view.candidates:
        return Reject("no instance that serves this request is ready", retry_after_s=5.0)
    if request.offload and not request.whole_because and (forced := _asked(view, rules)):
        return forced
    return rules.decide(view, request)


def room(view: View, spec: InstanceSpec) -> Room:
    """How much more an instance can take."""
    return _rules(view).room(view, spec)


def moves(view: View) -> tuple[Move, ...]:
    """Which running streams should move. The view is of no request; all instances of a model are its candidates."""
    return _rules(view).moves(view)


def _rules(view: View) -> Rules:
    return RULES[view.policy.name]


def _pinned(name: str, rooms: Sequence[Room]) -> Decision:
    if not rooms:
        return Reject(f"{name}, which the request asks for, is not ready", retry_after_s=5.0)
    return least_loaded(rooms, ("the request asks for it",))


def _asked(view: View, rules: Rules) -> Offload | Wait | None:
    """An offload that the client asks for, now or later; None: it is not possible."""
    able = [
        (rules.room(view, gpu), rules.room(view, cpu))
        for gpu in view.specs(Role.GPU)
        for cpu in view.specs(Role.CPU)
        if (gpu.name, cpu.name) in view.pairs
    ]
    for gpu, cpu in able:
        if gpu.has_place and cpu.has_place:
            return Offload(gpu.spec.name, cpu.spec.name, ("the request asks for it",))
    return Wait(("the request asks for an offload, and the backlogs are full",)) if able else None
