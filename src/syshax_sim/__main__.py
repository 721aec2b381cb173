# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshax_sim`: one simulated vLLM instance, until SIGTERM."""

import argparse
import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from syshax_sim.images import Images
from syshax_sim.profile import BUILT_IN, Profile, load
from syshax_sim.server import SimInstance

_OF_PROFILE = ("max_num_seqs", "max_model_len", "kv_tokens", "answer_tokens", "weights")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(prog="python -m syshax_sim", description="A simulated vLLM instance.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one; it is printed")
    parser.add_argument("--model", "--served-model-name", default="m", help="the model's name in the API")
    parser.add_argument("--profile", default="gpu", help=f"{', '.join(BUILT_IN)}, or a JSON file")
    parser.add_argument("--speed", type=float, default=1.0, help="times as fast as the profile says")
    parser.add_argument(
        "--dialect", choices=["syshax"], help="that of the patched images 0.2.x; with their metric names"
    )
    parser.add_argument("--old-metric-names", action="store_true", help="those from before vLLM V1")
    for name in _OF_PROFILE:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="in place of the profile's")
    parser.add_argument("--rounding-nats", type=float, help="by how much log-probabilities are off")
    parser.add_argument("--busy-file", type=Path, help="a file that is there while the instance computes")
    parser.add_argument(
        "--slowed-by",
        nargs=2,
        metavar=("FILE", "SHARE"),
        help="steps take longer by SHARE while FILE is there, the --busy-file of another instance",
    )
    args = parser.parse_args(argv)
    try:
        profile = _profile(args)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    sim = SimInstance(
        profile,
        model=args.model,
        host=args.host,
        port=args.port,
        old_metric_names=args.old_metric_names or args.dialect is not None,
        images=Images() if args.dialect else None,
        die=os._exit,
    )
    if args.busy_file is not None:
        sim.engine.on_busy = lambda busy: mark(args.busy_file, busy=busy)
    if args.slowed_by is not None:
        file, share = args.slowed_by
        sim.engine.slowdown = partial(slowdown, Path(file), float(share))
    asyncio.run(_serve(sim))


def mark(file: Path, *, busy: bool) -> None:
    """Creates a file, or removes it."""
    if busy:
        file.touch()
    else:
        file.unlink(missing_ok=True)


def slowdown(file: Path, share: float) -> float:
    """The share, while the file is there."""
    return share if file.exists() else 0.0


def _profile(args: argparse.Namespace) -> Profile:
    profile = load(args.profile)
    if args.speed <= 0:
        raise ValueError("--speed must be above 0")
    given = {name: value for name in (*_OF_PROFILE, "rounding_nats") if (value := getattr(args, name)) is not None}
    return replace(
        profile,
        prefill_tokens_per_s=profile.prefill_tokens_per_s * args.speed,
        step_base_s=profile.step_base_s / args.speed,
        step_per_request_s=profile.step_per_request_s / args.speed,
        **given,
    )


async def _serve(sim: SimInstance) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with sim:
        print(f"listening on {sim.url}", flush=True)  # noqa: T201  who starts it waits for this line
        await stop.wait()


if __name__ == "__main__":
    main()
