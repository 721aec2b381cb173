# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - admin.proto names and explains the methods
"""The admin service's methods: each parses, makes one call and renders."""

import os
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

from syshaxd import __version__
from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.api.v1 import calibration_pb2
from syshaxd.control import render
from syshaxd.control.batches import BatchMethods
from syshaxd.control.daemon import DaemonMethods
from syshaxd.control.keys import KeyMethods
from syshaxd.control.messages import Context, make
from syshaxd.control.operations import Operations
from syshaxd.core.lifecycle.command_goal import Command, Goal
from syshaxd.core.secrets import safe_text, secret_values


class AdminServicer(DaemonMethods, KeyMethods, BatchMethods):
    """Translates between protobuf and the daemon's parts. Errors pass through to the interceptor."""

    def __init__(self, operations: Operations) -> None:
        super().__init__(operations)
        self._instances = operations.instances

    async def GetVersion(self, request: api.GetVersionRequest, context: Context) -> api.GetVersionResponse:
        return make(api.GetVersionResponse, version=__version__, pid=os.getpid())

    async def GetStatus(self, request: api.GetStatusRequest, context: Context) -> api.GetStatusResponse:
        return render.status(self._instances.status(), now_s=time.monotonic())

    async def StartInstance(self, request: api.StartInstanceRequest, context: Context) -> None:
        act = partial(self._instances.start, request.name)
        await self._carry_out(Command.START, act, request, context, api.StartInstanceResponse)

    async def StopInstance(self, request: api.StopInstanceRequest, context: Context) -> None:
        act = partial(self._instances.stop, request.name, drain=request.drain)
        await self._carry_out(Command.STOP, act, request, context, api.StopInstanceResponse)

    async def RestartInstance(self, request: api.RestartInstanceRequest, context: Context) -> None:
        await self._instances.check_restart(request.name)
        act = partial(self._instances.restart, request.name, drain=request.drain)
        await self._carry_out(Command.RESTART, act, request, context, api.RestartInstanceResponse)

    async def RolloutInstances(self, request: api.RolloutInstancesRequest, context: Context) -> None:
        async with aclosing(self._operations.reconfigurer.rollout(request.name)) as steps:
            async for step in steps:
                await context.write(make(api.RolloutInstancesResponse, step=step))

    async def CompareInstances(
        self, request: api.CompareInstancesRequest, context: Context
    ) -> api.CompareInstancesResponse:
        report = await self._instances.parity.compare(request.first, request.second)
        return make(api.CompareInstancesResponse, report=render.parity(report))

    async def Calibrate(self, request: calibration_pb2.CalibrateRequest, context: Context) -> None:
        async with aclosing(self._instances.calibrator.calibrate(force=request.force)) as results:
            async for result, runs in results:
                await context.write(make(calibration_pb2.CalibrateResponse, result=result, runs=runs))

    async def StreamLogs(self, request: api.StreamLogsRequest, context: Context) -> None:
        tail = request.tail if request.HasField("tail") else None
        lines = self._instances.supervisor.logs(request.name, tail=tail, follow=request.follow)
        specs = [each.spec for each in self._instances.status().instances if each.spec.name == request.name]
        secrets = [value for spec in specs for value in secret_values(spec.argv, spec.env)]
        try:
            async for line in lines:
                await context.write(make(api.StreamLogsResponse, line=safe_text(line, secrets)))
        finally:
            if isinstance(lines, AsyncGenerator):
                await lines.aclose()

    async def GetTopology(self, request: api.GetTopologyRequest, context: Context) -> api.GetTopologyResponse:
        return render.topology(await self._instances.bindings.topology())

    async def CheckBinding(self, request: api.CheckBindingRequest, context: Context) -> api.CheckBindingResponse:
        return render.faults(await self._instances.bindings.check(request.name, render.settings(request)))

    async def VerifyBinding(self, request: api.VerifyBindingRequest, context: Context) -> api.VerifyBindingResponse:
        return render.verifications(await self._instances.bindings.verify(request.name))

    async def _carry_out(
        self, command: Command, act: Callable[[], None], request: Any, context: Context, response: type[Any]
    ) -> None:
        """Subscribes first, then acts, so that no change is missed."""
        async with aclosing(self._instances.watch(request.name)) as statuses:
            before = await anext(statuses)
            goal = Goal(command, before)
            act()
            await context.write(make(response, status=before))
            if not request.wait or goal.reached(before):
                return
            async for status in statuses:
                await context.write(make(response, status=status))
                if goal.reached(status):
                    return
