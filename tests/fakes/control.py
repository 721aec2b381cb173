# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the control plane commands, with whatever parts a test has."""

from typing import Any, cast
from unittest.mock import create_autospec

from syshaxd.control import Operations
from syshaxd.reconfigure import Reconfigurer
from syshaxd.serving.engine import Engine
from syshaxd.serving.leases import Leases
from syshaxd.system.api_keys import ApiKeys
from tests.fakes.engine import FakeEngine


def operations_of(engine: FakeEngine, **others: Any) -> Operations:
    parts = {
        "instances": engine,
        "reconfigurer": create_autospec(Reconfigurer, instance=True),
        "leases": create_autospec(Leases, instance=True),
        "keys": ApiKeys(),
        "batches": lambda: None,
        "stop": lambda leave_running: None,
    }
    return Operations(engine=cast("Engine", engine), **(parts | others))
