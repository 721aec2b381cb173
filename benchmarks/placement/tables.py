# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""tables.py OUT TRACE...: all policies on all shipped profiles, for each trace; OUT/replay.md and plots beside it."""

import argparse
from pathlib import Path

from syshaxd.core.placement.replay.compare import Comparison, compare
from syshaxd.core.placement.replay.plot import draw
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.trace import parse

POLICIES = ("gpu-only", "cost", "turn", "upstream-threshold")
TIMES = ("first token, s", "p99", "whole answer, s", "p99", "worst p99 : gpu-only (chance)")
COLUMNS = ("load", "policy", "good/s", "worst : gpu-only (chance)", "tokens/s", "of ideal", *TIMES, "helped")
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' ---: |' * len(COLUMNS)}"


def line(row):
    cells = [f"{row.load:g}x", row.policy, f"{row.goodput:.3g}", f"{row.worst_goodput:.2f} ({row.noise_goodput:.2f})"]
    cells += [f"{row.tokens_per_s:.0f}", f"{row.tokens_per_s / row.ideal_tokens_per_s:.2f}"]
    cells += [f"{value:.2f}" for value in (row.first_s, row.first_p99_s, row.whole_s, row.whole_p99_s)]
    cells += [f"{row.worst_whole_p99:.2f} ({row.noise_whole_p99:.2f})", f"{row.helped:.0%}"]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--profiles", default=",".join(PROFILES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    text = ["# Policies on traces\n"]
    for name in options.profiles.split(","):
        text.append(f"## {name}\n{PROFILES[name].derivation}.\n")
        for path in options.traces:
            what = Comparison(profile=PROFILES[name], policies=POLICIES, requests=options.requests)
            rows = list(compare(parse(path.read_text()), what))
            plot = f"{path.stem}-{name}.svg"
            (options.out / plot).write_text(draw(rows))
            text.append(f"**{path.stem}**\n\n{HEAD}\n" + "\n".join(map(line, rows)) + f"\n\n![plot]({plot})\n")
            (options.out / "replay.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
