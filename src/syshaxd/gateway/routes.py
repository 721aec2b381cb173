# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which routes of the instances clients may use. Routes that change an engine or expose its internals are closed."""

from collections.abc import Callable
from urllib.parse import unquote

from syshaxd.core.errors import BadRequestError, ClosedError, MethodNotAllowedError, NotFoundError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
OFFLOADED_CHAT = "/v1/chat/pd_disagg"
"""A chat completion with a requested prefill-decode offload; instances get it as a chat completion."""
RESPONSES = "/v1/responses"
_API_PREFIX = "/v1/"

# Routes under /v1 that are not passed on.
_CLOSED = frozenset(("/v1/load_lora_adapter", "/v1/unload_lora_adapter"))
# Other routes that are passed on.
_OPEN = frozenset(
    (
        *("/tokenize", "/detokenize", "/version", "/openapi.json", "/docs", "/redoc"),
        *("/pooling", "/classify", "/score", "/rerank", "/v2/rerank", "/v2/embed", "/generative_scoring"),
        "/invocations",
    )
)
_POST = frozenset(("POST",))
ALWAYS = {CHAT: _POST, COMPLETIONS: _POST, OFFLOADED_CHAT: _POST}
"""Routes, and their methods, that are known even where an instance does not tell what it has."""


def split_target(raw: str) -> tuple[str, str]:
    """The target as an instance gets it, and its path, decoded as vLLM decodes it.

    Raises:
        BadRequestError: It is neither a path nor a URL.
    """
    target = raw
    if not raw.startswith("/"):
        scheme, separator, rest = raw.partition("://")
        if not separator or scheme.lower() not in {"http", "https"}:
            raise BadRequestError("the request's target is neither a path nor a URL", code="invalid_target")
        authority_end = min((at for at in map(rest.find, "/?") if at >= 0), default=len(rest))
        target = rest[authority_end:] if rest[authority_end : authority_end + 1] == "/" else f"/{rest[authority_end:]}"
    path = target.partition("#")[0].partition("?")[0]
    return target, unquote(path.encode("utf-8", "replace").decode(), errors="replace")


def redirected(target: str, path: str, is_known: Callable[[str], bool]) -> str | None:
    """The redirect target of a path that exists only with or without a trailing slash, as in FastAPI; else None."""
    if path == "/" or is_closed(path) or is_known(path):
        return None
    raw, separator, query = target.partition("?")
    if raw.endswith("/"):
        other, raw = path.removesuffix("/"), raw.removesuffix("/")
    else:
        other, raw = f"{path}/", f"{raw}/"
    return f"{raw}{separator}{query}" if is_known(other) and not raw.startswith("//") else None


def is_closed(path: str) -> bool:
    """Whether a route would change only one of several instances. A trailing slash makes no difference."""
    return path.rstrip("/") in _CLOSED


def check(method: str, path: str, instances: Callable[[str], frozenset[str] | None]) -> None:
    """Checks that clients may use a route.

    Args:
        method: Of the request.
        path: Of the request.
        instances: Says which methods some instance has for a path; None: any.

    Raises:
        ClosedError: Clients may not use it.
        NotFoundError: There is no such route.
        MethodNotAllowedError: There is, but not for this method.
    """
    if is_closed(path):
        raise ClosedError(
            f"{path} would change one instance of several; ask each instance for it at its own address "
            "(`syshaxctl status` shows them)"
        )
    allowed = methods(path, instances)
    if allowed is None or method in allowed:
        return
    if not allowed:
        known = path in _OPEN or path.startswith(_API_PREFIX)
        message = f"no instance serves {path}" if known else f"no route {path}; the API is under /v1"
        raise NotFoundError(message, code="route_not_found")
    names = tuple(sorted(allowed))
    raise MethodNotAllowedError(f"{path} takes {' or '.join(names)}, not {method}", allowed=names)


def check_stored(path: str) -> None:
    """Checks that a path does not refer to a stored response if there are several instances.

    Raises:
        NotFoundError: It does.
    """
    if path.startswith(f"{RESPONSES}/") and path != f"{RESPONSES}/render":
        raise NotFoundError(
            "stored responses are not available, as each of several instances stores its own; name the one that "
            "made it with the header X-Syshax-Instance (the answer's X-Syshax-Placement)",
            code="stored_responses_off",
        )


def methods(path: str, instances: Callable[[str], frozenset[str] | None]) -> frozenset[str] | None:
    """The methods for which clients may use a path; None: any."""
    if path in ALWAYS:
        return ALWAYS[path]
    if path in _OPEN or (path.startswith(_API_PREFIX) and not is_closed(path)):
        return instances(path)
    return frozenset()
