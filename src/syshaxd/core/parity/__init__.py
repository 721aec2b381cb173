# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Parity: whether two instances compute the same, so that requests may move between them.

`prompts` and `answer` define the test; `distance` compares two distributions, `compare` two instances;
`judge` reaches the verdict.
"""

from syshaxd.core.parity.answer import PromptAnswer, TokenStep, parse_answer, request_body
from syshaxd.core.parity.compare import compare
from syshaxd.core.parity.judge import Bounds, unknown
from syshaxd.core.parity.prompts import PROMPTS
from syshaxd.core.parity.report import (
    Agreement,
    Difference,
    Figures,
    ParityCause,
    ParityReport,
    PromptReport,
    Verdict,
    report_json,
)

__all__ = [
    "PROMPTS",
    "Agreement",
    "Bounds",
    "Difference",
    "Figures",
    "ParityCause",
    "ParityReport",
    "PromptAnswer",
    "PromptReport",
    "TokenStep",
    "Verdict",
    "compare",
    "parse_answer",
    "report_json",
    "request_body",
    "unknown",
]
