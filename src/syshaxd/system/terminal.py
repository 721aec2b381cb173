# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Makes command lines robust: no character, full disk or closed pipe ends one with a traceback."""

import codecs
import errno
import os
import re
import sys
from io import TextIOWrapper
from typing import Any, TextIO, cast

import click

_ERRORS = "syshax-terminal"
_ASCII = str.maketrans("▁▂▃▄▅▆▇█░…°●▲■◆○△□◇·│└─", "__--==##.. o^#*OA=+.|+-")


def _replace(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows of characters that it does not have: as many, so that tables keep their shape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ASCII)
    return "".join(each if each.isascii() else "?" for each in text), error.end


codecs.register_error(_ERRORS, _replace)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Text as a terminal may get it: control characters, but tabs and line ends, become escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class _VisibleStream:
    """A terminal that gets no control sequences: texts of instances and clients could rewrite it, or type into it.

    It has no `buffer`, which click would write to instead.
    """

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal

    def write(self, text: str) -> int:
        """As of any stream."""
        return self.terminal.write(visible(text))

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.terminal, name)


def controlled(stream: TextIO) -> TextIO:
    """The stream behind `sys.stdout` or `sys.stderr`, for the program's own control sequences."""
    return stream.terminal if isinstance(stream, _VisibleStream) else stream


class _OnAnyTerminal(click.Command):
    def main(self, *args: Any, **options: Any) -> Any:
        """Runs the program. See click.Command.main."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, TextIOWrapper):  # None: it was closed
                stream.reconfigure(errors=_ERRORS)
                if stream.isatty():
                    setattr(sys, name, cast("TextIO", _VisibleStream(stream)))
        try:
            return super().main(*args, **options)
        except OSError as error:  # of the output: commands turn their own errors into messages
            _give_up_stdout()
            what = f"{error.filename}: " if error.filename else ""
            click.echo(f"Error: {what}{error.strerror or error}{_advice(error)}", err=True)
            sys.exit(1)


class Program(_OnAnyTerminal):
    """A program without commands."""


class ProgramGroup(_OnAnyTerminal, click.Group):
    """A program with commands."""


class FileText(click.File):
    """The text of a file, or of standard input for `-`: UTF-8 in any locale."""

    def __init__(self, errors: str = "strict") -> None:
        """`errors`: what becomes of bytes that are not UTF-8, as in `open`."""
        super().__init__(encoding="utf-8", errors=errors)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Reads it."""
        try:
            return super().convert(value, param, ctx).read()
        except UnicodeDecodeError as error:
            raise click.ClickException(f"{value} is not UTF-8 text: {error.reason} at byte {error.start}") from None
        except OSError as error:
            raise click.ClickException(f"{value} cannot be read: {error.strerror or error}") from None


def _advice(error: OSError) -> str:
    return " (where the output goes)" if error.errno in {errno.ENOSPC, errno.EIO, errno.EDQUOT} else ""


def _give_up_stdout() -> None:
    """What is still to be written is dropped: trying again at exit would only end in a trace."""
    if sys.stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
