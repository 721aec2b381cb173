# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshax_embedded prepare | run | tiny`: what `make run` and the end-to-end tests call."""

import argparse
import os
import signal
import sys
from pathlib import Path

import syshax_embedded
from syshax_embedded import profile
from syshax_embedded.engine import prepare_engine
from syshax_embedded.folders import cache_folder, only_one, write_whole
from syshax_embedded.model import prepare_model, prepare_tiny
from syshax_embedded.progress import StepFailedError, say


def main() -> None:
    """Runs the command line."""
    options = _parser().parse_args()
    # As with Ctrl-C: what was begun is stopped, nothing goes on behind our back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with only_one(cache_folder()):
            python = prepare_engine()
            if options.command == "tiny":
                prepare_tiny(python, options.folder, seed=options.seed)
            elif options.command == "run" or not options.engine_only:
                _write_config(prepare_model(python), python)
    except (StepFailedError, OSError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; what was begun is made again the next time")
    if options.command == "run":
        syshaxd = Path(sys.executable).with_name("syshaxd")
        os.execv(syshaxd, [str(syshaxd), "--config", str(_config_path())])  # noqa: S606 - no shell is wanted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m syshax_embedded", description=syshax_embedded.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="install the engine and the model, write the configuration")
    prepare.add_argument("--engine-only", action="store_true", help="only the engine")
    commands.add_parser("run", help="prepare, then run syshaxd in the foreground")
    tiny = commands.add_parser("tiny", help="make the tests' tiny random model")
    tiny.add_argument("--seed", type=int, default=0, help="other seeds give other weights")
    tiny.add_argument("folder", type=Path, help="where: a new or empty folder, or one that was made by this command")
    return parser


def _config_path() -> Path:
    return cache_folder() / "embedded.yaml"


def _write_config(model: Path, python: Path) -> None:
    cuda, found = profile.find_cuda()
    cores = sorted(os.sched_getaffinity(0))
    write_whole(_config_path(), profile.render(model, python, cuda, found, cores))
    roles = profile.roles(cuda, found, cores)
    say("\n".join((f"==> the embedded profile, {_config_path()}:", *(f"    {role}" for role in roles))))


if __name__ == "__main__":
    main()
