# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""ControlClient: calls the daemon over its admin socket and returns core types."""

import asyncio
import inspect
import json
import os
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

# Errors are raised as exceptions; gRPC's own lines on stderr are noise.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from syshaxd.api.v1 import admin_pb2 as api
from syshaxd.api.v1 import scheduling_pb2
from syshaxd.api.v1.admin_pb2_grpc import AdminServiceStub
from syshaxd.api.v1.scheduling_pb2_grpc import SchedulingServiceStub
from syshaxd.client.values import value_of
from syshaxd.core import errors
from syshaxd.core.loads import InstanceLoad, Snapshot
from syshaxd.core.numa import BindingSettings, Fault, NumaTopology, Unverified, Verification, dialect_of
from syshaxd.core.parity import ParityReport, Verdict
from syshaxd.core.report import error_detail
from syshaxd.core.report.engine_status import EngineStatus, HostTopology
from syshaxd.core.report.error_detail import METADATA_KEY
from syshaxd.core.secrets import safe_text
from syshaxd.core.types import Handle, InstanceStatus
from syshaxd.system import rundir

_ANSWER_TIMEOUT_S = 10.0
# For a daemon that is restarted: its socket stays where it is, and nobody listens at it for a moment.
_RESTART_TIMEOUT_S = 15.0
# The kernel walks all page tables of an instance.
_READING_TIMEOUT_S = 60.0
_ADMIN = api.DESCRIPTOR.services_by_name["AdminService"]
_SCHEDULING = scheduling_pb2.DESCRIPTOR.services_by_name["SchedulingService"]
# protobuf 5 renamed the option.
_NAMES = ("always_print_fields_with_no_presence", "including_default_value_fields")
_WITH_DEFAULTS: dict[str, Any] = {
    next(name for name in _NAMES if name in inspect.signature(json_format.MessageToDict).parameters): True
}
_GONE = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED))
# For daemons that don't send the error detail.
_ERRORS: dict[grpc.StatusCode, type[errors.SyshaxError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequestError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ConflictError,
}
# The daemon runs as the same user or root, and log lines have no size limit.
# A daemon that ends may drop a call that has just come. What only reads is asked again.
_READING = tuple(
    {"service": service.full_name, "method": method.name}
    for service in (_ADMIN, _SCHEDULING)
    for method in service.methods
    if method.name.startswith(("Get", "List", "Check", "Verify", "Validate", "Explain", "DryRun"))
)
_AGAIN = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": _READING, "retryPolicy": _AGAIN}]})),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class UnreachableError(errors.SyshaxError):
    """No daemon answers on the socket, or it ended during a call."""


class SlowError(UnreachableError):
    """The daemon is running but does not answer in time."""


class ControlClient:
    """A client of one daemon. Use it with `async with`.

    Every method raises UnreachableError if the daemon does not answer, else the error that the daemon reports.
    """

    def __init__(self, path: Path, *, restart_timeout_s: float = _RESTART_TIMEOUT_S) -> None:
        """Does not connect yet.

        Args:
            path: The socket.
            restart_timeout_s: How long to wait for a daemon whose socket is there while nobody listens at it.
        """
        self.path = path
        self._restart_timeout_s = restart_timeout_s

    async def __aenter__(self) -> Self:
        self._channel = grpc.aio.insecure_channel(f"unix:{quote(os.fspath(self.path.absolute()))}", options=_OPTIONS)
        self._stub: Any = AdminServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._scheduling: Any = SchedulingServiceStub(self._channel)  # type: ignore[no-untyped-call]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def version(self) -> tuple[str, int]:
        """The daemon's version and process id."""
        answer = await self._call(self._stub.GetVersion, api.GetVersionRequest())
        return answer.version, answer.pid

    async def status(self) -> EngineStatus:
        """The whole status at this moment."""
        answer = await self._call(self._stub.GetStatus, api.GetStatusRequest())
        return _engine_status(answer, time.monotonic())

    def start(self, name: str, *, wait: bool) -> AsyncGenerator[InstanceStatus, None]:
        """Starts the instance.

        Yields:
            The status when the command is accepted; with `wait`, every later one until the instance is READY.
        """
        return self._command("StartInstance", name=name, wait=wait)

    def stop(self, name: str, *, drain: bool, wait: bool) -> AsyncGenerator[InstanceStatus, None]:
        """Stops the instance, after its running requests if `drain`. Yields as `start`, until it is STOPPED."""
        return self._command("StopInstance", name=name, drain=drain, wait=wait)

    def restart(self, name: str, *, drain: bool, wait: bool) -> AsyncGenerator[InstanceStatus, None]:
        """Restarts the instance. Yields as `start`, until the new generation is READY."""
        return self._command("RestartInstance", name=name, drain=drain, wait=wait)

    async def compare(self, first: str, second: str) -> ParityReport:
        """Compares two instances' answers to the same prompts; takes seconds to minutes."""
        request = _request("CompareInstances", {"first": first, "second": second})
        answer = await self._call(self._stub.CompareInstances, request, timeout_s=None)
        return _parity(answer.report)

    async def ask(self, method: str, *, timeout_s: float | None = _ANSWER_TIMEOUT_S, **fields: Any) -> dict[str, Any]:
        """Calls a method of either service, such as `GetConfig`; `timeout_s` None: no time limit.

        Returns:
            The response as plain values, with the field and enum names of the .proto files.
        """
        return _plain(await self._call(self._method(method), _request(method, fields), timeout_s=timeout_s))

    async def stream(self, method: str, **fields: Any) -> AsyncGenerator[dict[str, Any], None]:
        """As `ask`, for a streaming method such as `WatchEvents`."""
        async with aclosing(self._answers(self._method(method), _request(method, fields))) as answers:
            async for answer in answers:
                yield _plain(answer)

    def _method(self, name: str) -> Any:
        return getattr(self._scheduling if name in _SCHEDULING.methods_by_name else self._stub, name)

    async def logs(self, name: str, *, tail: int | None, follow: bool) -> AsyncGenerator[str, None]:
        """The instance's log by lines; `tail` None: all that is kept. With `follow` it continues until closed."""
        request = _request("StreamLogs", {"name": name, "tail": tail, "follow": follow})
        async with aclosing(self._answers(self._stub.StreamLogs, request)) as answers:
            async for answer in answers:
                yield answer.line

    async def topology(self) -> HostTopology:
        """The daemon's host at this moment, and the owners of its CPUs."""
        answer = await self._call(self._stub.GetTopology, api.GetTopologyRequest())
        return value_of(HostTopology, answer, topology=value_of(NumaTopology, answer))

    async def check_binding(self, name: str, settings: BindingSettings | None) -> tuple[Fault, ...]:
        """The faults of settings for an instance, next to the others; None: of its own."""
        given = None
        if settings is not None:
            given = {
                "env": dict(settings.env),
                "cpuset_cpus": settings.cpuset_cpus,
                "cpuset_mems": settings.cpuset_mems,
                "ranks": settings.ranks,
            }
        request = _request("CheckBinding", {"name": name, "settings": given})
        return _faults(await self._call(self._stub.CheckBinding, request))

    async def verify_bindings(self, name: str = "") -> dict[str, Verification | Unverified]:
        """Where instances run now, against their bindings; empty: all of them."""
        request = _request("VerifyBinding", {"name": name})
        return _verifications(await self._call(self._stub.VerifyBinding, request, timeout_s=_READING_TIMEOUT_S))

    async def _command(self, method: str, **fields: Any) -> AsyncGenerator[InstanceStatus, None]:
        async with aclosing(self._answers(self._method(method), _request(method, fields))) as answers:
            async for answer in answers:
                yield _instance_status(answer.status)

    async def _call(self, method: Any, request: Any, *, timeout_s: float | None = _ANSWER_TIMEOUT_S) -> Any:
        await self._reach()
        with self._errors_mapped():
            return await method(request, timeout=timeout_s, wait_for_ready=True)

    async def _answers(self, method: Any, request: Any) -> AsyncGenerator[Any, None]:
        """A streaming call's; it ends with the generator."""
        await self._reach()
        call = method(request, wait_for_ready=True)
        try:
            with self._errors_mapped():
                async for answer in call:
                    yield answer
        finally:
            call.cancel()

    async def _reach(self) -> None:
        """Waits while a daemon is restarted. One that is stopped removes its socket; then nothing is waited for."""
        if not await asyncio.to_thread(rundir.is_awaited, self.path):
            raise self._gone()
        try:
            async with asyncio.timeout(self._restart_timeout_s):
                await self._channel.channel_ready()
        except TimeoutError:
            raise (self._slow() if await asyncio.to_thread(rundir.answers, self.path) else self._gone()) from None

    def _gone(self) -> UnreachableError:
        return UnreachableError(f"no syshaxd answers on {self.path}")

    def _slow(self) -> SlowError:
        return SlowError(f"syshaxd on {self.path} did not answer in time; its host may be overloaded")

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details() or error.code().name
            detail = dict(error.trailing_metadata() or ()).get(METADATA_KEY)
            if detail is not None and (restored := error_detail.restored(str(detail), text)) is not None:
                raise restored from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._slow() from None
            if code is grpc.StatusCode.UNIMPLEMENTED:
                raise errors.SyshaxError(
                    f"syshaxd on {self.path} does not support this: it has another version"
                ) from None
            if code in _GONE:
                raise self._gone() from None
            raise _ERRORS.get(code, errors.SyshaxError)(text) from None


def _request(method: str, fields: dict[str, Any]) -> Any:
    """A method's request. Raises BadRequestError: a value does not fit its field."""
    service = _SCHEDULING if method in _SCHEDULING.methods_by_name else _ADMIN
    kind: Any = GetMessageClass(service.methods_by_name[method].input_type)
    try:
        return json_format.ParseDict(fields, kind())
    except json_format.ParseError as error:
        why = str(error).partition(", use quoted")[0]  # which would be the remedy in JSON
        raise errors.BadRequestError(f"a value does not fit: {safe_text(why)}") from None


def _plain(message: Any) -> dict[str, Any]:
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True, **_WITH_DEFAULTS))


def _engine_status(message: api.GetStatusResponse, now_s: float) -> EngineStatus:
    """Ages of readings become times on this process's monotonic clock, whose value is `now_s`."""
    return value_of(
        EngineStatus,
        message,
        instances=tuple(_instance_status(status) for status in message.instances),
        snapshot=_snapshot(message.snapshot, now_s),
        handover_refusals={(pair.source, pair.target): pair.refusal for pair in message.handover_pairs},
        parity=tuple(_parity(report) for report in message.parity),
    )


def _parity(message: api.ParityReport) -> ParityReport:
    return value_of(ParityReport, message, verdict=value_of(Verdict, message))


def _instance_status(message: api.InstanceStatus) -> InstanceStatus:
    """The spec is without command line and environment, which do not travel."""
    handle = value_of(Handle, message.handle, name=message.spec.name) if message.HasField("handle") else None
    return value_of(InstanceStatus, message, handle=handle)


def _snapshot(message: api.Snapshot, now_s: float) -> Snapshot:
    return value_of(
        Snapshot,
        message,
        taken_at_s=now_s - message.age_s if message.HasField("age_s") else 0.0,
        instances={
            name: value_of(InstanceLoad, load, read_at_s=now_s - load.age_s) for name, load in message.instances.items()
        },
    )


def _faults(message: api.CheckBindingResponse) -> tuple[Fault, ...]:
    """Each with the one proposal. Its dialect does not travel: the variables show it."""
    given = message.proposal
    dialect = dialect_of(dict(given.env), on_cpu=True)
    proposal = value_of(BindingSettings, given, dialect=dialect) if message.HasField("proposal") else None
    return tuple(value_of(Fault, fault, proposal=proposal) for fault in message.faults)


def _verifications(message: api.VerifyBindingResponse) -> dict[str, Verification | Unverified]:
    seen: dict[str, Verification | Unverified] = {
        name: value_of(Verification, each) for name, each in message.verifications.items()
    }
    return seen | {name: Unverified(reason) for name, reason in message.unverified.items()}
