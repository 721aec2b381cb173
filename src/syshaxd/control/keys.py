# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
# ruff: noqa: N802, D102 - admin.proto names and explains the methods
"""The admin service's methods for API keys of clients."""

import asyncio
from functools import partial

from syshaxd.api.v1 import keys_pb2 as api
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceServicer
from syshaxd.control.messages import Context, make, message_of
from syshaxd.control.operations import Operations
from syshaxd.core.config.api_keys import Access

_OPTIONAL = (
    *("expires_at_s", "requests_per_minute", "tokens_per_minute"),
    *("max_requests", "max_prompt_tokens"),
)


class KeyMethods(AdminServiceServicer):
    """Translates between protobuf and the file of keys."""

    _operations: Operations

    async def CreateKey(self, request: api.CreateKeyRequest, context: Context) -> api.CreateKeyResponse:
        asked = request.key
        create = partial(
            self._operations.keys.create,
            asked.name,
            access=asked.access or Access.API,
            models=tuple(asked.models),
            batch_only=asked.batch_only,
            full_weights=asked.full_weights,
            **{name: getattr(asked, name) if asked.HasField(name) else None for name in _OPTIONAL},
        )
        new = await asyncio.to_thread(create)
        return make(api.CreateKeyResponse, secret=new.secret, key=message_of(api.ApiKey, new.key))

    async def ListKeys(self, request: api.ListKeysRequest, context: Context) -> api.ListKeysResponse:
        keys = self._operations.keys
        listed = [message_of(api.ApiKey, key) for key in await asyncio.to_thread(keys.list)]
        insecure = self._operations.reconfigurer.started_with.gateway.insecure
        return make(api.ListKeysResponse, keys=listed, required=keys.exist and not insecure)

    async def RevokeKey(self, request: api.RevokeKeyRequest, context: Context) -> api.RevokeKeyResponse:
        await asyncio.to_thread(self._operations.keys.revoke, request.name)
        return api.RevokeKeyResponse()
