# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What one instance yields of an offloaded answer: the prompt's KV cache, and mostly the first token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.chunks import UNREADABLE
from syshaxd.core.handover.dialect import HandoverDialect
from syshaxd.core.handover.joining import JoinedAnswer
from syshaxd.core.report.describe import excerpt
from syshaxd.serving.runner.segment import Segment


@dataclass(frozen=True, slots=True)
class FirstToken:
    """What a prefill has yielded."""

    events: bytes
    """What the client gets for it."""
    load: str | None
    """What the target loads the KV cache by; None: it was not saved."""
    size_bytes: int
    """Of the KV cache; 0: not told."""


def read_first_token(
    response: Segment, joined: JoinedAnswer, dialect: HandoverDialect, *, key: str, max_model_len: int | None
) -> FirstToken:
    """Reads an instance's answer to a prefill into `joined`; if `joined.plain` is false then, nothing was taken.

    Raises:
        InstanceFailedError: The answer cannot be read.
    """

    def take(answer: Mapping[str, Any]) -> bytes:
        return joined.take_prefill(answer, max_model_len=max_model_len)

    return _read(response, take, dialect, key)


def read_prompt(response: Segment, joined: JoinedAnswer, dialect: HandoverDialect, *, key: str) -> FirstToken:
    """Reads an instance's answer to a request for the prompt alone; its token is not used.

    An error is not read: it may be a parser's, which cannot make anything of one token. The instance gets the client's
    own request then.

    Raises:
        InstanceFailedError: The answer cannot be read.
    """
    if response.head_ is None or response.head_.status != HTTPStatus.OK:
        return FirstToken(b"", None, 0)

    def take(answer: Mapping[str, Any]) -> bytes:
        joined.take_prompt(answer)
        return b""

    return _read(response, take, dialect, key)


def _read(
    response: Segment, take: Callable[[Mapping[str, Any]], bytes], dialect: HandoverDialect, key: str
) -> FirstToken:
    try:
        answered = jsontext.loads(response.payload())
        load, size_bytes = dialect.load_key(answered, key), dialect.size_bytes(answered)
        return FirstToken(take(answered), load, size_bytes)
    except UNREADABLE as error:
        raise InstanceFailedError(f"the instance's first token cannot be read: {excerpt(repr(error))}") from error
