# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""How many examples hypothesis tries: `--hypothesis-profile` chooses another profile."""

from hypothesis import settings

settings.register_profile("quick", max_examples=40)
settings.register_profile("thorough", max_examples=200)  # `make test-all`
settings.load_profile("quick")
