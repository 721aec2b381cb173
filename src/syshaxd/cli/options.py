# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Options of several commands, and what they share beside the daemon: the default file, errors as messages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from syshaxd.core.errors import ConfigError, SyshaxError
from syshaxd.system import configfile

C = TypeVar("C", bound=Callable[..., Any])

output_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)


def default_config() -> Path:
    """The default configuration file, or a message and exit code 1."""
    try:
        return configfile.default_path()
    except SyshaxError as error:
        raise click.ClickException(f"{error}, or name the file with --config") from None


def config_option(meaning: str) -> Callable[[C], C]:
    """`--config FILE`, which the command gets as `path`."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path, readable=False),
        default=default_config,
        show_default="$SYSHAX_CONFIG, else the system's or your own",
        metavar="FILE",
        help=meaning,
    )


@contextmanager
def shown_errors(path: Path | None = None) -> Iterator[None]:
    """Turns every SyshaxError into a message and exit code 1; `path`: the configuration file that is read."""
    try:
        yield
    except SyshaxError as error:
        if path is not None and isinstance(error, ConfigError):
            raise click.ClickException(configfile.fault_text(path, error)) from None
        raise click.ClickException(str(error)) from None
