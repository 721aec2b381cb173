# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Requests: admission, placement, dispatch, hand-over, migration, and the Runner that relays answers."""
