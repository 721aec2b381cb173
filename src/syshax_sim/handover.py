# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""KV caches that go from one simulated instance to another, as with the connector.

No cache exists, so what is handed over is which tokens it would be for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_TOKEN_BYTES = 1024


class KvStore:
    """What was saved and not loaded yet, by key. Instances that share one can hand over to each other."""

    def __init__(self) -> None:
        self.saved: dict[str, tuple[int, ...]] = {}
        """The tokens whose KV was saved."""

    def save(self, key: str, ids: Sequence[int]) -> None:
        """Publishes the KV of `ids`, of which the last has none yet."""
        self.saved[key] = tuple(ids[:-1])

    def load(self, key: str, ids: Sequence[int]) -> int:
        """Takes what was saved; returns for how many tokens of `ids` it is good. One is always left to compute."""
        good = 0
        for saved, wanted in zip(self.saved.pop(key, ()), ids[:-1], strict=False):
            if saved != wanted:
                break
            good += 1
        return good


@dataclass(slots=True, kw_only=True)
class Orders:
    """A request's `kv_transfer_params`."""

    prompt_token_ids: list[int] | None = None
    save: str | None = None
    save_on_abort: bool = False
    """Saved when the request is given up; otherwise when it finishes."""
    load: str | None = None
    cached_tokens: int | None = None
    """Tokens that were loaded; None: nobody asked."""
    told: dict[str, Any] | None = None
    """What the answer says of it."""

    def usage(self) -> dict[str, Any]:
        """What the answer's usage has more of."""
        if self.cached_tokens is None:
            return {}
        return {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}}

    def finish(self, store: KvStore, ids: Sequence[int]) -> None:
        """The request, whose tokens these are, has ended by itself."""
        if self.save is not None and not self.save_on_abort:
            store.save(self.save, ids)
            size = (len(ids) - 1) * _TOKEN_BYTES
            entry = {"key": self.save, "tokens": len(ids) - 1, "bytes": size, "state": "saving", "reason": ""}
            self.told = {"syshax": entry}

    def abort(self, store: KvStore, ids: Sequence[int]) -> None:
        """The request has been given up."""
        if self.save is not None and self.save_on_abort:
            store.save(self.save, ids)


def parse_orders(body: Mapping[str, Any]) -> Orders:
    """Returns what a request's body says; an entry that is wrong counts for nothing, as with the connector."""
    params = body.get("kv_transfer_params")
    if not isinstance(params, Mapping):
        return Orders()
    ours = params.get("syshax") or {}
    save, load = ours.get("save") or {}, ours.get("load") or {}
    return Orders(
        prompt_token_ids=params.get("prompt_token_ids"),
        save=_key(save),
        save_on_abort=save.get("on") == "abort",
        load=_key(load),
    )


def _key(entry: Mapping[str, Any]) -> str | None:
    key = entry.get("key")
    return key if isinstance(key, str) and _KEY.fullmatch(key) else None
