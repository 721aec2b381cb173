# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Receives a request's body, refuses what clients may not ask for, and reads what placement needs."""

from syshaxd.core.config.api_keys import Access
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.wire.body import RequestBody, estimated_tokens
from syshaxd.gateway import routes
from syshaxd.gateway.authentication import check_model
from syshaxd.gateway.bodies import (
    BodyIntake,
    HeldBody,
    answer_limit,
    conversation_of,
    model_of,
    refuse_router_fields,
    refuse_stored,
    streams,
)
from syshaxd.gateway.connection import ClientConnection, ClientRequest
from syshaxd.gateway.fields import class_of, instance_of, wants_explanation, wants_full_weights
from syshaxd.gateway.rates import LimitedRequest
from syshaxd.instances.registry import InstanceRegistry
from syshaxd.serving.request import Request


class RequestReader:
    """Completes requests of which only the head is known."""

    def __init__(
        self, intake: BodyIntake, public: routes.PublicRoutes, registry: InstanceRegistry, *, router_fields: bool
    ) -> None:
        """Reads nothing yet.

        Args:
            intake: Receives bodies.
            public: Which routes clients may use.
            registry: The instances that requests may go to.
            router_fields: Clients may set what only routers need.
        """
        self._intake = intake
        self._public = public
        self._registry = registry
        self._router_fields = router_fields

    async def read(
        self, client: ClientConnection, request: ClientRequest, asked: Request, held: HeldBody, limited: LimitedRequest
    ) -> None:
        """Sets `asked.body`, `asked.fields` and `asked.inference`. Raises SyshaxError: the request is refused."""
        place = instance_of(request.headers)
        admin = asked.key is not None and asked.key.access is Access.ADMIN
        self._public.check(asked.method, asked.path, admin=admin, pinned=place is not None)
        asked.body = await self._intake.receive(request, client, held)
        prompt_tokens = estimated_tokens(asked.body)
        limited.expect(prompt_tokens)  # before the body is read, which takes work
        asked.fields = await self._intake.read(asked.body, request.headers.get("Content-Type", ""))
        body = RequestBody({}) if asked.fields is None else asked.fields
        model = model_of(body)
        if not self._router_fields:
            refuse_router_fields(body)
        if asked.path.startswith(routes.RESPONSES) and place is None and len(self._registry.specs) > 1:
            routes.check_stored(asked.path)
            refuse_stored(body)
        self._check_model(asked, model, place)
        offload = asked.path == routes.OFFLOADED_CHAT
        if offload:
            asked.path = asked.target = routes.CHAT
        asked.wants_explanation = wants_explanation(request.headers)
        asked.inference = InferenceRequest(
            request_id=asked.id,
            model=model,
            stream=streams(body),
            method=asked.method,
            path=asked.path,
            pinned=place,
            full_weights=wants_full_weights(request.headers, asked.key),
            offload=offload,
            prompt_tokens=prompt_tokens,
            max_tokens=answer_limit(asked.path, body),
            request_class=class_of(request.headers, body, asked.key),
            key="" if asked.key is None else asked.key.name,
            conversation=conversation_of(body),
        )

    def _check_model(self, asked: Request, model: str, place: str | None) -> None:
        """Raises ForbiddenError: the client's key does not permit the model, or a model that may answer without one."""
        if asked.key is None or not asked.key.models:
            return
        is_unnamed = not asked.body if asked.fields is None else asked.fields.get("model") is None
        if not is_unnamed:
            check_model(asked.key, model)
        elif asked.path not in routes.DOCUMENTS:
            for each in self._registry.models_without_name(asked.method, asked.path, place):
                check_model(asked.key, each)
