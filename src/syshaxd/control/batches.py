# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - admin.proto names and explains the methods
"""The admin service's methods for batches of clients."""

from syshaxd.api.v1 import batches_pb2 as api
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceServicer
from syshaxd.control.messages import Context, make
from syshaxd.control.operations import BatchControl, Operations
from syshaxd.core.errors import ConflictError


class BatchMethods(AdminServiceServicer):
    """Translates between protobuf and the worker of batches."""

    _operations: Operations

    async def ListBatches(self, request: api.ListBatchesRequest, context: Context) -> api.ListBatchesResponse:
        return make(api.ListBatchesResponse, batches=await self._worker().every())

    async def CancelBatch(self, request: api.CancelBatchRequest, context: Context) -> api.CancelBatchResponse:
        return make(api.CancelBatchResponse, batch=await self._worker().cancel(request.id, None))

    def _worker(self) -> BatchControl:
        worker = self._operations.batches()
        if worker is None:
            raise ConflictError("there are no batches: batches.enabled is false")
        return worker
