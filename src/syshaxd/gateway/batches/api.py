# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The routes of files and batches. A client sees those of its own API key."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from syshaxd.core import jsontext
from syshaxd.core.config.api_keys import ApiKey
from syshaxd.core.errors import BadRequestError, MethodNotAllowedError, NotFoundError
from syshaxd.core.wire.batches import ENDPOINTS, MAX_METADATA, batch_json, file_json, is_text
from syshaxd.core.wire.body import as_int
from syshaxd.gateway.batches.multipart import read_form
from syshaxd.gateway.batches.worker import BatchWorker
from syshaxd.gateway.errors import Answer
from syshaxd.serving.request import Downstream, Flow
from syshaxd.system.batch_store import BatchStore

FILES = "/v1/files"
BATCHES = "/v1/batches"
_PURPOSE = "batch"
_MAX_NAME = 255
_MAX_PAGE = 100
_PAGE = 20
_PIECE_BYTES = 256 * 1024


class BatchApi:
    """Answers them."""

    def __init__(self, worker: BatchWorker) -> None:
        self._worker = worker

    def knows(self, path: str) -> bool:
        """Whether it is one of these routes."""
        return path in {FILES, BATCHES} or path.startswith((f"{FILES}/", f"{BATCHES}/"))

    def takes(self, method: str, path: str) -> bool:
        """Whether one of these routes takes a method."""
        return method in _methods(path)

    async def answer(
        self, method: str, path: str, query: str, *, key: ApiKey | None, content_type: str, body: bytes
    ) -> Answer | Path:
        """Answers a request; a path is that of a file whose contents are the answer.

        Raises:
            SyshaxError: It is refused.
        """
        owner = "" if key is None else key.name
        match method, path.removeprefix("/v1/").split("/"):
            case "POST", ["files"]:
                return await self._upload(owner, content_type, body)
            case "GET", ["files"]:
                files = await self._worker.call(BatchStore.files, owner)
                return _page([file_json(each) for each in files], query)
            case "GET", ["files", its_id]:
                return _json(file_json(await self._worker.call(BatchStore.file, owner, its_id)))
            case "DELETE", ["files", its_id]:
                await self._worker.call(BatchStore.remove_file, owner, its_id)
                return _json({"id": its_id, "object": "file", "deleted": True})
            case "GET", ["files", its_id, "content"]:
                await self._worker.call(BatchStore.file, owner, its_id)
                return await self._worker.call(BatchStore.path, its_id)
            case "POST", ["batches"]:
                return await self._create(owner, () if key is None else key.models, body)
            case "GET", ["batches"]:
                batches = await self._worker.call(BatchStore.batches, owner)
                return _page([batch_json(each) for each in batches], query)
            case "GET", ["batches", its_id]:
                return _json(batch_json(await self._worker.call(BatchStore.batch, its_id, owner)))
            case "POST", ["batches", its_id, "cancel"]:
                return _json(batch_json(await self._worker.cancel(its_id, owner)))
        raise _refusal(method, path)

    async def _upload(self, owner: str, content_type: str, body: bytes) -> Answer:
        form = await asyncio.to_thread(read_form, content_type, body)
        given = form.get("file")
        if given is None or given.filename is None:
            raise BadRequestError("the form needs a file in the field `file`", param="file", code="missing_file")
        purpose = form["purpose"].text if "purpose" in form else ""
        if purpose != _PURPOSE:
            raise BadRequestError(f"purpose: {_PURPOSE} only", param="purpose", code="invalid_purpose")
        name = given.filename[:_MAX_NAME] or "file"
        return _json(file_json(await self._worker.call(BatchStore.add_file, owner, name, purpose, given.data)))

    async def _create(self, owner: str, models: Sequence[str], body: bytes) -> Answer:
        try:
            asked = jsontext.loads(body)
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            raise BadRequestError("the body must be a JSON object", code="invalid_body")
        endpoint, file_id, window = (asked.get(name) for name in ("endpoint", "input_file_id", "completion_window"))
        if not is_text(endpoint) or endpoint not in ENDPOINTS:
            text = f"endpoint: one of {', '.join(sorted(ENDPOINTS))}"
            raise BadRequestError(text, param="endpoint", code="invalid_value")
        if not is_text(file_id):
            raise BadRequestError("input_file_id: the id of a file", param="input_file_id", code="invalid_value")
        metadata = _metadata(asked.get("metadata"))
        create = partial(
            BatchStore.create, window=window if isinstance(window, str) else "", metadata=metadata, models=models
        )
        batch = await self._worker.call(create, owner, endpoint, file_id)
        self._worker.begin(batch)
        return _json(batch_json(batch))


async def send_file(client: Downstream, path: Path, *, keep_alive: bool) -> bool:
    """Sends a file as fast as the client takes it; returns whether the connection may stay open."""
    file = await asyncio.to_thread(path.open, "rb")
    flow = _Sending()
    client.attach(flow)
    try:
        size_bytes = (await asyncio.to_thread(path.stat)).st_size
        lines = f"content-type: application/octet-stream\r\ncontent-length: {size_bytes}\r\n".encode()
        ending = b"" if keep_alive else b"connection: close\r\n"
        client.writer()(b"HTTP/1.1 200 OK\r\n%b%b%b\r\n" % (lines, client.answer_lines, ending))
        while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
            await flow.may_send.wait()
            if flow.gone:
                return False
            client.writer()(piece)
        await flow.may_send.wait()
    finally:
        client.detach()
        file.close()
    return keep_alive


class _Sending(Flow):
    def __init__(self) -> None:
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.gone = False

    def pause(self) -> None:
        self.may_send.clear()

    def resume(self) -> None:
        self.may_send.set()

    def cancel(self) -> None:
        self.gone = True
        self.may_send.set()


def _metadata(given: object) -> dict[str, str]:
    if given is None:
        return {}
    good = isinstance(given, dict) and len(given) <= MAX_METADATA and all(isinstance(v, str) for v in given.values())
    if not good:
        text = f"metadata: at most {MAX_METADATA} names with texts"
        raise BadRequestError(text, param="metadata", code="invalid_value")
    assert isinstance(given, dict)
    return given


def _page(objects: Sequence[dict[str, Any]], query: str) -> Answer:
    """A page of a list, after the object that the query names.

    Raises:
        BadRequestError: It can't have so many objects.
        NotFoundError: There is no such object.
    """
    asked = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    limit = as_int(asked.get("limit", _PAGE))
    if limit is None or not 1 <= limit <= _MAX_PAGE:
        raise BadRequestError(f"limit: a number from 1 to {_MAX_PAGE}", param="limit", code="invalid_value")
    ids = [each["id"] for each in objects]
    after = asked.get("after", "")
    if after and after not in ids:
        raise NotFoundError(f"after: there is no {after!r}", param="after", code="not_found")
    start = ids.index(after) + 1 if after else 0
    page = objects[start : start + limit]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return _json({"object": "list", "data": list(page), **ends, "has_more": start + limit < len(objects)})


def _refusal(method: str, path: str) -> BadRequestError:
    methods = _methods(path)
    if methods:
        return MethodNotAllowedError(f"{path} takes {' or '.join(methods)}, not {method}", allowed=methods)
    return NotFoundError(f"no route {path}", code="route_not_found")


def _methods(path: str) -> tuple[str, ...]:
    """Those that a route takes; none: there is no such route."""
    parts = path.removeprefix("/v1/").split("/")
    methods: dict[tuple[str, int], tuple[str, ...]] = {
        ("files", 1): ("GET", "POST"),
        ("files", 2): ("DELETE", "GET"),
        ("files", 3): ("GET",) if parts[-1] == "content" else (),
        ("batches", 1): ("GET", "POST"),
        ("batches", 2): ("GET",),
        ("batches", 3): ("POST",) if parts[-1] == "cancel" else (),
    }
    return methods.get((parts[0], len(parts)), ())


def _json(body: object) -> Answer:
    return Answer(200, json.dumps(body).encode())
