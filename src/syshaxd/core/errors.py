# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The error tree. Each edge maps it once: gateway to HTTP, control to gRPC status, cli to exit code."""

from dataclasses import dataclass

from syshaxd.core.secrets import safe_text


class SyshaxError(Exception):
    """An error that a user or operator can act on. The message says what, which one, and what to do next."""


@dataclass(frozen=True, slots=True)
class ConfigFault:
    """One fault of the configuration."""

    key: str
    """Dotted key, such as `services.gpu.port`; empty for the whole file."""
    problem: str
    """What is wrong and what would be valid."""

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}" if self.key else self.problem


class ConfigError(SyshaxError):
    """The configuration is not valid. Carries every fault."""

    def __init__(self, faults: tuple[ConfigFault, ...]) -> None:
        self.faults = faults
        super().__init__("\n".join(safe_text(str(fault)) for fault in faults))


class BadRequestError(SyshaxError):
    """The client's request is malformed; repeating it unchanged cannot succeed.

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
    """Instances serve the route, but clients of the endpoint may not use it."""


class UnauthorizedError(BadRequestError):
    """The request has no valid API key.

    Attributes:
        scheme: How the client is asked for one: `Bearer` or, in a browser, `Basic`.
    """

    def __init__(self, message: str, *, scheme: str = "Bearer") -> None:
        super().__init__(message, code="invalid_api_key")
        self.scheme = scheme


class ForbiddenError(BadRequestError):
    """The request's API key does not permit it."""


class RequestTimeoutError(BadRequestError):
    """The client sent its request too slowly."""


class TooLargeError(BadRequestError):
    """The request body exceeds the configured limit."""


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
    """All slots and the admission queue are full."""


class RateLimitedError(OverloadedError):
    """The client, or all together, exceed a limit of requests or tokens.

    Attributes:
        limit: `requests`, `tokens` or `concurrent`.
    """

    def __init__(self, message: str, *, retry_after_s: float, limit: str) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.limit = limit


class UnavailableError(RetryableError):
    """No instance that serves the request is ready."""


class DaemonUnavailableError(UnavailableError):
    """syshaxd itself lacks what the request needs: connections, memory, room on a disk."""


class RequestCancelledError(SyshaxError):
    """An operator cancelled the request."""


class InstanceFailedError(SyshaxError):
    """The instance dropped the connection or answered nonsense.

    Attributes:
        reached: The instance got the request, which may have ended it.
    """

    def __init__(self, message: str, *, reached: bool = True) -> None:
        super().__init__(message)
        self.reached = reached


class InstanceTimeoutError(SyshaxError):
    """The instance did not answer in time."""


class LaunchFailedError(SyshaxError):
    """An instance could not be launched.

    Attributes:
        permanent: Retrying cannot help until something is changed (for example a missing program).
    """

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class TopologyError(SyshaxError):
    """The host's topology, or a text that describes one, can't be read or contradicts itself."""


class NoBindingError(SyshaxError):
    """No valid CPU binding exists for the request."""


class ProcessGoneError(SyshaxError):
    """The inspected process has ended."""
