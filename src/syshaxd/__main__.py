# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshaxd` is `syshaxd`."""

from syshaxd.daemon import main

main()
