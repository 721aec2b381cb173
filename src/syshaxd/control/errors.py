# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Maps the error tree to gRPC status codes, with the detail from which our client restores the error."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from syshaxd.control.messages import Context
from syshaxd.core import errors
from syshaxd.core.report.error_detail import METADATA_KEY, detail
from syshaxd.core.secrets import safe_text

_log = logging.getLogger(__name__)
_CODES = (  # the first match counts
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.BadRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.LaunchFailedError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.InstanceFailedError, grpc.StatusCode.UNAVAILABLE),
    (errors.InstanceTimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
    # Something of the host or the daemon's user, to be mended.
    (errors.SyshaxError, grpc.StatusCode.FAILED_PRECONDITION),
)
# A status is sent in HTTP/2 trailers: 8 KiB in all, and up to three bytes for each byte of the text.
_MAX_MESSAGE_BYTES = 2000
_MAX_DETAIL_BYTES = 2000

Parse = Callable[[bytes], Any]


def status_code(error: errors.SyshaxError) -> grpc.StatusCode:
    """The status code of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Answers with a status when a method raises an error or a request can't be parsed.

    gRPC itself would log a traceback for the latter and tell the client nothing, so requests are parsed here.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the method's handler with its errors mapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        parse, name = handler.request_deserializer, handler_call_details.method
        make: Any
        if handler.request_streaming:  # reflection
            make, method = grpc.stream_stream_rpc_method_handler, _of_streams(handler.stream_stream, parse, name)
        elif handler.response_streaming:
            make, method = grpc.unary_stream_rpc_method_handler, _of_one_request(handler.unary_stream, parse, name)
        else:
            make, method = grpc.unary_unary_rpc_method_handler, _of_one_request(handler.unary_unary, parse, name)
        return make(method, response_serializer=handler.response_serializer)


def _of_one_request(method: Callable[[Any, Context], Awaitable[Any]], parse: Parse, name: str) -> Any:
    async def call(raw: bytes, context: Context) -> Any:
        async with _errors_mapped(context, name):
            return await method(parse(raw), context)

    return call


def _of_streams(method: Callable[[Any, Context], AsyncIterator[Any]], parse: Parse, name: str) -> Any:
    async def call(raw_requests: AsyncIterator[bytes], context: Context) -> None:
        async with _errors_mapped(context, name):
            async for answer in method((parse(raw) async for raw in raw_requests), context):
                await context.write(answer)

    return call


@asynccontextmanager
async def _errors_mapped(context: Context, name: str) -> AsyncIterator[None]:
    metadata: tuple[tuple[str, str], ...] = ()
    try:
        yield
    except errors.SyshaxError as error:
        code, message = status_code(error), safe_text(str(error))
        if len(encoded := detail(error)) <= _MAX_DETAIL_BYTES:
            metadata = ((METADATA_KEY, encoded),)
    except DecodeError as error:
        code, message = grpc.StatusCode.INVALID_ARGUMENT, f"not a message that {name} takes: {error}"
    except grpc.aio.AbortError:
        raise  # the method has set its status itself
    except Exception:  # noqa: BLE001 - the last edge before the wire
        _log.exception("an admin call failed: %s", name)
        code, message = grpc.StatusCode.INTERNAL, "internal error in syshaxd; see its log"
    else:
        return
    text = message.encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
    await context.abort(code, text, trailing_metadata=metadata)
