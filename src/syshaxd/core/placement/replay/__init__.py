# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What would have become of the requests of a trace, by other policies and on other hosts."""
