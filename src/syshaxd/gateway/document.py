# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAPI document: that of an instance, without what the client may not use, and with what the daemon adds."""

import json
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from syshaxd.core import jsontext
from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.wire import anthropic
from syshaxd.gateway.routes import CHAT, OFFLOADED_CHAT

OPENAPI = "/openapi.json"
_OWN: dict[str, Any] = jsontext.loads((resources.files(__package__) / "openapi.json").read_bytes())
_METHODS = frozenset(("delete", "get", "head", "options", "patch", "post", "put", "trace"))
_PAGE = "/dashboard"
_KEYS: tuple[dict[str, list[str]], ...] = ({"bearer": []}, {"x-api-key": []})
_PAGE_KEYS: tuple[dict[str, list[str]], ...] = ({"basic": []},)
_OFFLOADED = {"summary": "A chat whose prefill and decode run on different instances"}
_NAMES = frozenset(("summary", "operationId"))


def open_document(text: bytes, is_open: Callable[[str, str], bool], needs_key: Callable[[str], bool]) -> bytes:
    """An instance's document as a client may see it. Routes of the daemon are described by `openapi.json` beside this.

    Args:
        text: The instance's document.
        is_open: Whether the client may use a method, in capitals, on a path.
        needs_key: Whether requests for a path need an API key.

    Raises:
        InstanceFailedError: It is not an OpenAPI document.
    """
    try:
        document = jsontext.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise InstanceFailedError("the instance's /openapi.json is not an OpenAPI document")
    passed_on = {path: _with_errors(path, item) for path, item in document["paths"].items() if isinstance(item, dict)}
    if isinstance(chat := passed_on.get(CHAT, {}).get("post"), dict):
        passed_on[OFFLOADED_CHAT] = {"post": _OFFLOADED | {key: chat[key] for key in chat if key not in _NAMES}}
    shown = {path: _open_item(path, item, is_open, needs_key) for path, item in (passed_on | _OWN["paths"]).items()}
    document["paths"] = {path: item for path, item in shown.items() if not _METHODS.isdisjoint(item)}
    theirs = document.get("components")
    document["components"] = _joined(theirs if isinstance(theirs, dict) else {}, _OWN["components"])
    return json.dumps(document, separators=(",", ":")).encode()


def _operations(item: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: value for name, value in item.items() if name in _METHODS and isinstance(value, dict)}


def _with_errors(path: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """A path of an instance, with errors as clients get them: they may be the daemon's."""
    default = {"$ref": f"#/components/responses/{'AnthropicError' if anthropic.is_path(path) else 'Error'}"}
    changed: dict[str, Any] = {}
    for name, operation in _operations(item).items():
        told = operation.get("responses")
        good = {status: told[status] for status in told if status[:1] in "123"} if isinstance(told, dict) else {}
        changed[name] = operation | {"responses": good | {"default": default}}
    return {**item, **changed}


def _open_item(
    path: str, item: Mapping[str, Any], is_open: Callable[[str, str], bool], needs_key: Callable[[str], bool]
) -> dict[str, Any]:
    """A path with the methods that the client may use, and the keys that they need."""
    keys = (*_KEYS, *(_PAGE_KEYS if path.startswith(_PAGE) else ())) if needs_key(path) else ()
    operations = _operations(item)
    return {
        name: operations[name] | {"security": list(keys)} if name in operations else value
        for name, value in item.items()
        if name not in _METHODS or is_open(name.upper(), path)
    }


def _joined(theirs: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {**theirs, **{kind: {**theirs.get(kind, {}), **ours} for kind, ours in own.items()}}
