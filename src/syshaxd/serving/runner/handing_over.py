# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The hand-overs of one answer: what is measured of them, and the source's slot meanwhile."""

from dataclasses import replace

from syshaxd.core.placement.records import HandoverRecord
from syshaxd.core.placement.slots import Slot
from syshaxd.serving.request import Request


class HandoverMeter:
    """Measures each hand-over up to the end of the target's segment."""

    def __init__(self, request: Request) -> None:
        """Measures nothing yet. Completed records are added to `request.handovers`."""
        self._request = request
        self._record: HandoverRecord | None = None
        self._source: Slot | None = None  # kept until the target has loaded the KV cache
        self.last_token_at_s = 0.0
        """When the answer's last token came (the loop's time)."""

    def begin(self, record: HandoverRecord, source: Slot) -> None:
        """Begins to measure a hand-over; ends the one before it."""
        self._record, self._source = record, source

    def observe_token(self, now_s: float) -> None:
        """The present instance has made a token: if it is a target, it has loaded the KV cache."""
        if self._record is not None:
            self.release_source()
            if self._record.gap_s is None:
                self._record = replace(self._record, gap_s=now_s - self.last_token_at_s, at_s=now_s)
        self.last_token_at_s = now_s

    def release_source(self) -> None:
        """Releases the source's slot: the source may stop."""
        source, self._source = self._source, None
        if source is not None:
            source.release()

    def end(self, cached_tokens: int | None) -> None:
        """The target's segment is over. It did not have to compute `cached_tokens` tokens."""
        record, self._record = self._record, None
        self._source = None
        if record is not None:
            self._request.handovers.append(replace(record, cached_tokens=cached_tokens))
