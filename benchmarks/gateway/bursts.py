#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Short bursts from gateways that all stay up, taken in turns: ratios that hold on a machine that is not quiet.

bursts.py --gateways gateways.json [--only a,b] [--bursts 9] [--scenarios c50,long] [--gw-cpus 0] [--load-cpus 1]
"""

import argparse
import json
import os
import statistics
import subprocess
import time

import bench
from bench import SCENARIOS, TITLES, Gateway, children, run_load, set_delay

BURST_S = 0.3
NICE = -15  # others shall not stand between a read and its write: they would fill the caches


def cpu_us(pid):
    """CPU time of the tree at pid, by the scheduler's own count: clock ticks of 10 ms are too coarse here."""
    total_ns = 0
    for p in children(pid):
        for task in os.listdir(f"/proc/{p}/task"):
            with open(f"/proc/{p}/task/{task}/schedstat") as f:
                total_ns += int(f.read().split()[0])
    return total_ns / 1000


def raise_priority(pids):
    if os.geteuid():
        return  # all run alike, and the figures scatter more
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            os.setpriority(os.PRIO_PROCESS, int(task), NICE)


def measure(gateways, scenario, count, load_cpus):
    """CPU time a chunk, or a request, in each burst, by gateway."""
    options, delay, _, _ = SCENARIOS[scenario]
    set_delay(delay)
    costs = {g.name: [] for g in gateways}
    for turn in range(-1, count):
        at = turn % len(gateways)
        for g in gateways[at:] + gateways[:at]:
            before = cpu_us(g.proc.pid)
            told = run_load(g.port, options, 10**9, BURST_S, load_cpus, g.spec, 0)
            if told["errors"] or told["corrupt"] or told["rewritten"]:
                raise RuntimeError(f"{g.name}: {told['failures']}, {told['rewritten']} rewritten")
            if turn >= 0:  # the first ones open connections
                costs[g.name].append((cpu_us(g.proc.pid) - before) / (told["chunks"] or told["ok"]))
    return costs


def show(scenario, costs):
    """Prints medians, and ratios to the last gateway's figure of the same turn."""
    last = list(costs)[-1]
    unit = "chunk" if "-stream" in SCENARIOS[scenario][0] else "request"
    print(f"\n### {TITLES[scenario]}\n")
    print(f"| gateway | CPU us a {unit}: median | least | ratio to {last}: median |\n|---|---|---|---|")
    for name, own in costs.items():
        ratios = [mine / its for mine, its in zip(own, costs[last], strict=True)]
        print(
            f"| {name} | {statistics.median(own):.1f} | {min(own):.1f} | {statistics.median(ratios):.2f} |", flush=True
        )


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gateways", required=True)
    p.add_argument("--only")
    p.add_argument("--bursts", type=int, default=9)
    p.add_argument("--scenarios", default="c50,long,a64")
    p.add_argument("--gw-cpus", default="0")
    p.add_argument("--load-cpus", default="1")
    a = p.parse_args()
    bench.WORK = os.path.dirname(os.path.abspath(a.gateways))
    with open(a.gateways) as f:
        specs = json.load(f)
    names = a.only.split(",") if a.only else list(specs)
    ports = ",".join(f"127.0.0.1:{port}" for port in bench.ENGINE_PORTS)
    engine = subprocess.Popen(
        ["taskset", "-c", a.load_cpus, f"{bench.WORK}/bin/engine", "-listen", ports], stdout=subprocess.DEVNULL
    )
    time.sleep(0.3)
    gateways = [Gateway(name, specs[name], a.gw_cpus) for name in names]
    try:
        with open(f"{bench.WORK}/logs/bursts.log", "a") as log:
            for g in gateways:
                g.start(log)
        raise_priority([engine.pid, *(pid for g in gateways for pid in children(g.proc.pid))])
        for scenario in a.scenarios.split(","):
            show(scenario, measure(gateways, scenario, a.bursts, a.load_cpus))
    finally:
        for g in gateways:
            g.stop()
        engine.terminate()
        engine.wait()


if __name__ == "__main__":
    main()
