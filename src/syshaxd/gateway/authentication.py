# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Who sends a request, by its API key, and what that key permits."""

import base64
import binascii
import secrets
import socket
from collections.abc import Iterable, Mapping

from syshaxd.core.config import Config, unprotected
from syshaxd.core.config.api_keys import Access, ApiKey, made, sha256
from syshaxd.core.errors import ConfigError, ConfigFault, ForbiddenError, UnauthorizedError
from syshaxd.core.launch.instance_key import instance_key
from syshaxd.core.types import InstanceSpec
from syshaxd.system import api_keys
from syshaxd.system.api_keys import ApiKeys

# Routers and orchestrators probe them, and they reveal nothing else.
_OPEN = frozenset(("/health", "/live", "/ping", "/ready"))
_METRICS = frozenset(("/metrics",))
_FOR_ANY_KEY = frozenset(("/load",))
_DASHBOARD = frozenset(("/dashboard", "/dashboard/status.json"))


class Authentication:
    """Knows the key that each request needs."""

    def __init__(
        self,
        keys: ApiKeys | None = None,
        *,
        insecure: bool = False,
        metrics_open: bool = False,
        dashboard_open: bool = False,
    ) -> None:
        """Reads nothing.

        Args:
            keys: The clients' keys; None: no request needs one.
            insecure: No request needs a key, whatever keys there are.
            metrics_open: `/metrics` needs none.
            dashboard_open: `/dashboard` needs none.
        """
        self._keys = keys or ApiKeys()
        self._insecure = insecure
        self._open = _OPEN | (_METRICS if metrics_open else frozenset()) | (_DASHBOARD if dashboard_open else set())
        self._own_secret = secrets.token_urlsafe(32)
        self._own_key = made(name="syshaxd", sha256=sha256(self._own_secret), access=Access.ADMIN)
        self.refused = 0
        """Requests without a valid key so far."""

    @classmethod
    def from_config(cls, config: Config, keys: ApiKeys) -> "Authentication":
        """As configured."""
        its = config.gateway
        return cls(
            keys,
            insecure=its.insecure,
            metrics_open=its.metrics_open,
            dashboard_open=its.dashboard_open,
        )

    @property
    def required(self) -> bool:
        """Requests need a key."""
        return self._keys.exist and not self._insecure

    @property
    def own_secret(self) -> str:
        """A key for the daemon's own requests to the endpoint, which no file holds; empty: they need none."""
        return self._own_secret if self.required else ""

    def needs_key(self, path: str) -> bool:
        """Whether a request for a path needs a key."""
        return self.required and path not in self._open

    def owner(self, name: str) -> ApiKey | None:
        """The key of this name, for what it has ordered earlier; None: requests need no key.

        Raises:
            UnauthorizedError: It is not valid any more.
        """
        return self._keys.named(name) if self.required else None

    def caller(self, path: str, headers: Mapping[str, str]) -> ApiKey | None:
        """The key of a request; None: it needs none.

        Raises:
            UnauthorizedError: It has no valid key.
            ForbiddenError: Its key is not for this route.
        """
        if not self.needs_key(path):
            return None
        watches = path in _METRICS or path in _DASHBOARD
        try:
            key = self._find(_given(headers, basic_too=watches))
        except UnauthorizedError as error:
            self.refused += 1
            if path in _DASHBOARD:
                error.scheme = "Basic"  # a browser asks its user
            raise
        if not self.permits(key, path):
            text = f"the API key {key.name} has the access {key.access}, which does not permit {path}"
            if path in _DASHBOARD and _scheme(headers) == "basic":
                raise UnauthorizedError(text, scheme="Basic")  # at 403 a browser keeps the key, and never asks again
            raise ForbiddenError(text)
        return key

    def check_instances_key(self, headers: Mapping[str, str], specs: Iterable[InstanceSpec]) -> None:
        """Checks a client whose batches the daemon will have answered with its own credentials.

        Raises:
            UnauthorizedError: Only the instances ask for a key, and it has not given that.
        """
        if self.required:
            return
        given = sha256(_given(headers, basic_too=False))
        needed = {sha256(key) for key in map(instance_key, specs) if key}
        if not all(secrets.compare_digest(given, key) for key in needed):
            self.refused += 1
            raise UnauthorizedError(
                "batches need the API key that all instances have in common, as `Authorization: Bearer KEY`; or create "
                "keys of this endpoint (`syshaxctl keys create NAME`)"
            )

    def permits(self, key: ApiKey | None, path: str) -> bool:
        """Whether a key's access permits a route; None: no request needs a key."""
        if key is None or key.access is Access.ADMIN or path in self._open or path in _FOR_ANY_KEY:
            return True
        return (key.access is Access.MONITOR) == (path in _METRICS or path in _DASHBOARD)

    def _find(self, given: str) -> ApiKey:
        if not given:
            raise UnauthorizedError("an API key is required, as `Authorization: Bearer KEY` or `x-api-key: KEY`")
        try:
            return self._keys.find(given)
        except UnauthorizedError:
            if secrets.compare_digest(sha256(given), self._own_key.sha256):
                return self._own_key
            raise


def check_model(key: ApiKey | None, model: str) -> None:
    """Raises ForbiddenError: the key is for other models."""
    if key is not None and not key.permits(model):
        asked = f"the model {model!r}" if model else "a request without a readable `model`"
        raise ForbiddenError(
            f"the API key {key.name} does not permit {asked}; it permits {', '.join(key.models)}",
            param="model",
            code="model_not_permitted",
        )


def check_exposure(config: Config, keys: ApiKeys, handed: Iterable[socket.socket] = ()) -> None:
    """Refuses an endpoint that other hosts can use without a key.

    Args:
        config: Where the endpoint listens.
        keys: The clients' keys.
        handed: Sockets that listen already.

    Raises:
        ConfigError: It is one.
    """
    hosts = [str(ready.getsockname()[0]) for ready in handed if ready.family != socket.AF_UNIX]
    host = unprotected(config, (config.services.conductor.host, *hosts))
    if not host or keys.exist or config.gateway.insecure:
        return
    where = "services.conductor.host" if host == config.services.conductor.host else "syshaxd.socket (ListenStream=)"
    raise ConfigError(
        (
            ConfigFault(
                where,
                f"at {host}, other hosts could use the API without a key. Create one (`syshaxctl keys create NAME "
                f"--file {keys.path or api_keys.default_path()}`), or listen at 127.0.0.1, or set gateway.insecure: "
                "true if something else keeps strangers away",
            ),
        )
    )


def _scheme(headers: Mapping[str, str]) -> str:
    return headers.get("Authorization", "").strip().partition(" ")[0].lower()


def _given(headers: Mapping[str, str], *, basic_too: bool) -> str:
    """The key that a request carries; empty: none."""
    scheme, _, value = headers.get("Authorization", "").strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic" if basic_too:  # what a browser can send: the key is the password
            try:
                return base64.b64decode(value, validate=True).decode("utf-8", "surrogateescape").partition(":")[2]
            except (binascii.Error, ValueError):
                return ""
        case _:
            return headers.get("x-api-key", "").strip()
