# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""replay.py [options]: the same requests to GPU and CPU together, and to the GPU alone. Is anybody worse off?

Without --url it starts syshaxd over two simulated instances (src/syshax_sim); with --url it asks a running syshaxd.
With --vllm it starts syshaxd over two real ones, of the embedded profile, measures them as `syshaxctl calibrate` does,
before and after all requests, and shows how far the simulator of `syshaxctl replay` is off with what that found.
Requests arrive at random (a Poisson process), with the lengths of a trace or drawn at random. For each rate of arrival
the same requests are sent twice: free to go where syshaxd sends them, and with `X-Syshax-Instance: gpu`. With --rounds,
so often, each time other requests; which of the two comes first alternates.
"""

import argparse
import asyncio
import contextlib
import csv
import json
import random
import signal
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass, replace

import aiohttp
from hosts import calibration, embedded, simulated

from syshaxd.core.placement.replay.calibrated import calibrated
from syshaxd.core.placement.replay.profiles import PROFILES, HandoverProfile
from syshaxd.core.placement.replay.run import replay as replay_trace
from syshaxd.core.placement.replay.trace import TracedRequest
from syshaxd.core.placement.rules import Policy

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


@dataclass
class Run:
    """Requests that were sent one after another, and what became of them."""

    requests: list[Wanted]
    got: list[Got]

    @property
    def seconds(self):
        """From the first arrival to the last answer."""
        return max(wanted.at_s + one.whole_s for wanted, one in zip(self.requests, self.got, strict=True))

    @property
    def tokens(self):
        return sum(
            wanted.answer_tokens for wanted, one in zip(self.requests, self.got, strict=True) if one.status == 200
        )


@dataclass
class Figures:
    """What is compared, over all rounds of one arm."""

    placements: str
    refused: int
    tokens_per_s: float
    first_s: list[float]
    whole_s: list[float]

    @classmethod
    def of(cls, runs):
        got = [one for run in runs for one in run.got]
        good = [one for one in got if one.status == 200]
        counts = Counter(one.placement for one in good)
        return cls(
            ", ".join(f"{place} {count}" for place, count in sorted(counts.items())),
            len(got) - len(good),
            sum(run.tokens for run in runs) / sum(run.seconds for run in runs),
            [one.first_s for one in good],
            [one.whole_s for one in good],
        )

    @property
    def times(self):
        return [what(its) for its in (self.first_s, self.whole_s) for what in (mean, median, p99)]


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
    sizes = [
        (options.scale * prompt, options.scale * answer)
        for prompt, answer in lengths(options.trace, len(times), chance)
    ]
    return [
        Wanted(at_s, int(max(8, min(prompt, options.max_prompt))), int(max(2, min(answer, options.max_answer))))
        for at_s, (prompt, answer) in zip(times, sizes, strict=False)
    ]


async def ask(session, url, model, number, wanted, place, speed):
    """Sends one request; its prompt is in no prefix cache."""
    await asyncio.sleep(wanted.at_s / speed)
    prompt = " ".join(WORDS[(number * 7 + i * (1 + number % 5)) % len(WORDS)] for i in range(wanted.prompt_tokens))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"{time.monotonic_ns()} {prompt}"}],
        "stream": True,
    }
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


def mean(values):
    return sum(values) / len(values)


def median(values):
    return quantile(values, 0.5)


def p99(values):
    return quantile(values, 0.99)


def quantile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


ARMS = {"both": None, "gpu alone": "gpu"}
TIMES = ("first token, s: mean", "p50", "p99", "whole answer, s: mean", "p50", "p99")
COLUMNS = ("requests/s", "placed on", "by placement", "refused", "tokens/s", *TIMES)
HEAD = f"| {' | '.join(COLUMNS)} |\n| ---: | --- | --- | {' | '.join(['---:'] * 8)} |"


def table(rate, arms):
    """Rows of one rate: each arm, and how they compare."""
    for name, its in arms.items():
        cells = [f"{rate:.3g}", name, its.placements, str(its.refused), f"{its.tokens_per_s:.4g}"]
        yield f"| {' | '.join([*cells, *(f'{value:.2f}' for value in its.times)])} |"
    both, alone = arms.values()
    ratios = [
        both.tokens_per_s / alone.tokens_per_s,
        *(one / other for one, other in zip(both.times, alone.times, strict=True)),
    ]
    yield f"| {rate:.3g} | **both : gpu alone** | | | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |"


def tokens_per_word(url, model, words):
    """Tokens of a prompt of so many words, over the words."""
    body = {"model": model, "messages": [{"role": "user", "content": " ".join(WORDS * words)[: 5 * words]}]}
    data = json.dumps(body | {"max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)["usage"]["prompt_tokens"] / len(body["messages"][0]["content"].split())


def calibrated_profile(results, slots):
    """The embedded profile's instances, as the calibrations measured them."""
    base = PROFILES["two-cores-1b"]
    # Of SmolLM2 in bfloat16, with the embedded profile's limits: 1 GiB of KV cache, 256 MiB of arena.
    device = replace(base.gpu, kv_tokens=46_000, max_batched_tokens=2048, max_model_len=4096)
    handover = HandoverProfile(token_bytes=23_040, arena_bytes=256 * 1024**2, bytes_per_s=2e9, fixed_s=0.05)
    gpu, cpu = replace(device, max_num_seqs=slots), replace(device, max_num_seqs=8)
    return calibrated(replace(base, gpu=gpu, cpu=cpu, handover=handover), results)


def capacity(profile, requests, ratio):
    """Requests a second that the GPU alone answers, by the simulator."""
    at_once = [replace(one, at_s=0.0) for one in requests]
    return len(requests) / simulate(profile, "gpu-only", at_once, ratio).seconds


def simulate(profile, policy, requests, tokens_ratio):
    """The same requests in the simulator of `syshaxctl replay`."""
    traced = [TracedRequest(one.at_s, round(one.prompt_tokens * tokens_ratio), one.answer_tokens) for one in requests]
    outcomes = replay_trace(profile, Policy(name=policy), traced, calibrated=True).outcomes
    places = ("+".join(one.places) for one in outcomes)
    return Run(
        requests,
        [
            Got(place, 200, one.to_first_s, one.whole_s, one.traced.answer_tokens)
            for place, one in zip(places, outcomes, strict=True)
        ],
    )


ERRORS = (
    "requests/s",
    "placed on",
    "tokens/s, simulated : measured",
    *(f"{what}, s" for what in ("first token", "whole answer", "its p99")),
)
ERRORS_HEAD = f"| {' | '.join(ERRORS)} |\n| ---: | --- |{' ---: |' * 4}"


def error(rate, name, simulated_, measured):
    """A row: the simulator against what was measured."""
    pairs = [
        (simulated_.tokens_per_s, measured.tokens_per_s),
        (mean(simulated_.first_s), mean(measured.first_s)),
        (mean(simulated_.whole_s), mean(measured.whole_s)),
        (p99(simulated_.whole_s), p99(measured.whole_s)),
    ]
    cells = [f"{its:.3g} : {real:.3g} = {its / real:.2f}" for its, real in pairs]
    return f"| {rate:.3g} | {name} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a running syshaxd")
    parser.add_argument("--vllm", action="store_true", help="two real instances of the embedded profile")
    parser.add_argument("--slots", type=int, default=2, help="of the GPU, with --vllm")
    parser.add_argument("--loads", default="0.8,1.5", help="times what the GPU alone can do, with --vllm; not --rates")
    parser.add_argument("--model", default="m")
    parser.add_argument("--trace", help="a CSV file with the columns ContextTokens and GeneratedTokens")
    parser.add_argument("--rates", default="0.6,1.0,1.4,2.0", help="requests a second")
    parser.add_argument("--seconds", type=float, default=120, help="in which requests arrive")
    parser.add_argument("--rounds", type=int, default=1, help="how often, each time with other requests")
    parser.add_argument("--scale", type=float, default=1.0, help="times the lengths of prompts and answers")
    parser.add_argument("--max-prompt", type=int, default=3000)
    parser.add_argument("--max-answer", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=4, help="times as fast as the profiles say, arrivals too")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu-3x", help="of the simulated instances")
    parser.add_argument("--policy", default="cost", help="of placement (scheduler.policy)")
    parser.add_argument("--gpu", type=json.loads, default={}, help="JSON: other values in the GPU's profile")
    parser.add_argument("--cpu", type=json.loads, default={}, help="JSON: other values in the CPU's profile")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as with Ctrl-C: what was started is stopped
    if options.vllm:
        options.model, options.speed = "smollm2", 1.0
    elif options.url:
        options.speed = 1.0
    live = embedded if options.vllm else simulated
    running = contextlib.nullcontext((options.url, None)) if options.url else live(options)
    with running as (url, folder):
        if options.vllm:
            compare_on_vllm(options, url, folder)
            return
        print(HEAD)
        for rate in map(float, options.rates.split(",")):
            compare(options, url, rate)


def compare(options, url, rate):
    """Sends the requests of one rate, and prints its rows. Returns the runs by arm."""
    runs = {name: [] for name in ARMS}
    for number in range(options.rounds):
        requests = plan(options, rate, random.Random(options.seed + number))
        for name in list(ARMS)[:: -1 if number % 2 else 1]:
            got = asyncio.run(replay(url, options.model, requests, ARMS[name], options.speed))
            runs[name].append(Run(requests, got))
    for line in table(rate, {name: Figures.of(its) for name, its in runs.items()}):
        print(line, flush=True)
    return runs


def compare_on_vllm(options, url, folder):
    """The same at loads instead of rates, and the simulator's error."""
    results = calibration(folder)
    ratio = tokens_per_word(url, options.model, 200)
    profile = calibrated_profile(results, options.slots)
    some = plan(options, 1.0, random.Random(options.seed))
    per_s = capacity(profile, some, ratio)
    print(f"{ratio:.2f} tokens a word; the GPU alone answers {per_s:.3g} requests/s, by its calibration\n\n{HEAD}")
    rates = [float(load) * per_s for load in options.loads.split(",")]
    measured = {rate: compare(options, url, rate) for rate in rates}
    results += calibration(folder)
    profile = calibrated_profile(results, options.slots)
    print(f"\n{describe(profile)}\n\n{ERRORS_HEAD}")
    for rate, arms in measured.items():
        for name, runs in arms.items():
            policy = "gpu-only" if ARMS[name] else options.policy
            simulated_ = [simulate(profile, policy, run.requests, ratio) for run in runs]
            print(error(rate, name, Figures.of(simulated_), Figures.of(runs)), flush=True)


def describe(profile):
    """The paces that the calibrations found."""
    devices = {"gpu": (profile.gpu, profile.gpu_interference), "cpu": (profile.cpu, profile.cpu_interference)}
    return "\n".join(
        f"{name}: a step of {1000 * its.step_base_s:.1f} ms and {1000 * its.step_per_request_s:.1f} ms a request, "
        f"{its.prefill_tokens_per_s:.0f} tokens/s of prompts, steps {slowed:.0%} longer while the other one computes"
        for name, (its, slowed) in devices.items()
    )


if __name__ == "__main__":
    main()
