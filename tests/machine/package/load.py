# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Clients that ask one chat after the other, each on a connection of its own, until a line comes in; then they count.

Runs in the machine, on its Python alone: `python3 load.py URL`.
"""

import json
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter

_CLIENTS = 6
_TIMEOUT_S = 60.0
_BODY = {"model": "ds-32b", "messages": [{"role": "user", "content": "Introduce openEuler."}], "stream": True}


def ask(url: str) -> str:
    """One chat. Returns how it went: `ok`, or at which point what failed."""
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(_BODY | {"max_tokens": 20}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        return f"answered {error.code}: {error.read()[:200]!r}"
    except OSError as error:
        return f"not begun: {error}"
    try:
        with answer:
            text = answer.read()
    except OSError as error:
        return f"begun: {error}"
    return "ok" if b"data: [DONE]" in text and b'"error"' not in text else f"begun: {text[-200:]!r}"


def main() -> None:
    """Runs the program."""
    results: Counter[str] = Counter()
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            results[ask(sys.argv[1])] += 1

    clients = [threading.Thread(target=client) for _ in range(_CLIENTS)]
    for each in clients:
        each.start()
    sys.stdin.readline()
    stop.set()
    for each in clients:
        each.join()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
