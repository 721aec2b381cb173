# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""API keys of clients: what each may do, how the file holds them, and how a key is recognised.

A key is 256 random bits, so SHA-256 alone keeps it secret: no dictionary and no number of guesses finds such a key. A
slow hash (bcrypt, scrypt) protects what people can remember, and would cost each request milliseconds.
"""

import hashlib
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, ValidationError

from syshaxd.core.config.section import Count, Section
from syshaxd.core.errors import ConfigError, ConfigFault, UnauthorizedError

PREFIX = "sk-syshax-"
"""Keys begin with it, so that people and scanners recognise them."""
_SHORT_DIGITS = 16


class Access(StrEnum):
    """What a key is for."""

    API = "api"
    """The API."""
    MONITOR = "monitor"
    """`/metrics` and `/dashboard`."""
    ADMIN = "admin"
    """Both, and the routes that change an engine."""


class ApiKey(Section):
    """A key, without the key itself."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    access: Access = Access.API
    models: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """The models that it may ask for; empty: all."""
    created_at_s: float = 0.0
    expires_at_s: float | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    """Of prompts and answers together."""
    max_requests: Count | None = None
    """That run or wait at a time."""
    max_prompt_tokens: Count | None = None
    batch_only: bool = False
    """All its requests are of the class batch."""
    full_weights: bool = False
    """None of its requests gets an answer of quantised weights."""

    @property
    def is_limited(self) -> bool:
        """Whether it has a limit of requests or tokens a minute, or of requests at a time."""
        return not (self.requests_per_minute is self.tokens_per_minute is self.max_requests is None)

    def permits(self, model: str) -> bool:
        """It may ask for this model."""
        return not self.models or model in self.models


class _KeyFile(Section):
    keys: tuple[ApiKey, ...] = ()


class KeyRing:
    """The keys that are valid."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.keys = tuple(keys)
        self._by_start = {key.sha256[:_SHORT_DIGITS]: key for key in self.keys}
        self._by_name = {key.name: key for key in self.keys}

    def find(self, given: str, now_s: float) -> ApiKey:
        """The key that a client gave, in constant time: the lookup reveals at most the beginning of a hash.

        Raises:
            UnauthorizedError: There is no such key, or it has expired.
        """
        digest = sha256(given)
        key = self._by_start.get(digest[:_SHORT_DIGITS])
        if key is None or not hmac.compare_digest(key.sha256, digest):
            raise UnauthorizedError("the API key is not valid; it may have been revoked")
        return _unexpired(key, now_s)

    def named(self, name: str, now_s: float) -> ApiKey:
        """The key of this name. Raises UnauthorizedError: there is none, or it has expired."""
        key = self._by_name.get(name)
        if key is None:
            raise UnauthorizedError(f"the API key {name} has been revoked" if name else "an API key is now required")
        return _unexpired(key, now_s)


def _unexpired(key: ApiKey, now_s: float) -> ApiKey:
    if key.expires_at_s is not None and now_s >= key.expires_at_s:
        expired_at = datetime.fromtimestamp(key.expires_at_s, UTC)
        raise UnauthorizedError(f"the API key {key.name} expired at {expired_at:%Y-%m-%d %H:%M} UTC")
    return key


def sha256(key: str) -> str:
    """The hash by which a key is known. Header fields may hold any bytes, which aiohttp decodes so."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def made(**fields: object) -> ApiKey:
    """A key with these fields.

    Raises:
        ConfigError: With every fault.
    """
    try:
        return ApiKey.model_validate(fields)
    except ValidationError as error:
        raise _faults(error) from None


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """The keys in a file's text.

    Raises:
        ConfigError: With every fault.
    """
    try:
        keys = _KeyFile.model_validate_json(text).keys
    except ValidationError as error:
        raise _faults(error) from None
    names = [key.name for key in keys]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError((ConfigFault("keys", f"the name {', '.join(twice)} appears twice"),))
    return keys


def key_text(keys: Iterable[ApiKey]) -> str:
    """The text of a file with these keys."""
    return _KeyFile(keys=tuple(keys)).model_dump_json(indent=1) + "\n"


def _faults(error: ValidationError) -> ConfigError:
    """Without the values, which might be keys that were put in the wrong place."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return ConfigError(tuple(ConfigFault(".".join(map(str, each["loc"])), each["msg"]) for each in found))
