#!/usr/bin/env python3
# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python3 cli.py ...` in a clone is what `syshax ...` is where sysHAX is installed."""

import os
import sys
from pathlib import Path

_CLONE = Path(__file__).resolve().parent
_OWN_PYTHON = _CLONE / ".venv" / "bin" / "python"
_ADVICE = "`make env` (or `make run`) installs what sysHAX needs into .venv, and this script then uses it"


def run(program: str, *words: str) -> None:
    """Runs `syshax`, called `program` in its messages: in the clone's own environment, if no other one is active."""
    if sys.prefix == sys.base_prefix and _OWN_PYTHON.exists():
        os.execv(_OWN_PYTHON, [str(_OWN_PYTHON), *sys.argv])  # noqa: S606 - the same script, another interpreter
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what an older Python gets to read
        sys.exit(f"sysHAX needs Python 3.11 or later; this is {sys.version.split()[0]}. {_ADVICE}")
    sys.path.insert(0, str(_CLONE / "src"))
    try:
        from syshaxd.cli.syshax import main  # noqa: PLC0415 - only now is it on the path
    except ModuleNotFoundError as error:
        sys.exit(f"The Python package {error.name} is missing. {_ADVICE}; or: python3 -m pip install -e {_CLONE}")
    main([*words, *sys.argv[1:]], prog_name=program)


if __name__ == "__main__":
    run("python3 cli.py")
