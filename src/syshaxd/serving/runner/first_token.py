# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The first token of an offloaded answer: one instance reads the prompt, another one continues."""

import json
from dataclasses import dataclass

from syshaxd.core.errors import InstanceFailedError
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
    try:
        answered = json.loads(response.payload())
        load, size_bytes = dialect.load_key(answered, key), dialect.size_bytes(answered)
        return FirstToken(joined.take_prefill(answered, max_model_len=max_model_len), load, size_bytes)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InstanceFailedError(f"the instance's first token cannot be read: {excerpt(repr(error))}") from error
