# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""KV caches that go from one simulated instance to another, as with the connector.

No cache exists, so what is handed over is which tokens it would be for. Room and time it takes as if there were one.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Arena:
    """What an instance keeps of KV caches on their way."""

    def __init__(self, *, token_bytes: int, size_bytes: int, bytes_per_s: float) -> None:
        """Is empty.

        Args:
            token_bytes: KV cache of one token.
            size_bytes: What it has room for; 0: for everything.
            bytes_per_s: Of saving and loading, one after the other; 0: no time.
        """
        self.token_bytes = token_bytes
        self.size_bytes = size_bytes
        self.bytes_per_s = bytes_per_s
        self.kept: dict[str, int] = {}
        """Bytes, by key."""

    def keep(self, key: str, tokens: int) -> str:
        """Takes room for a save; returns why there is none."""
        size, taken = tokens * self.token_bytes, sum(self.kept.values())
        if self.size_bytes and taken + size > self.size_bytes:
            return f"{size} bytes are needed, {taken} of {self.size_bytes} are taken"
        self.kept[key] = size
        return ""

    def copy_s(self, key: str) -> float:
        """Seconds that it takes to hand over what is kept under a key."""
        return self.kept[key] / self.bytes_per_s if self.bytes_per_s else 0.0


class KvStore:
    """What was saved and not loaded yet, by key. Instances that share one can hand over to each other."""

    def __init__(self) -> None:
        self.saved: dict[str, tuple[int, ...]] = {}
        """The tokens whose KV was saved."""
        self._arenas: dict[str, Arena] = {}
        self._ready_at_s: dict[str, float] = {}

    def save(self, key: str, ids: Sequence[int]) -> None:
        """Publishes the KV of `ids`, of which the last has none yet."""
        self.saved[key] = tuple(ids[:-1])

    def save_in(self, arena: Arena, key: str, ids: Sequence[int], *, after_s: float = 0.0) -> dict[str, Any]:
        """Publishes the KV of `ids`, if the arena has room; returns what the instance reports of it.

        Args:
            arena: Of the instance.
            key: Under which it can be loaded.
            ids: Of the tokens.
            after_s: Seconds until the save begins.
        """
        tokens = len(ids) - 1
        if reason := arena.keep(key, tokens):
            return {"key": key, "tokens": tokens, "bytes": 0, "state": "refused", "reason": reason}
        self._arenas[key] = arena
        self._ready_at_s[key] = asyncio.get_running_loop().time() + after_s + arena.copy_s(key)
        self.save(key, ids)
        return {"key": key, "tokens": tokens, "bytes": arena.kept[key], "state": "saving", "reason": ""}

    async def published(self, key: str) -> None:
        """Returns as soon as what was saved under a key can be loaded, or at once if nothing was."""
        await asyncio.sleep(self._ready_at_s.get(key, 0.0) - asyncio.get_running_loop().time())

    def load(self, key: str, ids: Sequence[int]) -> int:
        """Takes what was saved; returns for how many tokens of `ids` it is good. One is always left to compute."""
        self._ready_at_s.pop(key, None)
        if arena := self._arenas.pop(key, None):
            del arena.kept[key]
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

    def finish(self, store: KvStore, arena: Arena, ids: Sequence[int]) -> None:
        """The request, whose tokens these are, has ended by itself."""
        if self.save is not None and not self.save_on_abort:
            self.told = {"syshax": store.save_in(arena, self.save, ids)}

    def abort(self, store: KvStore, arena: Arena, ids: Sequence[int], *, step_left_s: float) -> None:
        """The request has been given up; its engine hears of it when the present step ends."""
        if self.save is not None and self.save_on_abort:
            store.save_in(arena, self.save, ids, after_s=step_left_s)


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
