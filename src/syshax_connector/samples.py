# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Which weights a model's folder holds, told from some of their bytes. `syshaxd.system.weights` samples alike."""

import hashlib
import json
from pathlib import Path

_RECORD = "syshax_weights.json"
_SAMPLE_BYTES = 1 << 16


def samples_of(folder: Path) -> list[str]:
    """A digest of each file of weights, or of those that sysHAX made these of: their KV caches are of one kind.

    Whether requests may move between the two is decided where they are sent.
    """
    return _made_from(folder) or [_sample(file) for file in sorted(folder.glob("*.safetensors"))]


def _made_from(folder: Path) -> list[str]:
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        return [str(sample) for sample in record["made_from"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []


def _sample(file: Path) -> str:
    """A sample of a file's bytes, spread over it."""
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as data:
        for part in range(9):
            data.seek(max(0, size - _SAMPLE_BYTES) * part // 8)
            digest.update(data.read(_SAMPLE_BYTES))
    return digest.hexdigest()
