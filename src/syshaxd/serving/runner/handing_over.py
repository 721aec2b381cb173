# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A hand-over under way: what is measured of it, and the source's slot."""

from dataclasses import replace

from syshaxd.core.placement.records import HandoverRecord
from syshaxd.core.placement.slots import Slot


class HandoverUnderWay:
    """One hand-over, up to the end of the target's segment."""

    def __init__(self, record: HandoverRecord, source: Slot | None, *, last_token_at_s: float) -> None:
        """A hand-over has begun.

        Args:
            record: What is known of it.
            source: The source's slot, kept until the KV cache has been loaded; None: it has been released.
            last_token_at_s: When the source made its last token (the loop's time).
        """
        self._record = record
        self._source = source
        self._last_token_at_s = last_token_at_s

    def observe_token(self, now_s: float) -> None:
        """The target has made a token: it has loaded the KV cache."""
        self.release_source()
        if self._record.gap_s is None:
            self._record = replace(self._record, gap_s=now_s - self._last_token_at_s, at_s=now_s)

    def release_source(self) -> None:
        """The source may stop."""
        source, self._source = self._source, None
        if source is not None:
            source.release()

    def end(self, cached_tokens: int | None) -> HandoverRecord:
        """The target's segment is over; it did not have to compute so many tokens."""
        return replace(self._record, cached_tokens=cached_tokens)
