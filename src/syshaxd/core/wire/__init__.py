# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is on the wire: HTTP/1.1, request bodies, the OpenAI API, and the metrics of vLLM."""
