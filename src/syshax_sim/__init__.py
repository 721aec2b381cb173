# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A simulated vLLM instance, for tests and load runs without a model."""

from syshax_sim.faults import Faults
from syshax_sim.handover import KvStore
from syshax_sim.images import Images
from syshax_sim.profile import BUILT_IN, Profile
from syshax_sim.server import SimInstance

__all__ = ["BUILT_IN", "Faults", "Images", "KvStore", "Profile", "SimInstance"]
