# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Removes the part of an answer that an instance repeats before it continues."""


class RestatedText:
    """Takes the text of one part, piece by piece; gives what is new in it.

    A part either begins with all of the text that is known, or continues right after it. Which of the two it is shows
    as soon as it differs from what is known.
    """

    def __init__(self, known: str) -> None:
        self._known = known
        self._held = ""

    def push(self, text: str) -> str:
        """Returns what is new as far as can be told."""
        if not self._known:
            return text
        self._held += text
        if self._held.startswith(self._known):
            return self._settle(self._held[len(self._known) :])
        if self._known.startswith(self._held):
            return ""
        return self._settle(self._held)

    def end(self) -> str:
        """Returns what was held back: a part that repeats would repeat everything, so this was no repetition."""
        return self._settle(self._held)

    def _settle(self, new: str) -> str:
        self._known = self._held = ""
        return new
