# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runner: carries out a placement. Sends the request to the instance and relays what comes back."""

from syshaxd.serving.runner.runner import Downstream, Flow, Outgoing, Relay, Runner

__all__ = ["Downstream", "Flow", "Outgoing", "Relay", "Runner"]
