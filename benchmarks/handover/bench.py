# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""bench.py PRODUCER_URL CONSUMER_URL [options]: what handing KV caches over takes and saves, between two instances.

Prints Markdown: for each prompt length the consumer's time to first token without and with a hand-over, and the rates
at which KV caches were saved and loaded by the instances' own account; then how many greedy answers agree.
"""

import argparse
import http.client
import json
import random
import statistics
import time
import urllib.request
import uuid

TEXTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "List three prime numbers greater than 20.",
    "Who wrote Romeo and Juliet?",
    "What is the boiling point of water at sea level?",
    "Translate 'good morning' into Spanish.",
    "Name the planets of the solar system in order.",
    "What does a compiler do?",
    "Give me a recipe for pancakes.",
    "Why do leaves change colour in autumn?",
    "What is 17 times 23?",
)
PREFIX = "vllm:syshax_handover_"


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def post(url, path, content):
    data = json.dumps(content).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def body(ids, tokens, handover=None, **more):
    content = {"model": MODEL, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    content |= {"return_token_ids": True} | more
    if handover:
        content["kv_transfer_params"] = {"syshax": handover}
    return content


def complete(url, ids, tokens, handover=None):
    return post(url, "/v1/completions", body(ids, tokens, handover))


def first_token_s(url, ids, handover=None):
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=600)
    text = json.dumps(body(ids, 4, handover, stream=True))
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", text, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    while not response.readline().startswith(b"data: {"):
        pass
    taken = time.perf_counter() - began
    response.read()
    connection.close()
    return taken


def sums(url):
    """Sums of the connector's histograms, and its results, after a request that makes an idle instance tell them."""
    complete(url, [1, 2], 1)
    found = {}
    for line in get(f"{url}/metrics").splitlines():
        if line.startswith(PREFIX) and "_bucket" not in line and "_created" not in line:
            name, _, value = line.rpartition(" ")
            labels = [
                part
                for part in name.partition("{")[2].strip("}").split(",")
                if not part.startswith(("engine=", "model_name="))
            ]
            found[name.partition("{")[0].removeprefix(PREFIX) + "".join(labels)] = float(value)
    return found


def grown(before, after, name):
    return after.get(name, 0.0) - before.get(name, 0.0)


def measure(producer, consumer, length, rounds, chance):
    alone, prefill, handed = [], [], []
    saved, loaded = sums(producer), sums(consumer)
    for _ in range(rounds):
        ids = chance.choices(range(100, 4000), k=length)
        alone.append(first_token_s(consumer, ids))
        ids = chance.choices(range(100, 4000), k=length)
        key = uuid.uuid4().hex
        began = time.perf_counter()
        first = complete(producer, ids, 1, {"save": {"key": key}})
        prefill.append(time.perf_counter() - began)
        assert first["kv_transfer_params"]["syshax"]["state"] == "saving", first
        handed.append(first_token_s(consumer, ids + first["choices"][0]["token_ids"], {"load": {"key": key}}))
    saved_after, loaded_after = sums(producer), sums(consumer)
    count = grown(loaded, loaded_after, 'results_totalop="load"reason=""result="loaded"')
    assert count == rounds, f"{count} of {rounds} were loaded: {loaded_after}"

    def mean(before, after, name):
        return grown(before, after, name) / rounds

    saved_bytes, loaded_bytes = (
        mean(before, after, f'bytes_sumop="{op}"')
        for before, after, op in ((saved, saved_after, "save"), (loaded, loaded_after, "load"))
    )
    save_s = mean(saved, saved_after, 'copy_seconds_sumop="save"')
    load_s = mean(loaded, loaded_after, 'copy_seconds_sumop="load"')
    publish_s = mean(saved, saved_after, "save_seconds_sum")
    without_s, with_s, prefill_s = (statistics.median(times) for times in (alone, handed, prefill))
    cells = (
        f"{length} | {loaded_bytes / 1e6:.1f} | {without_s * 1e3:.0f} | {with_s * 1e3:.0f} | {without_s / with_s:.1f}x",
        f"{prefill_s * 1e3:.0f} | {publish_s * 1e3:.1f} | {save_s * 1e3:.2f} | {saved_bytes / save_s / 1e9:.1f}",
        f"{load_s * 1e3:.2f} | {loaded_bytes / load_s / 1e9:.1f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def agree(producer, consumer, tokens):
    """Whole answers that are equal: consumer alone, producer alone, handed over after one token."""
    with_consumer = with_producer = alike = 0
    for number, text in enumerate(TEXTS):
        said = [{"role": "user", "content": f"{text} (question {number})"}]
        ids = post(producer, "/tokenize", {"model": MODEL, "messages": said})["tokens"]
        one = complete(producer, ids, tokens)["choices"][0]["token_ids"]
        two = complete(consumer, ids, tokens)["choices"][0]["token_ids"]
        key = uuid.uuid4().hex
        first = complete(producer, ids, 1, {"save": {"key": key}})["choices"][0]["token_ids"]
        rest = complete(consumer, ids + first, tokens - 1, {"load": {"key": key}})["choices"][0]["token_ids"]
        alike += one == two
        with_producer += first + rest == one
        with_consumer += first + rest == two
    print(
        f"\nEqual greedy answers of {tokens} tokens, of {len(TEXTS)}: producer alone and consumer alone {alike}, "
        f"handed over and producer {with_producer}, handed over and consumer {with_consumer}.",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("producer")
    parser.add_argument("consumer")
    parser.add_argument("--lengths", default="100,500,1500,3000", help="of prompts, in tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=32, help="of the answers that are compared; 0 compares none")
    options = parser.parse_args()
    global MODEL
    MODEL = json.loads(get(f"{options.producer}/v1/models"))["data"][0]["id"]
    chance = random.Random(time.time())
    for _ in range(2):  # both have mapped the other's arena, and are warm
        key = uuid.uuid4().hex
        ids = chance.choices(range(100, 4000), k=64)
        first_token_s(options.producer, ids, {"save": {"key": key}})
        first_token_s(options.consumer, ids, {"load": {"key": key}})
        time.sleep(2)
    head = (
        "prompt tokens | MB | first token without, ms | with, ms | gain | prefill elsewhere, ms | until published, ms",
        "save: copy, ms | GB/s | load: copy, ms | GB/s",
    )
    print(f"| {' | '.join(head)} |\n|{' ---: |' * 11}", flush=True)
    for length in map(int, options.lengths.split(",")):
        measure(options.producer, options.consumer, length, options.rounds, chance)
    if options.tokens:
        agree(options.producer, options.consumer, options.tokens)


if __name__ == "__main__":
    main()
