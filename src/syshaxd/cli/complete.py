# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Shell completion. Any error here means no completions."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from syshaxd.core.config import ENTRY, enabled_services, find_key, keys_in
from syshaxd.core.errors import SyshaxError
from syshaxd.system import configfile, rundir

_PATIENCE_S = 1.0


def instances(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of instances by model: the daemon's, or the configuration file's if no daemon answers."""
    try:
        socket = context.find_root().params.get("socket")
        states = asyncio.run(_states(rundir.find_socket(socket)))
    except (SyshaxError, TimeoutError):
        states = dict.fromkeys(_configured(), "")
    return [CompletionItem(name, help=state) for name, state in states.items() if name.startswith(incomplete)]


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models: the daemon's, or the configuration file's if no daemon answers."""
    return [CompletionItem(name) for name in _models(context) if name.startswith(incomplete)]


def models_and_instances(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of models, then those of instances."""
    found = models(context, parameter, incomplete)
    known = {item.value for item in found}
    return found + [item for item in instances(context, parameter, incomplete) if item.value not in known]


def _models(context: click.Context) -> list[str]:
    try:
        return asyncio.run(_served(rundir.find_socket(context.find_root().params.get("socket"))))
    except (SyshaxError, TimeoutError):
        return _configured_models()


async def _served(socket: Path) -> list[str]:
    # As below.
    from syshaxd.client import ControlClient  # noqa: PLC0415

    async with asyncio.timeout(_PATIENCE_S), ControlClient(socket) as client:
        return list(dict.fromkeys(each.spec.served_model for each in (await client.status()).instances))


def _configured_models() -> list[str]:
    try:
        config = configfile.load(configfile.default_path())
    except SyshaxError:
        return []
    named = (service.model or config.models.default for service in enabled_services(config).values())
    return list(dict.fromkeys(named))


async def _states(socket: Path) -> dict[str, str]:
    # gRPC and rich are slow to load, and most completions don't need them.
    from syshaxd.cli.groups import by_model  # noqa: PLC0415
    from syshaxd.client import ControlClient  # noqa: PLC0415

    async with asyncio.timeout(_PATIENCE_S), ControlClient(socket) as client:
        models = by_model((await client.status()).instances)
        return {each.spec.name: f"{model}, {each.state}" for model, its in models.items() for each in its}


def _configured() -> tuple[str, ...]:
    try:
        return tuple(enabled_services(configfile.load(configfile.default_path())))
    except SyshaxError:
        return ()


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
