# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""replay.py [options]: the same requests to GPU and CPU together, and to the GPU alone. Is anybody worse off?

Without --url it starts syshaxd over two simulated instances (src/syshax_sim); with --url it asks a running syshaxd.
With --vllm it starts syshaxd over two real ones, of the embedded profile (`make run` installs it), measures them as
`syshaxctl calibrate` does, and replays the same requests in the simulator of `syshaxctl replay` with that profile.
Requests arrive at random (a Poisson process), with the lengths of a trace or of one drawn at random. For each rate of
arrival the same requests are sent twice: free to go where syshaxd sends them, and with `X-Syshax-Instance: gpu`.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import aiohttp
from ruamel.yaml import YAML

from syshax_embedded.folders import cache_folder
from syshaxd.core.placement.calibration import RunResult
from syshaxd.core.placement.replay.calibrated import calibrated
from syshaxd.core.placement.replay.profiles import PROFILES
from syshaxd.core.placement.replay.run import replay as replay_trace
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.rules import Policy

DAEMON = "from syshaxd.daemon import main; main()"

WORDS = "the quick brown fox jumps over a lazy dog and sails far beyond every quiet northern isle".split()


@dataclass
class Wanted:
    at_s: float
    prompt_tokens: int
    answer_tokens: int


@dataclass
class Got:
    placement: str
    status: int
    first_s: float
    whole_s: float
    tokens: int


def lengths(trace, count, chance):
    """Tokens of prompts and answers."""
    if trace:
        with open(trace, newline="") as file:
            rows = [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]
        start = chance.randrange(max(1, len(rows) - count))
        return rows[start : start + count]
    # As in conversations: half of all prompts under 1,000 tokens, of all answers under 130.
    return [(int(chance.lognormvariate(6.9, 0.6)), int(chance.lognormvariate(4.85, 0.9))) for _ in range(count)]


def plan(options, rate, chance):
    """The requests of one rate."""
    times, now_s = [], 0.0
    while (now_s := now_s + chance.expovariate(rate)) < options.seconds:
        times.append(now_s)
    sizes = lengths(options.trace, len(times), chance)
    return [
        Wanted(at_s, max(8, min(prompt, options.max_prompt)), max(2, min(answer, options.max_answer)))
        for at_s, (prompt, answer) in zip(times, sizes, strict=False)
    ]


async def ask(session, url, model, number, wanted, place, speed):
    await asyncio.sleep(wanted.at_s / speed)
    prompt = " ".join(WORDS[(number * 7 + i * (1 + number % 5)) % len(WORDS)] for i in range(wanted.prompt_tokens))
    body = {"model": model, "messages": [{"role": "user", "content": f"{number} {prompt}"}], "stream": True}
    body |= {"max_tokens": wanted.answer_tokens, "ignore_eos": True, "temperature": 0}
    headers = {"X-Syshax-Instance": place} if place else {}
    began, first, tokens = time.monotonic(), None, 0
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b"data: {") and b'"content":' in line and b'"content":""' not in line:
                first = first or time.monotonic()
                tokens += 1
    ended = time.monotonic()
    placement = answer.headers.get("x-syshax-placement", "none")
    return Got(placement, answer.status, ((first or ended) - began) * speed, (ended - began) * speed, tokens)


async def replay(url, model, requests, place, speed):
    """All of one run; seconds are those of the instances' own time."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        asked = (ask(session, url, model, number, one, place, speed) for number, one in enumerate(requests))
        return await asyncio.gather(*asked)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(rate, name, requests, got):
    good = [one for one in got if one.status == 200]
    ended_s = max(wanted.at_s + one.whole_s for wanted, one in zip(requests, got, strict=True))
    counts = Counter(one.placement for one in good)
    first, whole = [one.first_s for one in good], [one.whole_s for one in good]
    tokens = sum(wanted.answer_tokens for wanted, one in zip(requests, got, strict=True) if one.status == 200)
    cells = [f"{rate:g}", name, ", ".join(f"{place} {count}" for place, count in sorted(counts.items()))]
    cells += [str(len(got) - len(good)), f"{tokens / ended_s:.0f}"]
    cells += [f"{sum(first) / len(first):.1f}", f"{quantile(first, 0.5):.1f}", f"{quantile(first, 0.99):.1f}"]
    cells += [f"{sum(whole) / len(whole):.1f}", f"{quantile(whole, 0.5):.1f}", f"{quantile(whole, 0.99):.1f}"]
    return "| " + " | ".join(cells) + " |"


TIMES = ("first token, s: mean", "p50", "p99", "whole answer, s: mean", "p50", "p99")
COLUMNS = ("requests/s", "placed on", "by placement", "refused", "tokens/s", *TIMES)
HEAD = f"| {' | '.join(COLUMNS)} |\n| ---: | --- | --- | {' | '.join(['---:'] * 8)} |"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def simulated(options):
    """Runs syshaxd over two simulated instances; yields its URL."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syshax-replay-")))
        services, port = {}, free_port()

        environment = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        profile = PROFILES[options.profile]
        handover = {"kv_token_bytes": profile.handover.token_bytes, "arena_bytes": profile.handover.arena_bytes}
        handover["handover_bytes_per_s"] = profile.handover.bytes_per_s
        profiles = {
            "gpu": asdict(profile.gpu) | handover | options.gpu,
            "cpu": asdict(profile.cpu) | handover | options.cpu,
        }

        def start(*argv):
            log = stack.enter_context((folder / "log").open("ab"))
            process = subprocess.Popen([sys.executable, *argv], stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)

        for name, profile in profiles.items():
            services[name] = {"port": free_port(), "max_num_seqs": profile["max_num_seqs"], "protocol": "connector"}
        simulation = [[services[name]["port"] for name in profiles], list(profiles.values()), options.speed]
        start(str(Path(__file__).with_name("instances.py")), json.dumps(simulation))
        config = {
            "services": services | {"conductor": {"port": port}},
            "models": {"default": "m"},
            "scheduler": {"policy": options.policy},
            "control": {"socket": str(folder / "admin.sock")},
            "monitor": {"interval_s": 1 / options.speed},
            "system": {"max_queue_size": 100_000, "max_queue_wait_s": 3600},
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        start("-c", DAEMON, "--config", str(folder / "config.yaml"))
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, folder / "log", 60)
        yield url, folder


@contextlib.contextmanager
def embedded(options):
    """Runs syshaxd over the embedded profile with few slots on the GPU; yields its URL and folder."""
    config = YAML(typ="safe").load(cache_folder() / "embedded.yaml")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syshax-replay-")))
        for service in config["services"].values():
            service["port"] = free_port()
            service.pop("quantize", None)
        config["services"]["gpu"]["max_num_seqs"] = options.slots
        config |= {
            "scheduler": {"policy": options.policy, "holdout": 0},
            "control": {"socket": str(folder / "admin.sock")},
            "system": {"max_queue_size": 100_000, "max_queue_wait_s": 3600},
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        environment = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        log = stack.enter_context((folder / "log").open("ab"))
        argv = [sys.executable, "-c", DAEMON, "--config", str(folder / "config.yaml")]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGTERM)
        url = f"http://127.0.0.1:{config['services']['conductor']['port']}"
        wait_until_ready(url, folder / "log", 480)
        yield url, folder


def calibration(folder):
    """What `syshaxctl calibrate` measures."""
    argv = ["-c", "from syshaxd.cli.syshaxctl import main; main()", "--socket", str(folder / "admin.sock")]
    done = subprocess.run(
        [sys.executable, *argv, "calibrate", "--output", "json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return [RunResult(**one) for one in json.loads(done.stdout)]


def tokens_per_word(url, model, words):
    """Tokens of a prompt of so many words, over the words."""
    body = {"model": model, "messages": [{"role": "user", "content": " ".join(WORDS * words)[: 5 * words]}]}
    data = json.dumps(body | {"max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["usage"]["prompt_tokens"] / len(body["messages"][0]["content"].split())


def simulate(profile, policy, requests, tokens_ratio):
    """The same requests in the simulator of `syshaxctl replay`."""
    traced = [TracedRequest(one.at_s, round(one.prompt_tokens * tokens_ratio), one.answer_tokens) for one in requests]
    outcomes = replay_trace(profile, Policy(name=policy), traced).outcomes
    places = ("+".join(one.places) for one in outcomes)
    return [
        Got(place, 200, one.to_first_s, one.whole_s, one.traced.answer_tokens)
        for place, one in zip(places, outcomes, strict=True)
    ]


def wait_until_ready(url, log, timeout_s):
    deadline_s = time.monotonic() + timeout_s
    while not (ready(url) and "syshax_parity_allowed{" in metrics(url)):
        if time.monotonic() > deadline_s:
            sys.exit(log.read_text())
        time.sleep(0.2)


def ready(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/ready?all=1", timeout=5) as answer:
        return answer.status == 200
    return False


def metrics(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        return answer.read().decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running syshaxd")
    parser.add_argument("--vllm", action="store_true", help="two real instances of the embedded profile")
    parser.add_argument("--slots", type=int, default=2, help="of the GPU, with --vllm")
    parser.add_argument("--model", default="m")
    parser.add_argument("--trace", help="a CSV file with the columns ContextTokens and GeneratedTokens")
    parser.add_argument("--rates", default="0.6,1.0,1.4,2.0", help="requests a second")
    parser.add_argument("--seconds", type=float, default=120, help="in which requests arrive")
    parser.add_argument("--max-prompt", type=int, default=3000)
    parser.add_argument("--max-answer", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=4, help="times as fast as the profiles say, arrivals too")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu-3x", help="of the simulated instances")
    parser.add_argument("--policy", default="cost", help="of placement (scheduler.policy)")
    parser.add_argument("--gpu", type=json.loads, default={}, help="JSON: other values in the GPU's profile")
    parser.add_argument("--cpu", type=json.loads, default={}, help="JSON: other values in the CPU's profile")
    options = parser.parse_args()
    if options.vllm:
        options.model, options.speed = "smollm2", 1.0
    live = embedded if options.vllm else simulated
    running = contextlib.nullcontext((options.url, None)) if options.url else live(options)
    with running as (url, folder):
        speed = 1.0 if options.url else options.speed
        profile, ratio = None, 1.0
        if options.vllm:
            base = PROFILES["two-cores-1b"]
            gpu = replace(base.gpu, max_num_seqs=options.slots, max_model_len=4096)
            cpu = replace(base.cpu, max_num_seqs=8, max_model_len=4096)
            profile = calibrated(replace(base, gpu=gpu, cpu=cpu), calibration(folder))
            ratio = tokens_per_word(url, options.model, 200)
            print(f"calibrated: gpu {profile.gpu}\n\ncpu {profile.cpu}\n\n{ratio:.2f} tokens a word\n")
        print(HEAD)
        for rate in map(float, options.rates.split(",")):
            requests = plan(options, rate, random.Random(options.seed))
            for name, place in (("both", None), ("gpu alone", "gpu")):
                got = asyncio.run(replay(url, options.model, requests, place, speed))
                print(row(rate, name, requests, got), flush=True)
                if profile is not None:
                    got = simulate(profile, "gpu-only" if place else options.policy, requests, ratio)
                    print(row(rate, f"{name}, simulated", requests, got), flush=True)


if __name__ == "__main__":
    main()
