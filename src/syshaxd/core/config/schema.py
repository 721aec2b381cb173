# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of the configuration: their types, defaults and meaning.

Keys that the seed or upstream sysHAX named keep their names, also where ours would carry a unit.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, field_validator, model_validator

from syshaxd.core.cpulist import parse_cpulist
from syshaxd.core.types import Device, Protocol, RuntimeKind

Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Seconds = Annotated[float, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]
ArgValue = bool | int | float | str
AUTO = "auto"
"""As `cores`: planned at start."""


class Section(BaseModel):
    """A part of the file: unknown keys are faults, values never change, an empty part is as if it were left out."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        mappings = {name for name, field in cls.model_fields.items() if field.default_factory is not None}
        return {key: value for key, value in data.items() if value is not None or key not in mappings}


class ServiceConfig(Section):
    """One inference server."""

    enabled: bool = Field(True, description="Whether this instance takes part at all.")
    host: str = Field("127.0.0.1", min_length=1, description="Address at which the instance listens.")
    port: Port = Field(description="Port at which the instance listens.")
    runtime: RuntimeKind = Field(
        RuntimeKind.EXTERNAL,
        description="Who starts it: `process` (syshaxd, as a child process) or `external` (somebody else).",
    )
    device: Device | None = Field(
        None, description="What really computes: `cuda` or `cpu`. Unset: the device that the instance is named after."
    )
    python: str | None = Field(
        None, description="Python interpreter of the environment in which vLLM is installed (runtime `process`)."
    )
    model: str | None = Field(None, description="Weights of the model: a folder. Unset: models.path.")
    cores: str | None = Field(
        None,
        description="CPUs to bind the instance to, such as `0-39,80-119`; `auto`: the best for this host. Unset: all.",
    )
    max_num_seqs: Count = Field(256, description="Requests that the instance runs at the same time.")
    protocol: Protocol | None = Field(
        None,
        description="How the instance hands KV caches over: `connector` (syshax_connector in vLLM) or `none`. Unset: "
        "`connector` if syshaxd starts all instances and it surely works, else `none`.",
    )
    args: dict[str, ArgValue | list[ArgValue] | None] = Field(
        default_factory=dict,
        description="Arguments of `vllm serve` without their dashes, such as `max-model-len: 8192`; "
        "`true` gives the bare flag, `false` or null leaves it out.",
    )
    env: dict[str, str | StrictInt | StrictFloat] = Field(
        default_factory=dict, description="Environment variables of the instance, such as `VLLM_CPU_KVCACHE_SPACE: 4`."
    )

    @field_validator("cores")
    @classmethod
    def _cores_are_a_cpulist(cls, value: str | None) -> str | None:
        if value not in (None, AUTO):
            parse_cpulist(value)
        return value


class GpuServiceConfig(ServiceConfig):
    """The instance in the role `gpu`."""

    port: Port = Field(8001, description="Port at which the instance listens.")


class CpuServiceConfig(ServiceConfig):
    """The instance in the role `cpu`."""

    port: Port = Field(8002, description="Port at which the instance listens.")


class ConductorConfig(Section):
    """The OpenAI endpoint."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="Address of the OpenAI endpoint; `0.0.0.0` opens it to the network."
    )
    port: Port = Field(8010, description="Port of the OpenAI endpoint.")


class ServicesConfig(Section):
    """Who listens where, and how the instances are started."""

    gpu: GpuServiceConfig = Field(default_factory=GpuServiceConfig, description="The instance in the role `gpu`.")
    cpu: CpuServiceConfig = Field(default_factory=CpuServiceConfig, description="The instance in the role `cpu`.")
    conductor: ConductorConfig = Field(default_factory=ConductorConfig, description="The OpenAI endpoint.")


class ModelParams(Section):
    """The connectivity test's request."""

    test_prompt: str = Field("What is the capital of France?", description="Prompt of the connectivity test.")
    test_tokens: Count = Field(16, description="Tokens that the connectivity test asks for.")
    temperature: float = Field(
        0.0, ge=0, le=2, strict=True, description="Sampling temperature of the connectivity test."
    )


class ModelsConfig(Section):
    """The model that is served."""

    default: str = Field("default", min_length=1, description="The model's name in the API (vLLM's served-model-name).")
    path: str | None = Field(None, description="Folder of its weights, for instances that syshaxd starts.")
    params: ModelParams = Field(default_factory=ModelParams, description="The connectivity test's request.")


class SystemConfig(Section):
    """Limits of the whole."""

    max_queue_size: int = Field(
        1024, ge=0, strict=True, description="Requests that may wait for a place; one more is answered with 429."
    )
    max_queue_wait_s: Seconds = Field(
        60.0, description="Seconds that a request may wait for a place before it is answered with 503."
    )
    request_timeout: Seconds = Field(
        600.0, description="Seconds that an instance may stay silent on a request before it is given up (504)."
    )


class DeciderConfig(Section):
    """When requests go to the CPU. The GPU comes first; the CPU helps when the GPU is full."""

    gpu_cache_threshold: Ratio = Field(0.9, description="KV-cache usage (0..1) from which the GPU counts as full.")
    cpu_throughput_threshold: float = Field(
        0.0,
        ge=0,
        strict=True,
        description="Tokens per second under which a working CPU instance gets no further request (0: no such rule).",
    )


class OffloadConfig(Section):
    """When the GPU makes the first token of an answer and the CPU the rest, and when running answers move."""

    enabled: bool = Field(True, description="Whether instances that can hand KV caches over to each other do so.")
    min_prompt_tokens: int = Field(
        64, ge=0, strict=True, description="Shorter prompts are computed where they are decoded."
    )
    migrate: bool = Field(
        True, description="Whether running streams go on elsewhere when their instance stops, fails or is full."
    )
    arena_dir: str | None = Field(
        None,
        description="Folder in shared memory for KV caches on their way; all instances see it, one user has it. "
        "Unset: /dev/shm/syshax, with the user's number behind it for others than root.",
    )
    arena_bytes: Count = Field(
        1024 * 1024 * 1024,
        description="Shared memory that each instance takes at start for them, for each of its tensor-parallel ranks.",
    )


class NumaConfig(Section):
    """On which CPUs the instances compute."""

    enforce: bool = Field(
        True, description="Whether an instance with a wrong binding to CPUs keeps syshaxd from starting."
    )
    gpu_cores: Count = Field(
        4, description="Cores, near the accelerators, for an instance on a GPU whose `cores` are `auto`."
    )


class MonitorConfig(Section):
    """How often loads are read."""

    interval: Seconds = Field(1.0, description="Seconds between two readings of devices and instances.")


class LifecycleConfig(Section):
    """When an instance is given up, started again, or left alone."""

    start_timeout_s: Seconds = Field(900.0, description="Seconds from launch to the first good health probe.")
    probe_interval_s: Seconds = Field(2.0, description="Seconds between two health probes.")
    probe_timeout_s: Seconds = Field(5.0, description="Seconds after which a probe counts as failed.")
    probe_failures: Count = Field(3, description="Failed probes in a row after which a sick instance is ended.")
    backoff_base_s: Seconds = Field(1.0, description="Pause before the first new attempt; it doubles each time.")
    backoff_cap_s: Seconds = Field(60.0, description="Longest pause between two attempts.")
    max_attempts: Count = Field(8, description="Failed launches in a row after which the instance stays FAILED.")
    stable_s: Seconds = Field(60.0, description="Seconds of good health after which failed attempts are forgotten.")
    drain_timeout_s: Seconds = Field(30.0, description="Seconds that running requests get to end before a stop.")
    stop_grace_s: Seconds = Field(15.0, description="Seconds between asking an instance to end and forcing it.")


class GatewayConfig(Section):
    """What the OpenAI endpoint takes and shows."""

    dashboard: bool = Field(True, description="Whether GET /dashboard shows states and loads, to whoever can reach it.")
    max_body_bytes: Count = Field(32 * 1024 * 1024, description="Largest request body; a larger one gets 413.")


class ControlConfig(Section):
    """The control plane."""

    socket: str | None = Field(
        None,
        description="Path of the admin socket. Unset: /run/syshax as a service, else in the user's runtime folder.",
    )


class Config(Section):
    """The whole configuration. Every default is usable as it is."""

    services: ServicesConfig = Field(default_factory=ServicesConfig, description="Who listens where.")
    models: ModelsConfig = Field(default_factory=ModelsConfig, description="The model that is served.")
    system: SystemConfig = Field(default_factory=SystemConfig, description="Limits of the whole.")
    decider: DeciderConfig = Field(default_factory=DeciderConfig, description="When requests go to the CPU.")
    offload: OffloadConfig = Field(default_factory=OffloadConfig, description="When answers are made by two instances.")
    numa: NumaConfig = Field(default_factory=NumaConfig, description="On which CPUs the instances compute.")
    monitor: MonitorConfig = Field(default_factory=MonitorConfig, description="How often loads are read.")
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig, description="When instances are restarted.")
    gateway: GatewayConfig = Field(
        default_factory=GatewayConfig, description="What the OpenAI endpoint takes and shows."
    )
    control: ControlConfig = Field(default_factory=ControlConfig, description="The control plane.")


def enabled_services(config: Config) -> dict[str, ServiceConfig]:
    """The instances that take part, by name, in their start order."""
    services: dict[str, ServiceConfig] = {"gpu": config.services.gpu, "cpu": config.services.cpu}
    return {name: service for name, service in services.items() if service.enabled}
