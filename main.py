#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python3 main.py` in a clone is what `syshax run` is where sysHAX is installed."""

from cli import run

if __name__ == "__main__":
    run("python3 cli.py", "run")
