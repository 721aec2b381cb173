# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A digest that shows whether a running server matches its spec."""

import hashlib
import json
from dataclasses import asdict

from syshaxd.core.types import InstanceSpec


def digest(spec: InstanceSpec) -> str:
    """Differs if a server launched for `spec` would differ."""
    fields = asdict(spec)
    # The command line, the variables and the container have these; servers that a daemon without these fields started
    # are still the same.
    del fields["aliases"], fields["gpus"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
