# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The model that a multipart form names, as for audio to transcribe. Nothing else of a form is read."""

import re

_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_MODEL = re.compile(
    rb'Content-Disposition:\s*form-data;\s*name="?model"?[ \t]*\r\n'
    rb"(?:[^\r\n]{1,1024}\r\n){0,8}\r\n([^\r\n]{1,1024})\r\n",
    re.IGNORECASE,
)


def model_in_form(data: bytes, content_type: str) -> str:
    """The value of the field `model`; empty: there is none."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return ""
    mark = b"--" + (boundary[1] or boundary[2]).encode("utf-8", "replace")
    at = data.find(mark)
    while at >= 0:
        begins = at + len(mark) + 2
        if found := _MODEL.match(data, begins):
            return found[1].decode("utf-8", "replace").strip()
        at = data.find(mark, begins)
    return ""
