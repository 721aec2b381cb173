# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a client asks for by header fields of sysHAX's own."""

from collections.abc import Mapping

from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import BadRequestError, ForbiddenError
from syshaxd.core.placement.targets import RequestClass
from syshaxd.core.types import FULL_WEIGHTS
from syshaxd.core.wire.body import RequestBody

_MAX_NAME_CHARACTERS = 128


def instance_of(headers: Mapping[str, str]) -> str | None:
    """The instance that the client requires. `X-Syshax-Place` is the old name of the field."""
    name = headers.get("X-Syshax-Instance", headers.get("X-Syshax-Place"))
    return None if name is None else name[:_MAX_NAME_CHARACTERS].encode("utf-8", "replace").decode()


def class_of(headers: Mapping[str, str], body: RequestBody, key: ApiKey | None) -> RequestClass:
    """The request's class: that of the header field, else batch for OpenAI's flex tier, or for what the key is.

    Raises:
        BadRequestError: There is no such class.
        ForbiddenError: The key does not permit it.
    """
    batch_only = key is not None and key.batch_only
    name = headers.get("X-Syshax-Class")
    if name is None:
        is_batch = batch_only or body.short("service_tier") == "flex"
        return RequestClass.BATCH if is_batch else RequestClass.INTERACTIVE
    try:
        found = RequestClass(name)
    except ValueError:
        raise BadRequestError("X-Syshax-Class takes interactive or batch", code="invalid_class") from None
    if key is not None and batch_only and found is not RequestClass.BATCH:
        raise ForbiddenError(f"the API key {key.name} permits requests of the class batch only")
    return found


def wants_full_weights(headers: Mapping[str, str], key: ApiKey | None) -> bool:
    """Whether the client, or its key, refuses answers of quantised weights. Raises BadRequestError."""
    asked = headers.get("X-Syshax-Weights")
    if asked not in {None, FULL_WEIGHTS}:
        raise BadRequestError(f"X-Syshax-Weights takes {FULL_WEIGHTS} only", code="invalid_weights")
    return asked is not None or (key is not None and key.full_weights)


def wants_explanation(headers: Mapping[str, str]) -> bool:
    """Whether the answer is to tell why it was placed where it was. Raises BadRequestError."""
    asked = headers.get("X-Syshax-Explain", "0")
    if asked not in {"0", "1"}:
        raise BadRequestError("X-Syshax-Explain takes 1 or 0", code="invalid_explain")
    return asked == "1"
