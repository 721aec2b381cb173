#!/usr/bin/env python3
"""Measures gateways side by side in one run, against the mock engine of this folder.

One gateway runs at a time (others would make noise); the gateways take turns in
every round, so that drift of the machine hits all alike.  Medians over the rounds.

  bench.py --gateways gateways.json [--only a,b] [--rounds 3] [--scenarios a1,a64]
           [--gw-cpus 0] [--load-cpus 1] [--out results.jsonl] [--quick]
  bench.py --table results.jsonl [more.jsonl ...]

gateways.json: {"name": {"cmd": [...], "port": N, "cwd": "...", "env": {...},
                         "cpus": "0,1", "model": "...", "slow": 0.1,
                         "rounds": 2, "skip": ["c"], "start_timeout": 60}}
  port: where it listens on 127.0.0.1; slow: scales the number of requests (not of c,
  c50); rounds, skip: fewer rounds, scenarios left out; cpus: instead of --gw-cpus;
  movable: its streams can move between the engines: it counts as started once they can;
  key: what clients send as their API key.
The name "direct" needs no entry.  Only the standard library is used.
"""

import argparse
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
import urllib.request

WORK = "."  # the folder of gateways.json: bin/, logs/ and results are in it (run.sh makes it)
ENGINE_PORTS = (9101, 9102)
TICK = os.sysconf("SC_CLK_TCK")

# name: (load options, delay between tokens in us, requests, seconds at most)
SCENARIOS = {
    "a1": (["-c", "1", "-tokens", "16"], 0, 3000, 4),
    "a64": (["-c", "64", "-tokens", "16"], 0, 40000, 4),
    "b": (["-c", "32", "-stream", "-tokens", "64"], 0, 4000, 4),
    "c": (["-c", "200", "-stream", "-tokens", "128"], 10000, 600, 8),
    "c50": (["-c", "50", "-stream", "-tokens", "128"], 10000, 150, 6),
    "long": (["-c", "10", "-stream", "-tokens", "1024"], 2000, 50, 6),
    "d": (["-c", "32", "-prompt", "32768", "-tokens", "16"], 0, 12000, 4),
}
TITLES = {
    "a1": "a1: non-stream small, C=1",
    "a64": "a64: non-stream small, C=64",
    "b": "b: stream 64 tokens, 0 delay, C=32",
    "c": "c: stream 128 tokens, 10 ms apart, C=200",
    "c50": "c50: as c with C=50 (a quarter of the chunk rate: few gateways are saturated)",
    "long": "long: stream 1024 tokens, 2 ms apart, C=10: the beginning and the end of a stream hardly count",
    "d": "d: 32 KiB prompt, non-stream, C=32",
}


def children(pid):
    """pid and all its descendants."""
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                with open(f"/proc/{p}/task/{t}/children") as f:
                    todo += [int(x) for x in f.read().split()]
        except OSError:
            pass
    return out


def usage(pid):
    """CPU seconds (user, system) and RSS MiB of the tree at pid."""
    u = s = rss = 0
    for p in children(pid):
        try:
            with open(f"/proc/{p}/stat") as f:
                v = f.read().rsplit(")", 1)[1].split()
            with open(f"/proc/{p}/smaps_rollup") as f:
                for line in f:
                    if line.startswith("Pss:"):
                        rss += int(line.split()[1])
        except OSError:
            continue
        u += int(v[11]) + int(v[13])
        s += int(v[12]) + int(v[14])
    return u / TICK, s / TICK, rss / 1024


def machine_busy():
    """CPU seconds the whole machine was busy so far (steal included)."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:]]
    return (sum(v[:8]) - v[3] - v[4]) / TICK


def wait_quiet(limit=0.25, patience=20):
    """Waits while others use more than limit of a CPU."""
    end = time.time() + patience
    while time.time() < end:
        b = machine_busy()
        time.sleep(0.5)
        if (machine_busy() - b) / 0.5 < limit:
            return


class Gateway:
    def __init__(self, name, spec, cpus):
        self.name, self.spec = name, spec
        self.port = spec.get("port", ENGINE_PORTS[0])
        self.cpus = spec.get("cpus", cpus)
        self.proc = None

    def start(self, log):
        if "cmd" not in self.spec:
            return
        env = dict(os.environ, **self.spec.get("env", {}))
        self.proc = subprocess.Popen(
            ["taskset", "-c", self.cpus] + self.spec["cmd"],
            cwd=self.spec.get("cwd") or None,
            env=env,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        movable = self.spec.get("movable", False)
        body = json.dumps(
            {
                "model": self.spec.get("model", "mock-model"),
                "max_tokens": 2,
                "messages": [{"role": "user", "content": "x"}],
                "stream": movable,
            }
        ).encode()
        headers = {"content-type": "application/json"}
        if self.spec.get("key"):
            headers["authorization"] = f"Bearer {self.spec['key']}"
        before = stats()["movable"]
        end = time.time() + self.spec.get("start_timeout", 60)
        err = None
        while time.time() < end:
            if self.proc.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.proc.returncode}")
            try:
                req = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers)
                with urllib.request.urlopen(req, timeout=5) as r:
                    r.read()
                    if r.status == 200 and (stats()["movable"] > before or not movable):
                        return
                    err = "its streams cannot move" if movable else r.status
            except OSError as e:
                err = e
            time.sleep(0.2)
        raise RuntimeError(f"{self.name} did not answer: {err}")

    def stop(self):
        if not self.proc:
            return
        pids = children(self.proc.pid)
        try:
            self.proc.send_signal(signal.SIGTERM)
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            pass
        for p in pids:
            try:
                os.kill(p, signal.SIGKILL)
            except OSError:
                pass
        self.proc.wait()
        self.proc = None


def run_load(port, opts, n, sec, cpus, spec, warm):
    cmd = [
        "taskset",
        "-c",
        cpus,
        os.path.join(WORK, "bin/load"),
        "-addr",
        f"127.0.0.1:{port}",
        "-n",
        str(n),
        "-max-seconds",
        str(sec),
        "-warmup",
        str(warm),
    ] + opts
    if spec.get("model"):
        cmd += ["-model", spec["model"]]
    if spec.get("key"):
        cmd += ["-key", spec["key"]]
    out = subprocess.run(cmd, stdout=subprocess.PIPE, timeout=sec * 3 + 120, check=True).stdout
    return json.loads(out)


def own_cpu(engine, g):
    """CPU seconds of engine, load generator and gateway so far."""
    c = resource.getrusage(resource.RUSAGE_CHILDREN)
    t = sum(usage(engine.pid)[:2]) + c.ru_utime + c.ru_stime
    return t + (sum(usage(g.proc.pid)[:2]) if g.proc else 0)


def set_delay(us):
    for p in ENGINE_PORTS:
        urllib.request.urlopen(f"http://127.0.0.1:{p}/mock/delay?us={us}", timeout=5).read()


def stats():
    """What the engine has counted so far."""
    with urllib.request.urlopen(f"http://127.0.0.1:{ENGINE_PORTS[0]}/mock/stats", timeout=5) as r:
        return json.loads(r.read())


def bench(a):
    with open(a.gateways) as f:
        specs = json.load(f)
    specs = {"direct": {}, **specs}
    names = a.only.split(",") if a.only else list(specs)
    scen = a.scenarios.split(",") if a.scenarios else [s for s in SCENARIOS if s != "long"]
    os.makedirs(os.path.join(WORK, "logs"), exist_ok=True)
    engine = subprocess.Popen(
        [
            "taskset",
            "-c",
            a.load_cpus,
            os.path.join(WORK, "bin/engine"),
            "-listen",
            ",".join(f"127.0.0.1:{p}" for p in ENGINE_PORTS),
        ],
        stdout=subprocess.DEVNULL,
    )
    time.sleep(0.3)
    res = open(a.out, "a")
    dead = set()
    try:
        for rnd in range(a.rounds):
            for name in names[rnd % len(names) :] + names[: rnd % len(names)]:
                if name in dead or rnd >= specs[name].get("rounds", a.rounds):
                    continue
                g = Gateway(name, specs[name], a.gw_cpus)
                log = open(os.path.join(WORK, "logs", name + ".log"), "a")
                try:
                    g.start(log)
                    k = specs[name].get("slow", 1.0) * (0.2 if a.quick else 1)
                    for s in scen:
                        if s in specs[name].get("skip", ()):
                            continue
                        opts, delay, n, sec = SCENARIOS[s]
                        set_delay(delay)
                        n = max(int(n * (1 if s[0] == "c" else k)), 50)
                        warm = int(opts[1]) * (1 if s[0] == "c" or k < 0.1 else 3)
                        pid = g.proc.pid if g.proc else engine.pid
                        run_load(g.port, opts, warm, 5, a.load_cpus, g.spec, 0)
                        for _attempt in range(3):
                            wait_quiet()
                            before = stats()
                            u0, s0, _ = usage(pid)
                            b0, o0, t0 = machine_busy(), own_cpu(engine, g), time.time()
                            r = run_load(g.port, opts, n, sec, a.load_cpus, g.spec, 0)
                            u1, s1, rss = usage(pid)
                            after = stats()
                            # CPUs' worth of work of others meanwhile
                            foreign = (machine_busy() - b0 - (own_cpu(engine, g) - o0)) / (time.time() - t0)
                            if foreign < a.max_foreign:
                                break
                        r.update(
                            gateway=name,
                            scenario=s,
                            round=rnd,
                            cpu_user=round(u1 - u0, 3),
                            cpu_sys=round(s1 - s0, 3),
                            rss=round(rss, 1),
                            foreign=round(foreign, 2),
                            streams=after["streams"] - before["streams"],
                            movable=after["movable"] - before["movable"],
                        )
                        r["cpu_us_req"] = round((u1 - u0 + s1 - s0) * 1e6 / max(r["ok"], 1), 2)
                        if r["chunks"]:
                            r["cpu_ms_1000chunks"] = round((u1 - u0 + s1 - s0) * 1e6 / r["chunks"], 3)
                        res.write(json.dumps(r) + "\n")
                        res.flush()
                        print(
                            f"{rnd} {name:12} {s:4} rps {r['rps']:9.1f} chunks/s {r['chunks_s']:9.0f} "
                            f"p50 {r['total_p50']:.3f} cpu/req {r['cpu_us_req']:.0f}us "
                            f"ms/1000ch {r.get('cpu_ms_1000chunks', 0):.2f} foreign {foreign:.2f} err {r['errors']} "
                            f"corrupt {r['corrupt']} rewr {r['rewritten']} movable {r['movable']}/{r['streams']} "
                            f"{r['failures'] or ''}",
                            flush=True,
                        )
                except Exception as e:  # the others go on
                    print(f"{rnd} {name}: {type(e).__name__}: {e}", flush=True)
                    dead.add(name)
                finally:
                    g.stop()
                    log.close()
    finally:
        engine.terminate()
        engine.wait()
        res.close()
    table([a.out], a.max_foreign)


def table(files, max_foreign=0.2):
    rows = []
    for f in files:
        with open(f) as h:
            rows += [json.loads(x) for x in h]
    names = list(dict.fromkeys(r["gateway"] for r in rows))
    # a disturbed measurement counts only where its gateway has no quiet one
    calm = {}
    for r in rows:
        calm.setdefault((r["gateway"], r["scenario"]), []).append(r)
    rows = []
    for v in calm.values():
        q = [r for r in v if r.get("foreign", 0) < max_foreign]
        rows += q or [min(v, key=lambda r: r["foreign"])]

    def med(g, s, k):
        v = [r[k] for r in rows if r["gateway"] == g and r["scenario"] == s and k in r]
        return statistics.median(v) if v else None

    def cell(v, d=1):
        return "-" if v is None else f"{v:,.{d}f}"

    for s in SCENARIOS:
        if not any(r["scenario"] == s for r in rows):
            continue
        stream = "-stream" in SCENARIOS[s][0]
        cols = {
            "a1": [("p50 ms", "total_p50", 3), ("p99 ms", "total_p99", 3), ("added p50 ms", None, 3)],
            "a64": [("req/s", "rps", 0), ("p50 ms", "total_p50", 2), ("p99 ms", "total_p99", 2)],
            "b": [
                ("chunks/s", "chunks_s", 0),
                ("req/s", "rps", 0),
                ("TTFT p50", "ttft_p50", 2),
                ("TTFT p99", "ttft_p99", 2),
            ],
            "c": [
                ("chunks/s", "chunks_s", 0),
                ("TTFT p50", "ttft_p50", 1),
                ("TTFT p99", "ttft_p99", 1),
                ("ITL p99", "itl_p99", 2),
                ("relay p50", "relay_p50", 3),
                ("relay p99", "relay_p99", 2),
            ],
            "c50": [
                ("chunks/s", "chunks_s", 0),
                ("TTFT p50", "ttft_p50", 1),
                ("TTFT p99", "ttft_p99", 1),
                ("ITL p99", "itl_p99", 2),
                ("relay p50", "relay_p50", 3),
                ("relay p99", "relay_p99", 2),
            ],
            "d": [("req/s", "rps", 0), ("p50 ms", "total_p50", 2), ("p99 ms", "total_p99", 2)],
        }[s]
        main = "chunks_s" if stream else "rps"
        print(f"\n### {TITLES[s]}\n")
        head = (
            ["gateway"]
            + [c[0] for c in cols]
            + ["x direct", "CPU us/req"]
            + (["CPU ms/1000 chunks", "movable streams"] if stream else [])
            + ["PSS MiB", "errors", "corrupt", "rewritten", "rounds", "foreign CPUs"]
        )
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for g in names:
            if med(g, s, "rps") is None:
                continue
            out = [g]
            sel = [r for r in rows if r["gateway"] == g and r["scenario"] == s]
            for _title, k, d in cols:
                if k is None:
                    base = med("direct", s, "total_p50")
                    out.append(cell(med(g, s, "total_p50") - base, d) if base else "-")
                else:
                    out.append(cell(med(g, s, k), d))
            base = med("direct", s, main)
            out.append(cell(med(g, s, main) / base, 3) if base else "-")
            own = g != "direct"
            out.append(cell(med(g, s, "cpu_us_req"), 0) if own else "-")
            if stream:
                out.append(cell(med(g, s, "cpu_ms_1000chunks"), 2) if own else "-")
                out.append("{} of {}".format(*(sum(r.get(k, 0) for r in sel) for k in ("movable", "streams"))))
            out.append(cell(med(g, s, "rss"), 0) if own else "-")
            out += [str(sum(r[k] for r in sel)) for k in ("errors", "corrupt", "rewritten")] + [
                str(len(sel)),
                cell(med(g, s, "foreign"), 2),
            ]
            print("| " + " | ".join(out) + " |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gateways", default="gateways.json")
    p.add_argument("--only")
    p.add_argument("--scenarios")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--gw-cpus", default="0")
    p.add_argument("--load-cpus", default="1")
    p.add_argument("--out", default=None)
    p.add_argument(
        "--max-foreign",
        type=float,
        default=0.2,
        help="measure again (twice at most) when others used more than this many CPUs",
    )
    p.add_argument("--quick", action="store_true", help="a fifth of the requests")
    p.add_argument("--table", nargs="+", help="only print the tables of these files")
    a = p.parse_args()
    global WORK
    WORK = os.path.dirname(os.path.abspath(a.gateways))
    a.out = a.out or os.path.join(WORK, "results.jsonl")
    if a.table:
        table(a.table, a.max_foreign)
    else:
        bench(a)


if __name__ == "__main__":
    sys.exit(main())
