# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Shell completion. Any error here means no completions."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from syshaxd.core.config import ENTRY, enabled_services, find_key, keys_in
from syshaxd.core.errors import SyshaxError
from syshaxd.core.types import InstanceStatus
from syshaxd.system import configfile, rundir

_PATIENCE_S = 1.0


def instances(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of instances by model: the daemon's, or the configuration file's if no daemon answers."""
    statuses = _statuses(context)
    if statuses is None:
        return [CompletionItem(name) for name in _configured() if name.startswith(incomplete)]
    from syshaxd.cli.groups import by_model  # noqa: PLC0415 - rich is slow to load, too

    return [
        CompletionItem(each.spec.name, help=f"{model}, {each.state}")
        for model, group in by_model(statuses).items()
        for each in group
        if each.spec.name.startswith(incomplete)
    ]


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models: the daemon's, or the configuration file's if no daemon answers."""
    statuses = _statuses(context)
    found = _configured().values() if statuses is None else (each.spec.served_model for each in statuses)
    return [CompletionItem(name) for name in dict.fromkeys(found) if name.startswith(incomplete)]


def models_and_instances(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models, then those of instances."""
    found = models(context, parameter, incomplete)
    known = {item.value for item in found}
    return found + [item for item in instances(context, parameter, incomplete) if item.value not in known]


def _statuses(context: click.Context) -> Sequence[InstanceStatus] | None:
    """The daemon's instances; None: no daemon answers."""
    try:
        return asyncio.run(_ask(rundir.find_socket(context.find_root().params.get("socket"))))
    except (SyshaxError, TimeoutError):
        return None


async def _ask(socket: Path) -> Sequence[InstanceStatus]:
    from syshaxd.client import ControlClient  # noqa: PLC0415 - gRPC is slow to load; most completions don't need it

    async with asyncio.timeout(_PATIENCE_S), ControlClient(socket) as client:
        return (await client.status()).instances


def _configured() -> Mapping[str, str]:
    """The models of the configuration file's instances, by instance."""
    try:
        config = configfile.load(configfile.default_path())
    except SyshaxError:
        return {}
    return {name: service.model or config.models.default for name, service in enabled_services(config).items()}


def _content() -> Mapping[str, Any]:
    try:
        return configfile.read(configfile.default_path())
    except SyshaxError:
        return {}


def keys(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of the configuration. For a key with entries, the part before the entry's name."""
    names = {key.name.removesuffix(ENTRY): key.meaning for key in keys_in(_content())}
    return [CompletionItem(name, help=meaning) for name, meaning in names.items() if name.startswith(incomplete)]


def keys_and_values(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A key, or after a key its values where they can be listed."""
    words: Any = context.params.get(parameter.name or "") or ()
    if len(words) % 2 == 0:
        return keys(context, parameter, incomplete)
    try:
        choices = find_key(words[-1]).choices
    except SyshaxError:
        return []
    return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]
