# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - admin.proto names and explains the methods
"""The admin service's methods for the daemon itself: configuration, events, shutdown."""

import json
from contextlib import aclosing
from typing import Any

from syshaxd.api.v1 import config_pb2 as api
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceServicer
from syshaxd.control.messages import Context, make
from syshaxd.control.operations import Operations
from syshaxd.core.config import find_key, get_value, keys_in, path_of
from syshaxd.core.config.diff import waiting_keys
from syshaxd.core.secrets import is_private, safe_value


class DaemonMethods(AdminServiceServicer):
    """Translates between protobuf and the daemon's own commands."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def GetConfig(self, request: api.GetConfigRequest, context: Context) -> api.GetConfigResponse:
        reconfigurer = self._operations.reconfigurer
        waiting = waiting_keys(reconfigurer.started_with, reconfigurer.config)
        applied, started = (each.model_dump(mode="json") for each in (reconfigurer.config, reconfigurer.started_with))
        names = request.keys or [key.name for key in keys_in(applied)]
        known = [find_key(name).name for name in names]
        values = [(started if key in waiting else applied, name) for name, key in zip(names, known, strict=True)]
        return make(
            api.GetConfigResponse,
            path=str(reconfigurer.path),
            values=[value for section, name in values for value in _values(section, name)],
            file_differs=await reconfigurer.file_differs(),
            needs_restart=[key for key in known if key in waiting],
        )

    async def SetConfig(self, request: api.SetConfigRequest, context: Context) -> api.SetConfigResponse:
        would = await self._operations.reconfigurer.edit({**request.values, **dict.fromkeys(request.unset)})
        return make(api.SetConfigResponse, would_change=would)

    async def ValidateConfig(self, request: api.ValidateConfigRequest, context: Context) -> api.ValidateConfigResponse:
        error, would = await self._operations.reconfigurer.check(request.text if request.HasField("text") else None)
        return make(api.ValidateConfigResponse, faults=() if error is None else error.faults, would_change=would)

    async def ApplyConfig(self, request: api.ApplyConfigRequest, context: Context) -> api.ApplyConfigResponse:
        return make(api.ApplyConfigResponse, changes=await self._operations.reconfigurer.apply(request.text))

    async def ReloadConfig(self, request: api.ReloadConfigRequest, context: Context) -> api.ReloadConfigResponse:
        return make(api.ReloadConfigResponse, changes=await self._operations.reconfigurer.apply())

    async def WatchEvents(self, request: api.WatchEventsRequest, context: Context) -> None:
        # Sent at once, so that the client knows when it is watching.
        await context.send_initial_metadata(())
        events, name = self._operations.engine.events, request.instance
        watched = events.watch(
            request.last, follow=request.follow, wanted=lambda event: not name or event.instance == name
        )
        async with aclosing(watched) as stream:
            async for event in stream:
                await context.write(make(api.WatchEventsResponse, event=event))

    async def Shutdown(self, request: api.ShutdownRequest, context: Context) -> api.ShutdownResponse:
        self._operations.stop(request.leave_running if request.HasField("leave_running") else None)
        return api.ShutdownResponse()


def _values(values: dict[str, Any], key: str) -> list[api.ConfigValue]:
    """A key's value, or all entries of a free-form mapping."""
    known = find_key(key)
    if known.has_entries and key == known.name:
        prefix = key.rpartition(".")[0]
        section: Any = values
        for part in path_of(key)[:-1]:
            section = section.get(part, {})
        return [_value(f"{prefix}.{name}", value) for name, value in section.items()]
    return [_value(key, get_value(values, key))]


def _value(key: str, value: Any) -> api.ConfigValue:
    shown = "" if is_private(key) else json.dumps(safe_value(key, value), ensure_ascii=False)
    return make(api.ConfigValue, key=key, value=shown)
