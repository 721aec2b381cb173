# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Command lines."""

from pathlib import Path

import click

from syshaxd.core.errors import SyshaxError
from syshaxd.system import configfile


def default_config() -> Path:
    """The default configuration file, or a message and exit code 1."""
    try:
        return configfile.default_path()
    except SyshaxError as error:
        raise click.ClickException(f"{error}, or name the file with --config") from None
