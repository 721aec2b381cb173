# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which routes of the instances clients may use. Routes that change an engine or expose its internals are closed."""

import re
from collections.abc import Callable, Collection
from urllib.parse import unquote

from syshaxd.core.errors import BadRequestError, ClosedError, MethodNotAllowedError, NotFoundError

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
OFFLOADED_CHAT = "/v1/chat/pd_disagg"
"""A chat completion with a requested prefill-decode offload; instances get it as a chat completion."""
RESPONSES = "/v1/responses"

DOCUMENTS = frozenset(("/version", "/openapi.json", "/docs", "/redoc"))
"""Routes that tell of an instance's program, and nothing of its models."""

# Routes of instances that are passed on: the APIs of OpenAI, Anthropic, Cohere and Jina, and vLLM's own for clients.
_PUBLIC = frozenset(
    (
        *("/v1/chat/completions/batch", "/v1/chat/completions/derender", "/v1/chat/completions/render"),
        *("/v1/completions/derender", "/v1/completions/render"),
        *("/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations"),
        *("/v1/images/edits", "/v1/images/generations", "/v1/images/variations", "/v1/moderations"),
        *("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/render", RESPONSES, f"{RESPONSES}/render"),
        *("/v1/embeddings", "/v1/rerank", "/v1/score", "/v2/embed", "/v2/rerank", "/rerank", "/score"),
        *("/classify", "/generative_scoring", "/invocations", "/pooling"),
        *("/tokenize", "/detokenize", *DOCUMENTS),
    )
)
_STORED_RESPONSE = re.compile(rf"{RESPONSES}/[^/.][^/]*(?:/cancel|/input_items)?")
_POST = frozenset(("POST",))
_NONE: frozenset[str] = frozenset()
ALWAYS = {CHAT: _POST, COMPLETIONS: _POST, OFFLOADED_CHAT: _POST}
"""Routes, and their methods, that are known even where an instance does not tell what it has."""

Methods = Callable[[str], frozenset[str] | None]


class PublicRoutes:
    """The list of what clients may use. All else may change an engine, or expose what is inside."""

    def __init__(self, instances: Methods, further: Collection[str] = ()) -> None:
        """Has nothing to close.

        Args:
            instances: Says which methods some instance has for a path; None: any.
            further: Routes on the list besides the usual ones.
        """
        self._instances = instances
        self._public = _PUBLIC.union(further)

    def methods(self, path: str) -> frozenset[str] | None:
        """The methods for which clients may use a path; None: any."""
        if path in ALWAYS:
            return ALWAYS[path]
        return self._instances(path) if self._is_public(path) else _NONE

    def check(self, method: str, path: str, *, admin: bool = False, pinned: bool = False) -> None:
        """Checks that a client may use a route.

        Args:
            method: Of the request.
            path: Of the request.
            admin: The client's key permits all routes of an instance.
            pinned: The request names the instance.

        Raises:
            ClosedError: The client may not use it.
            BadRequestError: It must name the instance.
            NotFoundError: There is no such route. One on the list that no instance has may be used: who looks for an
                instance refuses it, and knows the request's model.
            MethodNotAllowedError: There is, but not for this method.
        """
        is_public = path in ALWAYS or self._is_public(path)
        allowed = self.methods(path) if is_public else self._instances(path)
        if not is_public and (admin or allowed):
            _check_closed(path, admin=admin, pinned=pinned)
        elif not is_public:
            allowed = _NONE
        if allowed is None or method in allowed:
            return
        if not allowed:
            if is_public:
                return  # no instance has it: the answer lists the routes that the request's model has instead
            raise NotFoundError(f"no route {path}; the API is under /v1", code="route_not_found")
        names = tuple(sorted(allowed))
        raise MethodNotAllowedError(f"{path} takes {' or '.join(names)}, not {method}", allowed=names)

    def _is_public(self, path: str) -> bool:
        return path in self._public or _STORED_RESPONSE.fullmatch(path) is not None


def _check_closed(path: str, *, admin: bool, pinned: bool) -> None:
    if not admin:
        raise ClosedError(
            f"{path} is not public: it may change an engine. Ask the instance for it at its own address (`syshaxctl "
            "status`), use an API key with the access admin, or add it to gateway.public_routes if clients may use it"
        )
    if not pinned:
        raise BadRequestError(
            f"{path} would change one instance of several; name it with the header X-Syshax-Instance",
            code="instance_required",
        )


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
    if path.isascii() and "%" not in path:
        return target, path
    return target, unquote(path.encode("utf-8", "replace").decode(), errors="replace")


def redirected(target: str, path: str, is_known: Callable[[str], bool]) -> str | None:
    """The redirect target of a path that exists only with or without a trailing slash, as in FastAPI; else None."""
    if path == "/" or is_known(path):
        return None
    raw, separator, query = target.partition("?")
    if raw.endswith("/"):
        other, raw = path.removesuffix("/"), raw.removesuffix("/")
    else:
        other, raw = f"{path}/", f"{raw}/"
    return f"{raw}{separator}{query}" if is_known(other) and not raw.startswith("//") else None


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
