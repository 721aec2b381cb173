# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whether a server that runs is the one that is wanted."""

import hashlib
import json
from dataclasses import asdict

from syshaxd.core.types import InstanceSpec


def digest(spec: InstanceSpec) -> str:
    """Differs if a server launched for `spec` would differ."""
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()
