# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The contract of every InstanceRuntime on a real container engine."""

from tests.shell.runtime_contract import RuntimeContract


class TestContract(RuntimeContract):
    pass
