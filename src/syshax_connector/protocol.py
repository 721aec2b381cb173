# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The hand-over fields in a request's `kv_transfer_params`, and in those of its answer. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

FIELD = "syshax"
"""Our entry within vLLM's free `kv_transfer_params`."""
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")

SaveOn = Literal["finish", "abort"]


class BadParamsError(ValueError):
    """The request's entry is not as PROTOCOL.md says; the request runs without a hand-over."""


@dataclass(frozen=True, slots=True)
class Handover:
    """What one request asks for."""

    save_key: str | None = None
    save_on: SaveOn = "finish"
    load_key: str | None = None
    continued: int = 0
    """How many of the prompt's last tokens another instance has made of the answer."""


NOTHING = Handover()


def parse(params: object) -> Handover:
    """Reads a request's `kv_transfer_params`.

    Raises:
        BadParamsError: The entry is malformed. Names that are not known are passed over.
    """
    if not isinstance(params, Mapping) or FIELD not in params:
        return NOTHING
    entry = _mapping(params[FIELD], FIELD)
    save_key = save_on = load_key = None
    if "save" in entry:
        save = _mapping(entry["save"], f"{FIELD}.save")
        save_key, save_on = _key(save, f"{FIELD}.save"), save.get("on", "finish")
        if save_on not in ("finish", "abort"):
            raise BadParamsError(f'{FIELD}.save.on: {save_on!r} is neither "finish" nor "abort"')
    if "load" in entry:
        load_key = _key(_mapping(entry["load"], f"{FIELD}.load"), f"{FIELD}.load")
    continued = entry.get("continued", 0)
    if type(continued) is not int or continued < 0:
        raise BadParamsError(f"{FIELD}.continued: must be a number of tokens, not {str(continued)[:80]!r}")
    return Handover(save_key, save_on or "finish", load_key, continued)


def is_key(key: object) -> bool:
    """Whether it may name a hand-over."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def saving(key: str, tokens: int, size_bytes: int) -> dict[str, Any]:
    """The answer's `kv_transfer_params`: the KV cache is on its way."""
    return {FIELD: {"key": key, "tokens": tokens, "bytes": size_bytes, "state": "saving"}}


def refused(key: str, tokens: int, size_bytes: int, reason: str) -> dict[str, Any]:
    """The answer's `kv_transfer_params`: there will be nothing to load."""
    return {FIELD: {"key": key, "tokens": tokens, "bytes": size_bytes, "state": "refused", "reason": reason}}


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadParamsError(f"{name}: must be an object, not {type(value).__name__}")
    return value


def _key(entry: Mapping[str, Any], name: str) -> str:
    key = entry.get("key")
    if not is_key(key):
        raise BadParamsError(f"{name}.key: must be 1 to 128 letters, digits, - and _, not {str(key)[:80]!r}")
    return str(key)
