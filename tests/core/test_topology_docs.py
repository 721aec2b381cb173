# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""docs/numa.md tells every rule and every drift, and no others."""

import re
from pathlib import Path

from syshaxd.core.numa import Dialect, DriftKind, Rule

TEXT = (Path(__file__).parents[2] / "docs/numa.md").read_text()


def test_the_tables_are_complete() -> None:
    told = re.findall(r"^\| `([a-z-]+)`", TEXT, re.MULTILINE)
    assert told == [*Dialect, *Rule, *DriftKind]
