# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Our packages that run in vLLM's environment, made importable for it."""

import importlib.util
import tempfile
from pathlib import Path

from syshaxd.core.errors import SyshaxError
from syshaxd.core.handover.connector import PACKAGE

QUANTISER = "syshax_quantize"
"""The package that makes quantised weights."""
_WITHOUT = {
    PACKAGE: ", or set services.NAME.protocol to none",
    QUANTISER: ", or set services.NAME.quantize to none",
}


def package_folder(name: str = PACKAGE) -> Path:
    """The folder of a package of ours that needs vLLM's environment, without importing it.

    Raises:
        SyshaxError: It is not installed with syshaxd.
    """
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SyshaxError(f"{name} is not installed: install sysHAX again{_WITHOUT[name]}")
    return Path(found.origin).parent


def importable_folder(base: Path, name: str = PACKAGE) -> Path:
    """Returns a folder under `base` that has a package of ours for vLLM's environment in it, for a PYTHONPATH.

    Nothing but such packages is in there. The package's own parent would not do: where sysHAX is installed, it holds
    packages of other versions than vLLM's.

    Raises:
        SyshaxError: The package is not installed, or the folder cannot be made.
    """
    package = package_folder(name)
    folder = base / "python"
    link = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not link.is_symlink() or link.readlink() != package:
            _replace_link(link, package)
    except OSError as error:
        raise SyshaxError(f"cannot create {link}: {error.strerror}") from error
    return folder


def _replace_link(link: Path, target: Path) -> None:
    """Points `link` to `target` atomically: instances may start at the same time."""
    with tempfile.TemporaryDirectory(dir=link.parent.parent) as scratch:
        made = Path(scratch, link.name)
        made.symlink_to(target)
        made.replace(link)
