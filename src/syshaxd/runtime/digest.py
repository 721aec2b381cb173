# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A digest that tells whether a running server matches its spec."""

import hashlib
import json
from dataclasses import asdict

from syshaxd.core.types import InstanceSpec


def digest(spec: InstanceSpec) -> str:
    """Differs if a server launched for `spec` would differ."""
    fields = asdict(spec)
    del fields[
        "aliases"
    ]  # the command line has them; servers that a daemon without this field started are still the same
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
