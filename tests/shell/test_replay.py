# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl replay."""

import json
from pathlib import Path

from click.testing import CliRunner

from syshaxd.cli.syshaxctl import main

TRACE = "\n".join(
    json.dumps({"timestamp": number * 700, "input_length": 300 + number, "output_length": 20 + number % 50})
    for number in range(60)
)


def replay(*options: str) -> tuple[int, str]:
    command = ["replay", "-", "--profile", "t4-3b", "--requests", "40", "--sections", "1", *options]
    result = CliRunner().invoke(main, command, input=TRACE)
    return result.exit_code, result.output


def test_policies_are_compared_in_a_table_and_a_plot(tmp_path: Path) -> None:
    svg = tmp_path / "plot.svg"
    code, output = replay("--policy", "cost", "--policy", "turn", "--load", "2", "--svg", str(svg))
    assert code == 0
    lines = output.splitlines()
    assert lines[0].split()[:3] == ["LOAD", "POLICY", "GOOD/S"]
    assert [line.split()[:2] for line in lines[1:]] == [["2x", "cost"], ["2x", "turn"]]
    assert svg.read_text().startswith("<svg")


def test_rows_as_json() -> None:
    code, output = replay("--policy", "gpu-only", "--load", "0.5", "-o", "json")
    assert code == 0
    (row,) = json.loads(output)
    assert (row["policy"], row["load"], row["helped"]) == ("gpu-only", 0.5, 0.0)


def test_a_trace_that_cannot_be_read_is_refused_with_its_line() -> None:
    result = CliRunner().invoke(main, ["replay", "-"], input='{"timestamp": 1}\n')
    assert result.exit_code == 2
    assert "TRACE: line 1: needs timestamp, input_length and output_length" in result.output
