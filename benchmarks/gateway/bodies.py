# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What it costs to read what placement and hand-over need of a body: `python benchmarks/gateway/bodies.py`.

Each cell is a process of its own: milliseconds (the best of three), and MiB that the process grew by at its peak,
over that of making the body.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec
from pydantic import BaseModel

from syshaxd.core.errors import BadRequestError
from syshaxd.core.handover.rules import KNOWN_FIELDS, split_of
from syshaxd.core.wire.body import BodyReader

MIB = 1024 * 1024


def chat(content: bytes) -> bytes:
    return b'{"model":"m","messages":[{"role":"user","content":%b}],"max_tokens":9,"stream":true}' % content


SHAPES: dict[str, Callable[[], bytes]] = {
    "a chat of 200 B": lambda: chat(b'"%b"' % (b"x" * 120)),
    "a chat of 36 KB": lambda: chat(b'"%b"' % (b"word " * 7200)),
    "a chat of 32 MB": lambda: chat(b'"%b"' % (b"word " * (32 * MIB // 5))),
    "27 MB of {} as messages": lambda: b'{"model":"m","messages":[' + b"{}," * (9 * MIB) + b"{}]}",
    "27 MB of {} as parts": lambda: chat(b"[" + b"{}," * (9 * MIB) + b"{}]"),
    "32 MB of token ids": lambda: b'{"model":"m","prompt":[' + b"17," * (10 * MIB) + b"1]}",
    "2.4 million keys": lambda: b'{"model":"m",' + b",".join(b'"k%d":1' % n for n in range(2_400_000)) + b"}",
    "16 million [, nested": lambda: b'{"model":"m","a":' + b"[" * (16 * MIB) + b"]" * (16 * MIB) + b"}",
    "a number of 32 MB": lambda: b'{"model":"m","max_tokens":' + b"9" * (32 * MIB) + b"}",
    "2 million times model": lambda: b"{" + b'"model":"m",' * 2_600_000 + b'"model":"m"}',
    "29 MB of escaped quotes": lambda: chat(b'"%b"' % (b'\\"' * (29 * MIB // 2))),
    "29 MB of escaped quotes and colons": lambda: chat(b'"%b"' % (b'\\":' * (29 * MIB // 3))),
    "NaN in 32 MB": lambda: chat(b'"%b",' % (b"word " * (32 * MIB // 5)) + b'"a":NaN'),
    "32 MB that are not UTF-8": lambda: chat(b'"%b"' % (b"\xff" * (32 * MIB))),
}


class Body(BaseModel):
    model: str | None = None
    messages: list[dict[str, object]] | None = None
    max_tokens: int | None = None


READER = BodyReader(KNOWN_FIELDS, ("model", "max_tokens"))


def ours(data: bytes) -> None:
    split_of(READER.read(data))


READERS: dict[str, Callable[[bytes], object]] = {
    "sysHAX": ours,
    "json": json.loads,
    "msgspec, all of it": msgspec.json.decode,
    "pydantic": Body.model_validate_json,
}


def measure(shape: str, reader: str) -> None:
    data = SHAPES[shape]()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    refused = ""
    repeats = 1 if len(data) > MIB else 1000
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            try:
                READERS[reader](data)
            except (BadRequestError, ValueError, RecursionError):
                refused = ", refused"
        times.append((time.perf_counter() - start) / repeats)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) // 1024
    milliseconds = min(times) * 1e3
    print(f"{milliseconds:.3g} ms, {grown} MiB{refused}" if len(data) > MIB else f"{milliseconds * 1e3:.3g} us")


def main() -> None:
    print(f"| body | {' | '.join(READERS)} |\n|{' --- |' * (len(READERS) + 1)}")
    for shape in SHAPES:
        cells = []
        for reader in READERS:
            command = [sys.executable, __file__, shape, reader]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            cells.append(done.stdout.strip() or f"died ({done.returncode})")
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()
