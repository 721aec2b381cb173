# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The keys of the configuration: their types, defaults and meaning.

Keys of upstream sysHAX 0.2 keep their names.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from syshaxd.core.config.endpoints import BatchesConfig, ControlConfig, GatewayConfig, TracingConfig
from syshaxd.core.config.section import Count, Ratio, Seconds, Section
from syshaxd.core.config.services import ArgValue, ServicesConfig


class ModelParams(Section):
    """The connectivity test's request."""

    test_prompt: str = Field("What is the capital of France?", description="Prompt of the connectivity test.")
    test_tokens: Count = Field(16, description="Tokens that the connectivity test requests.")
    temperature: float = Field(
        0.0, ge=0, le=2, strict=True, description="Sampling temperature of the connectivity test."
    )


Names = list[Annotated[str, Field(min_length=1)]]


class ModelConfig(Section):
    """A model that services name as their `model`."""

    path: str | None = Field(None, description="Folder of the weights, for instances that syshaxd starts.")
    aliases: Names = Field([], description="Names of the model in the API, in addition to its key.")
    args: dict[str, ArgValue | list[ArgValue] | None] = Field(
        default_factory=dict,
        description="Arguments of `vllm serve` for all instances of the model; those of a service come first.",
    )
    start: Literal["always", "on-demand"] = Field(
        "always", description="`on-demand`: the first request for the model starts its instances, and waits for them."
    )
    idle_ttl_s: Seconds | None = Field(
        300.0,
        description="Seconds without a request after which an on-demand model is stopped. "
        "Unset: only to make room for another.",
    )
    min_up_s: Seconds = Field(
        60.0, description="Seconds that an on-demand model stays up at least, even if another one waits for its place."
    )
    start_wait_s: Seconds = Field(
        600.0,
        description="Seconds that a request for an on-demand model may wait, its start included, before it gets 503; "
        "instead of system.max_queue_wait_s.",
    )


class ModelsConfig(Section):
    """The models that are served."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, ModelConfig] = Field(init=False)

    default: str = Field(
        "default",
        min_length=1,
        description="Name in the API (vLLM's served-model-name) of the default model, which services without `model` "
        "serve; may be the key of another model.",
    )
    aliases: Names = Field([], description="Additional names of the default model in the API.")
    path: str | None = Field(
        None, description="Folder of the default model's weights, for instances that syshaxd starts."
    )
    params: ModelParams = Field(default_factory=ModelParams, description="The connectivity test's request.")

    @model_validator(mode="before")
    @classmethod
    def _name_without_keys_is_a_model(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: {} if value is None and key not in cls.model_fields else value for key, value in data.items()}


class SystemConfig(Section):
    """Limits of the whole system."""

    max_queue_size: int = Field(
        1024,
        ge=0,
        strict=True,
        description="Requests that may wait in the admission queue of each model; further ones get 429, unless their "
        "API key has less than an equal share of them.",
    )
    max_queue_wait_s: Seconds = Field(
        60.0, description="Seconds that a request may wait in the admission queue before it gets 503."
    )
    request_timeout_s: Seconds = Field(
        600.0, description="Seconds without any data from an instance after which a request fails (504)."
    )
    connect_timeout_s: Seconds = Field(
        5.0, description="Seconds that a connection to an instance may take before another one is tried."
    )
    first_token_timeout_s: Seconds | None = Field(
        None,
        description="The same as request_timeout_s, but until the first token of a stream. Unset: request_timeout_s.",
    )
    total_timeout_s: Seconds | None = Field(
        None, description="Seconds from a request's arrival to the end of its answer. Unset: no limit."
    )
    breaker_failures: int = Field(
        5,
        ge=0,
        strict=True,
        description="Failed requests within 30 s, if at least half of all, after which an instance gets none until it "
        "has generated a token as a test. The last instance of a model keeps getting requests. 0: never.",
    )
    retry_ratio: Ratio = Field(
        0.2,
        description="Retries on another instance, as a share (0..1) of the requests, beyond a reserve of twice the "
        "slots of all instances a minute.",
    )


class DeciderConfig(Section):
    """When requests go to the CPU. The GPU comes first; the CPU helps when the GPU is full."""

    gpu_cache_threshold: Ratio = Field(0.9, description="KV cache usage (0..1) at which the GPU counts as full.")
    cpu_throughput_threshold: float = Field(
        0.0,
        ge=0,
        strict=True,
        description="Tokens per second below which a busy CPU instance gets no more requests (0: no limit).",
    )


class TargetConfig(Section):
    """Latencies that a class of requests is to get."""

    ttft_s: Seconds | None = Field(None, description="Seconds to the first token. Unset: as few as possible.")
    tpot_s: Seconds | None = Field(
        None, description="Seconds between two tokens, on average. Unset: as few as possible."
    )
    refuse: bool = Field(
        False,
        description="Refuse a request (429) that can't get its first token in time, instead of serving it late.",
    )


class SloConfig(Section):
    """Targets of the classes of requests."""

    interactive: TargetConfig = Field(default_factory=TargetConfig, description="Requests without another class.")
    batch: TargetConfig = Field(
        default_factory=TargetConfig, description="Requests with `service_tier: flex` or `X-Syshax-Class: batch`."
    )


class SchedulerConfig(Section):
    """The rules by which requests are placed."""

    policy: Literal["cost", "turn", "gpu-only", "cpu-only", "upstream-threshold"] = Field(
        "cost",
        description="`cost`: the CPU helps a request only if that surely ends it sooner; `turn`: the rules of 0.3.0; "
        "`gpu-only` and `cpu-only`: no help from the other; `upstream-threshold`: by the GPU's KV usage alone.",
    )
    holdout: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="Share of the requests that the CPU would help with, chosen by chance, which wait for the GPU "
        "instead. They measure what the CPU's help gains; it is switched off while it gains nothing. 0: not measured.",
    )
    calibrate: Literal["never", "first-start"] = Field(
        "never",
        description="`first-start`: calibrate as `syshaxctl calibrate` does, once all instances are READY and idle, if "
        "one of them has no calibration that fits. A request interrupts it; it starts over when no request runs.",
    )
    slo: SloConfig = Field(default_factory=SloConfig, description="Target latencies of requests, by class.")


class OffloadConfig(Section):
    """When the GPU prefills and the CPU decodes (prefill-decode offload), and when running streams migrate."""

    enabled: bool = Field(True, description="Let instances hand KV caches over to each other where they can.")
    min_prompt_tokens: int = Field(
        64, ge=0, strict=True, description="Tokens below which a prompt is prefilled where it is decoded."
    )
    migrate: bool = Field(True, description="Migrate running streams when their instance stops, fails or is full.")
    across_weights: bool = Field(
        True,
        description="Let answers continue on an instance with other weights, such as quantised ones.",
    )
    arena_dir: str | None = Field(
        None,
        description="Folder in shared memory for KV caches in transfer; visible to all instances, owned by one user. "
        "Unset: /dev/shm/syshax, with the user ID appended unless root.",
    )
    arena_bytes: Count = Field(
        1024 * 1024 * 1024,
        description="Bytes of shared memory for KV caches that each instance reserves, per tensor-parallel rank.",
    )
    verify: bool = Field(
        False,
        description="Checksum KV caches when they are saved, and verify them when they are loaded.",
    )


class DockerConfig(Section):
    """The container engine."""

    host: str | None = Field(
        None,
        pattern=r"^(unix|tcp|http|https|ssh)://.+",
        description="URL of the engine's API, such as `unix:///run/podman/podman.sock`. "
        "Unset: DOCKER_HOST, else unix:///run/docker.sock.",
    )
    timeout_s: Seconds = Field(60.0, description="Seconds that the container engine may take to answer.")


class ParityConfig(Section):
    """How similar the answers of two instances must be for requests to move between them."""

    enabled: bool = Field(
        True,
        description="Compare instances once they are ready, and move requests only between those that "
        "are similar enough.",
    )
    noise_distance: Ratio = Field(
        0.03, description="Distance (0..1) of token probabilities up to which a difference counts as noise."
    )
    max_distance: Ratio = Field(0.1, description="Distance (0..1) above which no request moves between two instances.")
    max_distance_quantised: Ratio = Field(
        0.1, description="The same (0..1) for two instances of which one has quantised weights."
    )
    timeout_s: Seconds = Field(
        300.0, description="Seconds that an instance may take to answer the prompts of a comparison."
    )


class NumaConfig(Section):
    """On which CPUs the instances compute."""

    enforce: bool = Field(True, description="Refuse to start with a wrong CPU binding.")
    gpu_cores: Count = Field(4, description="Cores, near its GPUs, for a GPU instance with `cores: auto`.")
    verify_interval_s: Seconds = Field(
        30.0, description="Seconds between two checks of a running instance's threads and memory."
    )


class MonitorConfig(Section):
    """How often loads are read."""

    interval_s: Seconds = Field(1.0, description="Seconds between two readings of devices and instances.")


class LifecycleConfig(Section):
    """When an instance is given up, restarted, or left alone."""

    start_timeout_s: Seconds = Field(900.0, description="Seconds from launch to the first successful health probe.")
    probe_interval_s: Seconds = Field(2.0, description="Seconds between two health probes.")
    probe_timeout_s: Seconds = Field(5.0, description="Seconds after which a probe counts as failed.")
    probe_failures: Count = Field(3, description="Failed probes in a row after which an unhealthy instance is ended.")
    liveness_interval_s: Seconds | None = Field(
        60.0,
        description="Seconds without a token after which an instance is asked for one, to find engines that answer "
        "health probes and generate nothing. Unset: never.",
    )
    busy_timeout_s: Seconds = Field(
        300.0, description="Seconds after which an instance that computes but answers no probes is ended."
    )
    backoff_base_s: Seconds = Field(1.0, description="Seconds before the first new attempt; doubles each time.")
    backoff_cap_s: Seconds = Field(60.0, description="Longest pause between two attempts, in seconds.")
    max_attempts: Count = Field(8, description="Failed launches in a row after which the instance stays FAILED.")
    stable_s: Seconds = Field(60.0, description="Seconds in READY after which failed attempts are forgotten.")
    drain_timeout_s: Seconds = Field(
        30.0, description="Seconds that running requests may take to finish before a stop."
    )
    leave_running: bool = Field(
        False,
        description="Leave instances running when syshaxd stops, for the next one to adopt (an upgrade).",
    )
    stop_grace_s: Seconds = Field(15.0, description="Seconds between asking an instance to exit and killing it.")


class Config(Section):
    """The whole configuration. All defaults together are valid."""

    services: ServicesConfig = Field(default_factory=ServicesConfig, description="Addresses and instances.")
    models: ModelsConfig = Field(default_factory=ModelsConfig, description="The models that are served.")
    system: SystemConfig = Field(default_factory=SystemConfig, description="Limits of the whole system.")
    scheduler: SchedulerConfig = Field(
        default_factory=SchedulerConfig, description="By which rules requests are placed."
    )
    decider: DeciderConfig = Field(default_factory=DeciderConfig, description="When requests go to the CPU.")
    offload: OffloadConfig = Field(default_factory=OffloadConfig, description="Prefill-decode offload and migration.")
    docker: DockerConfig = Field(default_factory=DockerConfig, description="The container engine.")
    parity: ParityConfig = Field(
        default_factory=ParityConfig, description="How similar instances must be for requests to move between them."
    )
    numa: NumaConfig = Field(default_factory=NumaConfig, description="On which CPUs the instances compute.")
    monitor: MonitorConfig = Field(default_factory=MonitorConfig, description="How often loads are read.")
    lifecycle: LifecycleConfig = Field(default_factory=LifecycleConfig, description="When instances are restarted.")
    gateway: GatewayConfig = Field(
        default_factory=GatewayConfig, description="Limits and features of the OpenAI endpoint."
    )
    batches: BatchesConfig = Field(default_factory=BatchesConfig, description="OpenAI's Batch API.")
    tracing: TracingConfig = Field(
        default_factory=TracingConfig, description="Traces of requests, sent to an OpenTelemetry collector."
    )
    control: ControlConfig = Field(default_factory=ControlConfig, description="The control plane.")
