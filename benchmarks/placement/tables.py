# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""tables.py OUT TRACE...: all policies on all shipped profiles, for each trace.

OUT/summary.md gets the tables of docs/placement.md, OUT/replay.md all figures, with a plot for each profile and trace.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from syshaxd.core.placement.replay.compare import DEFAULT_LOADS, Comparison, compare
from syshaxd.core.placement.replay.plot import draw
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.trace import parse

POLICIES = ("gpu-only", "cost", "turn", "upstream-threshold")
TIMES = ("first token, s", "p99", "whole answer, s", "p99", "worst p99 : gpu-only (chance)")
COLUMNS = ("load", "policy", "good/s", "worst : gpu-only (chance)", "tokens/s", "of ideal", *TIMES, "helped")
SHOWN_LOAD = 2.0


def line(row):
    cells = [f"{row.load:g}x", row.policy, f"{row.goodput:.3g}", f"{row.worst_goodput:.2f} ({row.noise_goodput:.2f})"]
    cells += [f"{row.tokens_per_s:.0f}", f"{row.tokens_per_s / row.ideal_tokens_per_s:.2f}"]
    cells += [f"{value:.2f}" for value in (row.first_s, row.first_p99_s, row.whole_s, row.whole_p99_s)]
    return [*cells, f"{row.worst_whole_p99:.2f} ({row.noise_whole_p99:.2f})", f"{row.helped:.0%}"]


def table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def goodput(row, alone):
    """As a ratio; `-`: over twenty, as the GPU alone meets the targets of next to no request."""
    return f"{row.goodput / alone.goodput:.2f}" if row.goodput < 20 * alone.goodput else "-"


def p99(row, alone):
    return f"{row.whole_p99_s / alone.whole_p99_s:.2f} ({row.worst_whole_p99:.2f})"


def summary(found):
    """`cost` at all loads, then all policies at one, against `gpu-only`."""
    by_load, by_policy = [], []
    for (profile, trace), rows in found.items():
        its = {(row.load, row.policy): row for row in rows}
        pairs = [(its[load, "cost"], its[load, "gpu-only"]) for load in DEFAULT_LOADS]
        cells = [f"{goodput(*pair)}; {p99(*pair)} ~{pair[0].noise_whole_p99:.2f}" for pair in pairs]
        by_load.append([profile, trace, *cells])
        for policy in POLICIES:
            row, alone = its[SHOWN_LOAD, policy], its[SHOWN_LOAD, "gpu-only"]
            ratios = [f"{row.tokens_per_s / it:.2f}" for it in (alone.tokens_per_s, row.ideal_tokens_per_s)]
            ratios += [f"{row.whole_s / alone.whole_s:.2f}", p99(row, alone), f"{row.helped:.0%}"]
            by_policy.append([profile, trace, f"`{policy}`", goodput(row, alone), *ratios])
    loads = ["profile", "trace", *(f"{load:g}x" for load in DEFAULT_LOADS)]
    policies = ["profile", "trace", "policy", "goodput", "tokens/s", "of ideal", "whole answer: mean"]
    return f"{table(loads, by_load)}\n\n{table([*policies, 'p99 (worst section)', 'helped'], by_policy)}\n"


def replayed(profile, path, requests):
    what = Comparison(profile=PROFILES[profile], policies=POLICIES, requests=requests)
    return list(compare(parse(path.read_text()), what))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("traces", type=Path, nargs="+")
    parser.add_argument("--requests", type=int, default=600, help="of each section")
    parser.add_argument("--profiles", default=",".join(PROFILES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        asked = {
            (profile, path): pool.submit(replayed, profile, path, options.requests)
            for profile in options.profiles.split(",")
            for path in options.traces
        }
        text, found = ["# Policies on traces\n"], {}
        for (profile, path), rows in asked.items():
            its = found[profile, path.stem.rpartition("_")[2]] = rows.result()
            plot = f"{path.stem}-{profile}.svg"
            (options.out / plot).write_text(draw(its))
            text.append(f"## {profile}, {path.stem}\n{PROFILES[profile].derivation}.\n")
            text.append(f"{table(COLUMNS, map(line, its))}\n\n![plot]({plot})\n")
            (options.out / "replay.md").write_text("\n".join(text))
            (options.out / "summary.md").write_text(summary(found))


if __name__ == "__main__":
    main()
