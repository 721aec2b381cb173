# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What a new configuration changes: instances to relaunch, what takes effect at once, what needs a restart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from syshaxd.core.config import Config
from syshaxd.core.errors import ConflictError, LaunchFailedError
from syshaxd.core.types import InstanceSpec, InstanceStatus, State

_NEEDS_RESTART = (
    "services.conductor.",
    "control.",
    "docker.",
    "gateway.",
    "monitor.",
    "numa.verify_interval_s",
    "parity.",
    "tracing.",
    "batches.",
)
_GIVEN_UP = frozenset((State.FAILED, State.BACKOFF))


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The difference between two configurations."""

    keys: tuple[str, ...] = ()
    """Dotted keys whose values differ and that take effect at once, in the order of the file."""
    needs_restart: tuple[str, ...] = ()
    """Dotted keys that the daemon reads only at its start."""
    replaced: tuple[str, ...] = ()
    """Instances to stop and launch with a new spec."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def ended(self) -> tuple[str, ...]:
        """Instances that must be STOPPED before the change."""
        return (*self.replaced, *self.removed)


def changes(
    old: Config,
    new: Config,
    old_specs: Sequence[InstanceSpec],
    new_specs: Sequence[InstanceSpec],
    *,
    started_with: Config | None = None,
) -> Changes:
    """Returns the difference.

    Args:
        old: The configuration in effect.
        new: The new configuration.
        old_specs: The present instances.
        new_specs: The new instances.
        started_with: The configuration at the daemon's start, still in effect for keys that need a restart; None:
            `old`.
    """
    differing = changed_keys(old, new)
    before, after = ({spec.name: spec for spec in specs} for specs in (old_specs, new_specs))
    return Changes(
        keys=tuple(key for key in differing if not key.startswith(_NEEDS_RESTART)),
        needs_restart=waiting_keys(started_with or old, new),
        replaced=tuple(name for name in after if name in before and before[name] != after[name]),
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
    )


def waiting_keys(started_with: Config, config: Config) -> tuple[str, ...]:
    """The keys whose values in `config` take effect at the daemon's next start."""
    return tuple(key for key in changed_keys(started_with, config) if key.startswith(_NEEDS_RESTART))


def changed_keys(old: Config, new: Config) -> tuple[str, ...]:
    """The dotted keys whose values differ.

    A free-form mapping such as `services.gpu.env` counts as one, and so does a service or a model that is new or gone.
    """
    return tuple(_differing(old, new))


def _differing(old: BaseModel, new: BaseModel, prefix: str = "") -> Iterator[str]:
    before, after = _values(old), _values(new)
    for name in {**before, **after}:
        mine, other = before.get(name), after.get(name)
        if isinstance(mine, BaseModel) and isinstance(other, BaseModel):
            yield from _differing(mine, other, f"{prefix}{name}.")
        elif mine != other:
            yield f"{prefix}{name}"


def _values(section: BaseModel) -> Mapping[str, object]:
    own = {name: getattr(section, name) for name in type(section).model_fields}
    return own | (section.__pydantic_extra__ or {})


def is_proven(now: InstanceStatus) -> bool:
    """Whether an instance that was added or relaunched is READY. One failed launch is an argument against the change.

    Raises:
        LaunchFailedError: It could not be launched, or exited.
        ConflictError: It was stopped meanwhile.
    """
    if now.state in _GIVEN_UP or now.attempts:
        raise LaunchFailedError(f"{now.spec.name} failed: {now.reason}", permanent=True)
    if not now.wanted:
        raise ConflictError(f"{now.spec.name} was stopped meanwhile")
    return now.state is State.READY
