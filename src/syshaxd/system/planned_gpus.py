# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Remembers which GPUs instances got, so that those that stay keep them across reloads and restarts of the daemon."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from syshaxd.core.types import InstanceSpec
from syshaxd.system import rundir, smallfile

_log = logging.getLogger(__name__)


def default_path() -> Path:
    """Where the daemon keeps it."""
    return rundir.state_dir() / "gpus.json"


def read(path: Path) -> dict[str, tuple[str, ...]]:
    """Returns the GPUs that instances had last, by instance; empty: nothing is known."""
    try:
        noted = smallfile.read_json(path)
        return {str(name): tuple(map(str, gpus)) for name, gpus in noted.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _log.warning("cannot read from %s which GPUs instances have: %s; they are planned again", path, error)
        return {}


def write(path: Path, specs: Sequence[InstanceSpec]) -> None:
    """Notes the GPUs of these instances, unless they are noted already.

    It is not synced to disk: when the host goes down, so do the instances.
    """
    present: Mapping[str, tuple[str, ...]] = {spec.name: spec.gpus for spec in specs if spec.gpus}
    if present == read(path):
        return
    try:
        smallfile.replace_json(path, present, synced=False)
    except OSError as error:
        _log.warning("which GPUs instances have can't be written to %s: %s", path, error.strerror)
