# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Writes the completion scripts of all programs: `python packaging/completion.py FOLDER`.

    FOLDER/bash/PROGRAM, FOLDER/zsh/_PROGRAM, FOLDER/fish/PROGRAM.fish

They belong into bash-completion/completions, zsh/site-functions and fish/vendor_completions.d under /usr/share.
"""

import sys
from pathlib import Path

from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from syshaxd import daemon
from syshaxd.cli import syshax, syshaxctl

_PROGRAMS = {"syshax": syshax.main, "syshaxctl": syshaxctl.main, "syshaxd": daemon.main}
_SHELLS: dict[str, tuple[type[ShellComplete], str]] = {
    "bash": (BashComplete, "{}"),
    "zsh": (ZshComplete, "_{}"),
    "fish": (FishComplete, "{}.fish"),
}


def write(folder: Path) -> None:
    """Writes a script for each program and shell."""
    for shell, (kind, name) in _SHELLS.items():
        (folder / shell).mkdir(parents=True, exist_ok=True)
        for program, command in _PROGRAMS.items():
            script = kind(command, {}, program, f"_{program}_COMPLETE".upper()).source()
            (folder / shell / name.format(program)).write_text(script.strip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
