# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A simulated vLLM for `runtime: process`: takes the flags of vLLM's server, and has a child as vLLM has its engine.

Its environment tells what else it is to do: FAULTS_KV is a folder through which instances hand KV caches over,
FAULTS_MAPPED and FAULTS_OPEN files that it keeps mapped and open, FAULTS_STEP_S the time that a token takes,
FAULTS_POISON a text that ends each process that gets it, FAULTS_POISON_AFTER_S how long it takes to, FAULTS_CONTEXT
how many tokens prompt and answer may have. Its OpenAPI document is that of vLLM 0.32, as far as it has the routes.
"""

import argparse
import asyncio
import fcntl
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from syshax_sim import Faults, KvStore, Profile, SimInstance

_CHILD = "import sys; sys.stdin.read()"  # ends with its parent, as vLLM's engine does


class FolderKvStore(KvStore):
    """KV caches that processes hand over to each other."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def save(self, key: str, ids: Sequence[int]) -> None:
        path = self._folder / key
        path.with_suffix(".new").write_text(json.dumps(list(ids[:-1])))
        path.with_suffix(".new").replace(path)

    def load(self, key: str, ids: Sequence[int]) -> int:
        with suppress(OSError):
            self.saved[key] = tuple(json.loads((self._folder / key).read_text()))
            (self._folder / key).unlink()
        return super().load(key, ids)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--kv-transfer-config", type=json.loads)
    args, _ = parser.parse_known_args()
    step_s = float(os.environ.get("FAULTS_STEP_S", "0.02"))
    profile = Profile(
        prefill_tokens_per_s=1e8,
        step_base_s=step_s,
        step_per_request_s=0,
        max_num_seqs=args.max_num_seqs,
        max_batched_tokens=1_000_000,
        kv_tokens=50_000_000,
        max_model_len=int(os.environ.get("FAULTS_CONTEXT", "32768")),
    )
    with ExitStack() as kept:
        if path := os.environ.get("FAULTS_MAPPED"):
            file = kept.enter_context(Path(path).open("rb"))
            kept.enter_context(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        if path := os.environ.get("FAULTS_OPEN"):
            kept.enter_context(Path(path).open("r+b"))
        if (config := args.kv_transfer_config) and "engine_id" in config:
            folder = Path(config["kv_connector_extra_config"]["arena_dir"])
            folder.mkdir(mode=0o700, exist_ok=True)
            # As the connector's: there, and locked by who has it.
            arena = kept.enter_context((folder / f"{config['engine_id']}.0.arena").open("wb"))
            fcntl.flock(arena, fcntl.LOCK_EX)
        child = kept.enter_context(subprocess.Popen([sys.executable, "-S", "-c", _CHILD], stdin=subprocess.PIPE))
        kept.callback(child.kill)
        asyncio.run(serve(args, profile))


async def serve(args: argparse.Namespace, profile: Profile) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sim = SimInstance(
        profile,
        model=args.served_model_name,
        host=args.host,
        port=args.port,
        kv_store=FolderKvStore(Path(os.environ["FAULTS_KV"])),
        document=json.loads(Path(__file__).with_name("openapi.json").read_text()),
        die=os._exit,
    )
    after_s = float(os.environ.get("FAULTS_POISON_AFTER_S", "0"))
    sim.set_faults(Faults(poison=os.environ.get("FAULTS_POISON", ""), poison_after_s=after_s))
    async with sim:
        print(f"listening on {sim.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    main()
