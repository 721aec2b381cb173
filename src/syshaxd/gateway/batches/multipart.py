# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads multipart/form-data: the body of an upload."""

import re
from dataclasses import dataclass

from syshaxd.core.errors import BadRequestError

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_PARAMETER = re.compile(r'(?:^|[;\s])(name|filename)="((?:[^"\\]|\\.)*)"')
_MAX_PARTS = 32


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form."""

    data: bytes
    filename: str | None = None
    """None: it is no file."""

    @property
    def text(self) -> str:
        """The data as text."""
        return self.data.decode("utf-8", "replace")


def read_form(content_type: str, body: bytes) -> dict[str, Part]:
    """The fields of a form, by name. Raises BadRequestError: it is none."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/form-data") or found is None:
        raise BadRequestError("the body must be multipart/form-data, with a boundary", code="invalid_body")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode()
    pieces = (b"\r\n" + body).split(delimiter, _MAX_PARTS + 1)
    if len(pieces) < 3 or len(pieces) > _MAX_PARTS + 1 or not pieces[-1].startswith(b"--"):
        raise BadRequestError("the body is not a complete multipart/form-data", code="invalid_body")
    form: dict[str, Part] = {}
    for piece in pieces[1:-1]:
        head, end, data = piece.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        disposition = next((line for line in lines if line.lower().startswith("content-disposition:")), "")
        parameters = {name: re.sub(r"\\(.)", r"\1", value) for name, value in _PARAMETER.findall(disposition)}
        if not end or "name" not in parameters:
            raise BadRequestError("a part of the form has no name", code="invalid_body")
        form[parameters["name"]] = Part(data, parameters.get("filename"))
    return form
