# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A vLLM KV connector: hands a request's KV cache to another vLLM instance of the same host, through shared memory.

It runs inside stock vLLM (0.26 to 0.32) from a bare folder on PYTHONPATH and needs nothing but vLLM's own environment.
`PROTOCOL.md` in this folder is its contract with senders of requests; `docs/handover.md` explains how it works.
"""
