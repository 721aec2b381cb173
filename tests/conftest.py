# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How many examples hypothesis tries: `--hypothesis-profile` chooses another profile."""

from hypothesis import HealthCheck, settings

# No test asserts a speed: others may run beside it.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", untimed, max_examples=40)
settings.register_profile("thorough", untimed, max_examples=200)  # `make test-all`
settings.load_profile("quick")
