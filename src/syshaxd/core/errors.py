# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The one error tree. Each edge maps it once: gateway to HTTP, control to gRPC status, cli to exit code."""

from dataclasses import dataclass


class SyshaxError(Exception):
    """Something that a user or operator can act on. The message says what, which one, and what to do next."""


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One thing wrong in the configuration."""

    key: str
    """Dotted key, such as `services.gpu.port`; empty for the whole file."""
    problem: str
    """What is wrong and what would be right."""

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" if self.key else self.problem


class ConfigError(SyshaxError):
    """The configuration is not usable. Carries every fault at once."""

    def __init__(self, faults: tuple[ConfigFault, ...]) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults))


class BadRequestError(SyshaxError):
    """The client's request is malformed; sending it again as it is cannot succeed.

    Attributes:
        param: The offending field of the body, such as `messages`, or None.
        code: OpenAI's machine-readable code, or None.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class NotFoundError(BadRequestError):
    """No such model, route or instance."""


class MethodNotAllowedError(BadRequestError):
    """The route exists, but not for this HTTP method.

    Attributes:
        allowed: The methods for which it exists.
    """

    def __init__(self, message: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(message, code="method_not_allowed")
        self.allowed = allowed


class ClosedError(BadRequestError):
    """The route exists on instances, but not for clients of the endpoint."""


class RequestTimeoutError(BadRequestError):
    """The client did not send its request in time."""


class TooLargeError(BadRequestError):
    """The request body is over the configured limit."""


class ConflictError(SyshaxError):
    """The command does not fit the present state, such as starting an instance that is draining."""


class RetryableError(SyshaxError):
    """The same request may succeed later.

    Attributes:
        retry_after_s: When to try again, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(RetryableError):
    """Every place and the admission queue are full."""


class UnavailableError(RetryableError):
    """No instance that could serve the request is ready."""


class RequestCancelledError(SyshaxError):
    """An operator has ended the request."""


class InstanceFailedError(SyshaxError):
    """The instance broke the connection or answered rubbish.

    Attributes:
        broke: The connection broke while the instance had the request: it may have died of it.
    """

    def __init__(self, message: str, *, broke: bool = False) -> None:
        super().__init__(message)
        self.broke = broke


class InstanceTimeoutError(SyshaxError):
    """The instance did not answer in time."""


class LaunchFailedError(SyshaxError):
    """An instance could not be launched.

    Attributes:
        permanent: True when trying again cannot help until somebody changes something (no such program, say).
    """

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class TopologyError(SyshaxError):
    """The host's CPUs and memory, or a text that describes them, can't be read or contradict themselves."""


class NoBindingError(SyshaxError):
    """No valid binding to CPUs exists for what was asked."""


class ProcessGoneError(SyshaxError):
    """The process that was to be looked at has ended."""
