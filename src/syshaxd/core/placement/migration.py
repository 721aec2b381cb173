# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which streams migrate, of those that could."""

from collections.abc import Iterable

from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.records import Cause
from syshaxd.core.placement.rules import Move


def movable(claims: Iterable[Claim], move: Move) -> list[Claim]:
    """The claims whose streams migrate by a move: the longest first; off a full instance, batch before interactive."""
    able = [
        (claim.is_batch and move.cause is not Cause.ROOM, stream.tokens, claim)
        for claim in claims
        if (stream := claim.stream) is not None
        and stream.spec is not None
        and stream.spec.name == move.source
        and stream.may_move
        and (move.cause is not Cause.ROOM or stream.may_return)
        and (move.cause is not Cause.PRIORITY or claim.is_batch)
    ]
    return [claim for *_, claim in sorted(able, key=lambda found: (-found[0], -found[1]))][: move.count]
