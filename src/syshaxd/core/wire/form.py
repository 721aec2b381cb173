# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The model that a multipart form names, as for audio to transcribe. Nothing else of a form is read."""

import re

_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))""", re.IGNORECASE)
_IS_MODEL = re.compile(
    rb"^Content-Disposition:[ \t]*form-data"
    rb'(?:;[ \t]*(?!name=)[\w*-]+=(?:"(?:[^"\\\r\n]|\\.)*"|[^;"\r\n]*))*'
    rb';[ \t]*name=(?:"model"|model)[ \t]*(?:;|\r?$)',
    re.IGNORECASE | re.MULTILINE,
)
"""The header of the field, among those of a part, which clients write in any order."""
_MAX_HEAD_BYTES = 8192
_MAX_VALUE_BYTES = 1024
_MAX_PARTS = 1000


def model_in_form(data: bytes, content_type: str) -> str:
    """The value of the field `model`; empty: there is none."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return ""
    mark = b"--" + (boundary[1] or boundary[2]).encode("utf-8", "replace")
    at = data.find(mark)
    for _ in range(_MAX_PARTS):
        if at < 0:
            break
        begins = at + len(mark) + 2
        at = data.find(mark, begins)
        limit = begins + _MAX_HEAD_BYTES
        ends = data.find(b"\r\n\r\n", begins, limit if at < 0 else min(limit, at))
        if ends >= 0 and _IS_MODEL.search(data[begins:ends]):
            value, is_whole, _ = data[ends + 4 : ends + 4 + _MAX_VALUE_BYTES].partition(b"\r\n")
            return value.decode("utf-8", "replace").strip() if is_whole else ""
    return ""
