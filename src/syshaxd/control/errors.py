# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""From the error tree to gRPC status codes."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from syshaxd.core import errors

_log = logging.getLogger(__name__)
_CODES = (  # the first that fits
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.LaunchFailedError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.InstanceFailedError, grpc.StatusCode.UNAVAILABLE),
    (errors.InstanceTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)
# A status travels in HTTP/2 trailers: 8 KiB for everything, and up to three of them for each byte of the text.
_MAX_MESSAGE_BYTES = 2000

Method = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]


def status_code(error: errors.SyshaxError) -> grpc.StatusCode:
    """The code that tells a client what kind of error it is."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers with a status where a method raises an error."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the method's handler with its errors mapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # grpc says UNIMPLEMENTED
        if handler.request_streaming:
            return handler  # reflection, which is not ours
        streams = handler.response_streaming
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        return make(
            _mapped(handler.unary_stream if streams else handler.unary_unary),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _mapped(method: Method) -> Any:
    async def call(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        try:
            return await method(request, context)
        except errors.SyshaxError as error:
            code, message = status_code(error), str(error)
        except NotImplementedError:
            code, message = grpc.StatusCode.UNIMPLEMENTED, "this daemon does not do that"
        except Exception:  # noqa: BLE001 - the last edge before the wire
            _log.exception("an admin call failed: %r", request)
            code, message = grpc.StatusCode.INTERNAL, "an error inside syshaxd; its log tells more"
        return await context.abort(code, message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore"))

    return call
