# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of the OpenAI endpoint and of the control plane: their types, defaults and meaning."""

from typing import Annotated

from pydantic import Field

from syshaxd.core.config.section import Count, Host, Port, Ratio, Seconds, Section


class TlsConfig(Section):
    """TLS at the OpenAI endpoint. Renewed files are used without a restart."""

    cert: str | None = Field(None, description="The endpoint's certificate chain: a PEM file. Unset: no TLS.")
    key: str | None = Field(None, description="Private key of the certificate: a PEM file.")
    client_ca: str | None = Field(
        None, description="CA that signs clients' certificates: a PEM file. Unset: clients need no certificate."
    )


class GatewayConfig(Section):
    """Limits and features of the OpenAI endpoint."""

    insecure: bool = Field(
        False,
        description="Serve other hosts, too, without API keys; a proxy or a firewall must keep strangers away.",
    )
    tls: TlsConfig = Field(default_factory=TlsConfig, description="TLS at the OpenAI endpoint.")
    metrics_open: bool = Field(False, description="Serve GET /metrics without an API key.")
    dashboard: bool = Field(True, description="Serve GET /dashboard, which shows states and loads.")
    dashboard_open: bool = Field(False, description="Serve GET /dashboard without an API key.")
    access_log: str | None = Field(
        None,
        pattern=r"^(stderr|/.+)$",
        description="File that gets a line of JSON for each request, such as /var/lib/syshax/access.log, or `stderr`. "
        "Unset: no access log.",
    )
    max_body_bytes: Count = Field(
        32 * 1024 * 1024, description="Largest request body, in bytes; a larger one gets 413."
    )
    max_bodies_bytes: Count = Field(
        512 * 1024 * 1024,
        description="Bytes of all request bodies held at a time; requests beyond that get 503.",
    )
    max_header_bytes: Count = Field(
        32 * 1024, description="Longest request target or header field, in bytes; a longer one gets 431."
    )
    max_prompt_tokens: Count | None = Field(
        None, description="Longest prompt, at about four bytes a token; a longer one gets 400. Unset: no such limit."
    )
    requests_per_minute: Count | None = Field(
        None, description="Requests a minute of all clients together; further ones get 429. Unset: no such limit."
    )
    tokens_per_minute: Count | None = Field(
        None, description="The same for tokens of prompts and answers. Unset: no such limit."
    )
    max_connections: Count = Field(
        10_000,
        description="Client connections at a time; further ones get 503. Half of the process's limit of open "
        "files is a limit, too.",
    )
    max_connections_per_address: Count | None = Field(
        None, description="The same for each client address; this host itself is not limited. Unset: no such limit."
    )
    head_timeout_s: Seconds = Field(20.0, description="Seconds that the head of a request may take to arrive.")
    body_timeout_s: Seconds = Field(
        20.0, description="Seconds that the body of a request may stall or stay below the minimum rate."
    )
    min_body_bytes_per_s: Count = Field(
        1024, description="Minimum rate of a request's body after that time, in bytes per second."
    )
    idle_timeout_s: Seconds = Field(
        75.0, description="Seconds that a connection may stay idle. Should be longer than the clients' own limit."
    )
    send_timeout_s: Seconds = Field(
        60.0, description="Seconds that a client may leave its answer unread before it loses the connection."
    )
    cors_origins: list[str] = Field(
        ["*"],
        description="Origins of web pages that may use the endpoint (CORS), such as `https://chat.example`; "
        "`*`: all, as in vLLM.",
    )
    public_routes: list[Annotated[str, Field(pattern=r"^/")]] = Field(
        [],
        description="Further routes of the instances that clients may use, such as `/v1/videos`. Routes "
        "outside the API need a key with the access `admin`.",
    )
    allow_kv_transfer_params: bool = Field(
        False,
        description="Accept the KV transfer fields that routers set; otherwise requests with them get 400.",
    )


class BatchesConfig(Section):
    """OpenAI's Batch API: files of requests that run in the class `batch`, when others leave room."""

    enabled: bool = Field(True, description="Serve /v1/files and /v1/batches.")
    max_concurrency: Count = Field(
        16, description="Requests of batches that run or wait for a slot at a time, of all batches together."
    )
    max_bytes: Count = Field(
        10 * 1024 * 1024 * 1024,
        description="Bytes of all files of batches in the state folder; uploads beyond that get 413.",
    )
    file_ttl_s: Seconds = Field(30 * 86_400.0, description="Seconds after which a file of batches is removed.")


class TracingConfig(Section):
    """Traces of requests, sent to an OpenTelemetry collector. Needs the extra `otel`."""

    endpoint: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Where spans are sent by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces. Unset: not sent.",
    )
    service_name: str = Field("syshax", min_length=1, description="The name of this service in traces.")
    sample_ratio: Ratio = Field(
        1.0, description="Share (0..1) of the requests that are traced, unless the client's `traceparent` decides."
    )


class TcpConfig(Section):
    """The control plane over TCP, for clients with a certificate (mutual TLS)."""

    host: Host = Field("127.0.0.1", description="Address of the control plane's TCP port.")
    port: Port | None = Field(None, description="TCP port of the control plane. Unset: the socket only.")
    cert: str | None = Field(None, description="The daemon's certificate chain: a PEM file.")
    key: str | None = Field(None, description="Private key of the certificate: a PEM file.")
    client_ca: str | None = Field(None, description="CA that signs clients' certificates: a PEM file.")


class ControlConfig(Section):
    """The control plane."""

    socket: str | None = Field(
        None,
        description="Path of the admin socket. Unset: in /run/syshax as a service, else in the user's runtime folder.",
    )
    tcp: TcpConfig = Field(default_factory=TcpConfig, description="The control plane over TCP, with mutual TLS.")
