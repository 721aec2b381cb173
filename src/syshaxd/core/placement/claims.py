# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The input of admission (claims and the fleet), and its output (effects)."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import msgspec

from syshaxd.core.errors import SyshaxError
from syshaxd.core.loads import Snapshot
from syshaxd.core.placement.decision import Decision, InferenceRequest
from syshaxd.core.placement.holdout import Member
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import View
from syshaxd.core.placement.slots import Grant, Slot
from syshaxd.core.types import InstanceSpec


class MovableStream(Protocol):
    """An answer in the making that can migrate to another instance."""

    @property
    def spec(self) -> InstanceSpec | None:
        """The instance that makes it now; None: it has not started, or has ended."""

    @property
    def tokens(self) -> int:
        """Tokens that the client has."""

    @property
    def may_move(self) -> bool:
        """Whether it can migrate now."""

    @property
    def may_return(self) -> bool:
        """Whether it may leave the instance to which it was offloaded."""

    def move(self, target: Slot, cause: Cause) -> bool:
        """Migrates to `target` soon; false: it cannot, and has released the slot."""


@dataclass(slots=True, eq=False)
class Claim:
    """A request's claim to slots, from its arrival to its end."""

    request: InferenceRequest
    tried: tuple[str, ...] = ()
    """Instances that failed the request: it is not placed there again."""
    first: bool = False
    """It goes before all claims that wait."""
    stream: MovableStream | None = None
    """Its answer, once there is one, if it can move."""
    queue: str = ""
    """The model in whose queue it is, or would be."""
    member: Member | None = None
    """Its part in the hold-out experiment; None: no CPU was about to help."""

    @property
    def key(self) -> str:
        """The API key whose turn it needs."""
        return self.request.key

    @property
    def is_batch(self) -> bool:
        """Whether it waits behind interactive requests."""
        return self.request.is_batch

    @property
    def held_out(self) -> bool:
        """Whether it waits for the GPU as if there were no CPU."""
        return self.member is not None and self.member.held_out


class Fleet(msgspec.Struct, frozen=True):
    """The instances at one moment, as placement sees them."""

    specs: Mapping[str, InstanceSpec]
    """All, by name."""
    ready: Sequence[InstanceSpec]
    """The READY instances."""
    candidates: Callable[[InferenceRequest, Sequence[str]], Sequence[InstanceSpec]]
    """READY instances that serve a request, except these names, best first; raises NotFoundError if none ever does."""
    pairs: Set[tuple[str, str]]
    """Source and target of every hand-over that is possible."""
    snapshot: Snapshot
    """The latest readings."""
    at_s: float
    """Unix time, for the history of decisions."""
    now_s: float = 0.0
    """Monotonic."""
    waited_for: Callable[[InferenceRequest, Sequence[str]], Sequence[InstanceSpec]] = lambda request, tried: ()
    """Those that serve a request once it has started them, without these names."""

    def find_ready(self, name: str) -> InstanceSpec | None:
        """The instance of that name, if it is READY."""
        return next((spec for spec in self.ready if spec.name == name), None)


# Effects.


@dataclass(frozen=True, slots=True)
class Granted:
    """The claim has its slots: the request runs now. The request releases the grant."""

    claim: Claim
    grant: Grant


@dataclass(frozen=True, slots=True)
class Refused:
    """The claim gets no slots, now or later."""

    claim: Claim
    error: SyshaxError


@dataclass(frozen=True, slots=True)
class MoveStream:
    """The claim's stream migrates to an instance, where it has a slot already."""

    claim: Claim
    slot: Slot
    cause: Cause


class Decided(msgspec.Struct, frozen=True):
    """A decision and what it rests on, for the history. It holds values only, and is rendered when it is shown."""

    at_s: float
    """Unix time."""
    request: InferenceRequest
    decision: Decision
    view: View
    """What the decision rests on. Its candidates include those that the hold-out kept from the request."""
    queued: int = 0
    """Entries of the model's queue, before this request."""

    def is_for(self, model: str) -> bool:
        """Whether the request is for a model, by the name that its client gave or by that of the instances."""
        return self.request.model == model or any(spec.served_model == model for spec in self.view.candidates)


@dataclass(frozen=True, slots=True)
class HelpSwitched:
    """Help by CPUs was switched off because it gains nothing, or on again."""

    on: bool
    text: str
    """Why."""


Effect = Granted | Refused | MoveStream | Decided | HelpSwitched
