# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The OpenAPI document: that of an instance, without what the client may not use, and with what the daemon adds."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from syshaxd.core.errors import InstanceFailedError

OPENAPI = "/openapi.json"
_METHODS = frozenset(("delete", "get", "head", "options", "patch", "post", "put", "trace"))
# What the daemon answers itself, and no instance's document has.
_OWN = {
    "/v1/chat/pd_disagg": {"post": "A chat whose prefill and decode run on different instances"},
    "/v1/files": {"get": "List the files of batches", "post": "Upload the requests of a batch"},
    "/v1/files/{file_id}": {"get": "What is known of a file", "delete": "Delete a file"},
    "/v1/files/{file_id}/content": {"get": "Download a file"},
    "/v1/batches": {"get": "List batches", "post": "Create a batch"},
    "/v1/batches/{batch_id}": {"get": "What is known of a batch"},
    "/v1/batches/{batch_id}/cancel": {"post": "Cancel a batch"},
    "/live": {"get": "Whether the daemon runs"},
    "/ready": {"get": "Whether an instance can take requests"},
    "/dashboard": {"get": "States and loads, live in a browser"},
}


def open_document(text: bytes, is_open: Callable[[str, str], bool]) -> bytes:
    """An instance's document as a client may see it.

    Args:
        text: The instance's document.
        is_open: Whether the client may use a method, in capitals, on a path.

    Raises:
        InstanceFailedError: It is not an OpenAPI document.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise InstanceFailedError("the instance's /openapi.json is not an OpenAPI document")
    paths: dict[str, Any] = {path: _own_item(path, item) for path, item in _OWN.items()} | document["paths"]
    shown = {path: _open_item(path, item, is_open) for path, item in paths.items() if isinstance(item, Mapping)}
    document["paths"] = {path: item for path, item in shown.items() if not _METHODS.isdisjoint(item)}
    return json.dumps(document, separators=(",", ":")).encode()


def _open_item(path: str, item: Mapping[str, Any], is_open: Callable[[str, str], bool]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in _METHODS or is_open(name.upper(), path)}


def _own_item(path: str, methods: Mapping[str, str]) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    answer = {"200": {"description": "Successful Response"}}
    item: dict[str, Any] = {method: {"summary": text, "responses": answer} for method, text in methods.items()}
    return item | ({"parameters": parameters} if parameters else {})
