#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Thousands of streams at once through one syshaxd on one core, at several rates of chunks.

  streams.py WORKDIR SYSHAXD KEY [--streams 5000] [--rates 2500,5000,10000,20000] [--seconds 15] [--off]

WORKDIR is that of run.sh, which builds and configures everything, and makes the clients' KEY. Engine and load generator
share the other core. All streams run before the measured time begins, and until it is over. "direct" goes from the load
generator to the engine: what the gateway adds is the difference. Prints a Markdown table.
"""

import argparse
import os
import resource
import subprocess
import sys
import threading
import time

import bench


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("work")
    p.add_argument("syshaxd")
    p.add_argument("key")
    p.add_argument("--streams", type=int, default=5000)
    p.add_argument("--rates", default="2500,5000,10000,20000", help="chunks/s of all streams together")
    p.add_argument("--seconds", type=float, default=15.0, help="measured, after all streams have begun")
    p.add_argument("--off", action="store_true", help="hand-over off")
    p.add_argument("--gw-cpus", default="0")
    p.add_argument("--load-cpus", default="1")
    a = p.parse_args()
    bench.WORK = a.work
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8 * a.streams), hard))
    os.environ["GOMAXPROCS"] = "1"
    listen = ",".join(f"127.0.0.1:{port}" for port in bench.ENGINE_PORTS)
    config = "syshax-streams-off" if a.off else "syshax-streams"
    syshax = {
        "cmd": [a.syshaxd, "--config", f"{a.work}/{config}.yaml"],
        "port": 9215,
        "env": {"XDG_STATE_HOME": f"{a.work}/state-streams"},
        "movable": not a.off,
        "key": a.key,
    }
    print(
        f"{a.streams:,} streams; hand-over {'off' if a.off else 'on'}\n\n"
        "| chunks/s wanted | reached | through | streams | lost | corrupt | on the way p50, ms | p99, ms "
        "| between chunks p99, ms | core busy, % | MiB | KiB a stream | movable | foreign CPUs |\n" + "|---" * 14 + "|"
    )
    engine = subprocess.Popen(
        ["taskset", "-c", a.load_cpus, f"{a.work}/bin/engine", "-listen", listen], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(0.3)
        for rate in map(int, a.rates.split(",")):
            for name, spec in (("direct", {}), ("sysHAX", syshax)):
                measure(a, bench.Gateway(name, spec, a.gw_cpus), rate, engine)
    finally:
        engine.terminate()
        engine.wait()


def measure(a, gateway, rate, engine):
    """Prints one row."""
    delay_s = a.streams / rate
    ramp_s = max(5.0, a.streams / 500)  # a request costs more than a chunk
    start_s = ramp_s + 2 * delay_s
    tokens = int((start_s + a.seconds) / delay_s) + 2
    options = ["-stream", "-c", str(a.streams), "-tokens", str(tokens), "-ramp", str(ramp_s)]
    options += ["-measure-from", str(start_s), "-measure-for", str(a.seconds), "-timeout", "60"]
    with open(f"{a.work}/logs/streams.log", "a") as log:
        bench.set_delay(0)
        gateway.start(log)
        try:
            bench.set_delay(round(delay_s * 1e6))
            pid = gateway.proc.pid if gateway.proc else engine.pid
            idle = bench.usage(pid)[2]
            looked = {}

            def look(name):
                cpu = sum(bench.usage(pid)[:2]), bench.machine_busy(), sum(bench.usage(engine.pid)[:2])
                looked[name] = cpu, bench.usage(pid)[2], bench.stats()

            for name, at_s in (("start", start_s), ("end", start_s + a.seconds)):
                threading.Timer(at_s, look, (name,)).start()
            movable = bench.stats()["movable"]
            told = bench.run_load(gateway.port, options, a.streams, 600, a.load_cpus, gateway.spec, 0)
        finally:
            gateway.stop()
    (cpu0, _, stats0), (cpu1, mib, stats1) = looked["start"], looked["end"]
    own, busy, of_engine = (end - start for start, end in zip(cpu0, cpu1, strict=True))
    direct = gateway.name == "direct"
    # Neither the gateway's, nor the engine's, nor the load generator's, which has about what the engine has.
    foreign = (busy - (0 if direct else own) - 2 * of_engine) / a.seconds
    gateways = [
        f"{100 * own / a.seconds:.0f}",
        f"{mib:.0f}",
        f"{(mib - idle) * 1024 / a.streams:.0f}",
        f"{stats1['movable'] - movable:,}",
    ]
    cells = [
        f"{rate:,}",
        f"{told['measured'] / a.seconds:,.0f}",
        gateway.name,
        f"{min(stats0['running'], stats1['running']):,}",
        f"{a.streams - told['ok'] - told['corrupt']:,}",
        f"{told['corrupt']:,}",
        *(f"{told[key]:.1f}" for key in ("relay_p50", "relay_p99", "itl_p99")),
        *(["-"] * len(gateways) if direct else gateways),
        f"{foreign:.2f}",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)
    if told["failures"]:
        print(told["failures"], file=sys.stderr)


if __name__ == "__main__":
    main()
