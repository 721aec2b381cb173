# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What `kv_connector_extra_config` says. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_MIB = 1 << 20


class SettingsError(ValueError):
    """A key of `kv_connector_extra_config` is unknown or out of range."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One engine's settings. The names are the keys of `kv_connector_extra_config`."""

    arena_dir: Path = Path("/dev/shm/syshax")  # noqa: S108 - checked: it must be ours alone
    """Folder for hand-overs; a tmpfs that all engines share."""
    arena_bytes: int = 1024 * _MIB
    """Memory for this engine's hand-overs, per tensor-parallel rank. Taken at start, never grows."""
    identity: str = ""
    """Whose KV cache it is; engines exchange KV only if equal. Empty: derived from the model's files."""
    ttl_s: float = 60.0
    """An unclaimed hand-over is dropped when it is older."""
    wait_s: float = 1.0
    """How long a request waits for its hand-over to appear."""
    sweep_s: float = 2.0
    """Interval of sweeps; files of a dead engine are removed after three times that."""
    payload_checksum: bool = False
    """A checksum over the KV cache itself, not only over the header, on both sides."""

    @property
    def grace_s(self) -> float:
        """How long files of a dead owner are kept: another engine may be about to load them."""
        return 2 * self.sweep_s


def parse(extra: Mapping[str, Any]) -> Settings:
    """Reads the mapping.

    Raises:
        SettingsError: Naming the key and what is wanted.
    """
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(set(extra) - known):
        raise SettingsError(
            f"kv_connector_extra_config: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    values = dict(extra)
    if "arena_dir" in values:
        values["arena_dir"] = Path(_typed(values, "arena_dir", str))
        if not values["arena_dir"].is_absolute():
            raise SettingsError(f"arena_dir: must be an absolute path, not {values['arena_dir']}")
    for name in ("ttl_s", "wait_s", "sweep_s"):
        if name in values and not (values[name] == values[name] and 0 <= _typed(values, name, (int, float)) <= 86400):
            raise SettingsError(f"{name}: must be from 0 to 86400 seconds, not {values[name]}")
    if values.get("sweep_s") == 0:
        raise SettingsError("sweep_s: must be more than 0")
    if "arena_bytes" in values and _typed(values, "arena_bytes", int) < _MIB:
        raise SettingsError(f"arena_bytes: must be at least {_MIB}, not {values['arena_bytes']}")
    for name, kind in (("identity", str), ("payload_checksum", bool)):
        if name in values:
            _typed(values, name, kind)
    return Settings(**values)


def _typed(values: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    value = values[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = kind.__name__ if isinstance(kind, type) else "a number"
        raise SettingsError(f"{name}: must be {wanted}, not {value!r}")
    return value
