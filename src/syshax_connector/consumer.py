# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The loading engine's side: finds a hand-over, checks it, and determines how much of it is usable."""

import time
from collections.abc import Callable, Sequence

from .folder import Claim, Folder, FolderError
from .header import BadHeaderError, Header, Model, common_prefix
from .layout import Shape
from .settings import Settings


class MissError(Exception):
    """There is nothing to load; `reason` is one word for metrics, the message is for logs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Consumer:
    """Looks for hand-overs."""

    def __init__(
        self,
        folder: Folder,
        settings: Settings,
        *,
        model: Model,
        shape: Shape,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._model = model
        self._shape = shape
        self._clock = clock

    def claim(self, key: str, token_ids: Sequence[int], since: float) -> tuple[Claim, int] | None:
        """Claims a hand-over; None while it may still appear.

        Args:
            key: Its key.
            token_ids: The request's tokens.
            since: When the request was first asked about, on the clock.

        Returns:
            The claim, and how many of the request's first tokens it holds.

        Raises:
            MissError: It is not there in time, is somebody else's, damaged, or of another model or text.
        """
        try:
            claim = self._folder.claim(key)
        except BlockingIOError:
            raise MissError("busy", f"hand-over {key}: another engine is loading it") from None
        except FolderError as error:
            raise MissError("arena", f"hand-over {key}: {error}") from error
        except (OSError, BadHeaderError) as error:
            self._folder.take_back(key)
            raise MissError("damaged", f"hand-over {key}: {error}") from error
        if claim is None:
            if self._clock() - since < self._settings.wait_s:
                return None
            raise MissError("missing", f"hand-over {key}: not there after {self._settings.wait_s:g} s")
        try:
            self._check(claim.header)
        except MissError:
            claim.close()
            raise
        tokens = common_prefix(claim.header.token_ids, token_ids)
        if not tokens:
            claim.close()
            raise MissError("tokens", f"hand-over {key}: it begins with other tokens")
        return claim, tokens

    def _check(self, header: Header) -> None:
        if difference := self._model.difference(header.model):
            raise MissError("model", f"hand-over {header.key}: {difference}")
        for part in header.parts:
            tokens = header.tokens if part.packed is None else part.packed.room(header.tokens)
            size = self._shape.rank_bytes(tokens, len(header.parts))
            if header.size != size:
                raise MissError("damaged", f"hand-over {header.key}: {header.size} bytes instead of {size}")
            path = self._folder.path / part.arena
            try:
                whole = path.stat().st_size >= header.offset + header.size
            except OSError as error:
                raise MissError("arena", f"hand-over {header.key}: {path}: {error.strerror}") from error
            if not whole:
                raise MissError("arena", f"hand-over {header.key}: {path} was cut off")
