# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - admin.proto names and explains the methods
"""The admin service's methods for batches of clients."""

from typing import Any

import grpc

from syshaxd.api.v1 import batches_pb2 as api
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceServicer
from syshaxd.control.config import BatchControl, Operations
from syshaxd.control.messages import make, message_of
from syshaxd.core.errors import ConflictError

Context = grpc.aio.ServicerContext[Any, Any]


class BatchMethods(AdminServiceServicer):
    """Translates between protobuf and the worker of batches."""

    _operations: Operations

    async def ListBatches(self, request: api.ListBatchesRequest, context: Context) -> api.ListBatchesResponse:
        batches = await self._worker().every()
        return make(api.ListBatchesResponse, batches=[message_of(api.Batch, batch) for batch in batches])

    async def CancelBatch(self, request: api.CancelBatchRequest, context: Context) -> api.CancelBatchResponse:
        batch = await self._worker().cancel(request.id, None)
        return make(api.CancelBatchResponse, batch=message_of(api.Batch, batch))

    def _worker(self) -> BatchControl:
        worker = self._operations.batches()
        if worker is None:
            raise ConflictError("there are no batches: batches.enabled is false")
        return worker
