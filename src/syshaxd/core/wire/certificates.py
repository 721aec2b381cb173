# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""When certificates expire. Python's ssl reports that of a peer's certificate only."""

import base64
import binascii
import re
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.*?)-----END", re.DOTALL)
# `Validity` of RFC 5280 in DER: a SEQUENCE of two times, each a UTCTime (before 2050) or a GeneralizedTime.
_VALIDITY = re.compile(
    rb"\x30[\x1e\x20\x22](?:\x17\x0d\d{12}Z|\x18\x0f\d{14}Z)(?:\x17\x0d(?P<utc>\d{12})Z|\x18\x0f(?P<general>\d{14})Z)"
)


def first_end_s(pem: str) -> float | None:
    """When the first of the certificates in a PEM text ends, in Unix time; None: none can be read."""
    return min((end_s for block in _PEM.findall(pem) if (end_s := _end_s(block)) is not None), default=None)


def _end_s(block: str) -> float | None:
    try:
        found = _VALIDITY.search(base64.b64decode(block))
        if found is None:
            return None
        if found["general"]:
            text = found["general"].decode()
        else:
            century = "20" if found["utc"] < b"50" else "19"
            text = century + found["utc"].decode()
        return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except (binascii.Error, ValueError):
        return None
