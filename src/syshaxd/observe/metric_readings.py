# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Metric families of the state at a moment: instances, loads, parity, bindings, GPUs, the host."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from syshaxd.core.loads import GpuLoad, HostLoad, InstanceLoad, Snapshot
from syshaxd.core.numa import BindingStatus, DriftKind
from syshaxd.core.parity import Agreement, Figures, ParityReport
from syshaxd.core.report.engine_status import EngineStatus, OffloadTrial, OnDemandStatus
from syshaxd.core.types import InstanceStatus, Role, State
from syshaxd.observe.metric_aliases import OLD_DRIFT_KINDS


def state_families(statuses: Sequence[InstanceStatus], open_circuits: Mapping[str, str]) -> Iterator[Metric]:
    """The state, the circuit breaker and the number of launches of each instance."""
    states = GaugeMetricFamily(
        "syshax_instance_state", "1 for the state that the instance is in.", labels=("name", "state")
    )
    launches = CounterMetricFamily("syshax_instance_launches", "Launches of the instance.", labels=("name",))
    for status in statuses:
        for state in State:
            states.add_metric((status.spec.name, state), status.state is state)
        launches.add_metric((status.spec.name,), status.generation)
    yield states
    yield gauges(
        "syshax_instance_circuit_open",
        "1 while the instance gets no requests because it failed too many.",
        "name",
        {status.spec.name: status.spec.name in open_circuits for status in statuses},
    )
    yield launches


def on_demand_families(models: Mapping[str, OnDemandStatus]) -> Iterator[Metric]:
    """Starts and stops of the models that only requests start."""
    yield gauges(
        "syshax_model_waiting_requests",
        "Requests that wait for the on-demand model.",
        "model",
        {model: demand.queued for model, demand in models.items()},
    )
    starts = CounterMetricFamily("syshax_model_starts", "Starts of the model by requests.", labels=("model",))
    failures = CounterMetricFamily("syshax_model_start_failures", "Starts that have failed.", labels=("model",))
    stops = CounterMetricFamily("syshax_model_stops", "Stops of the model, by cause.", labels=("model", "cause"))
    for model, demand in models.items():
        starts.add_metric((model,), demand.starts)
        failures.add_metric((model,), demand.failures)
        for cause, count in demand.stops.items():
            stops.add_metric((model, cause), count)
    yield starts
    yield failures
    yield stops


def carried_family(status: EngineStatus) -> Metric:
    """Which models CPUs answer alone, of those that have GPUs."""
    models = {each.spec.served_model for each in status.instances if each.spec.role is Role.GPU}
    return gauges(
        "syshax_model_carried",
        "1 while CPUs answer the model alone, as none of its GPUs takes requests.",
        "model",
        {model: model in status.carried for model in sorted(models)},
    )


def load_families(loads: Mapping[str, InstanceLoad], to_unix_s: float) -> Iterator[Metric]:
    """Loads by the instances' own metrics. `to_unix_s` turns monotonic time into Unix time."""
    loads = {name: load for name, load in loads.items() if load.read_at_s}
    for metric, text, value_of in _LOAD_GAUGES:
        yield gauges(metric, text, "name", {name: value_of(load) for name, load in loads.items()})
    for metric, text, count_of in _LOAD_COUNTERS:
        counter = CounterMetricFamily(metric, text, labels=("name",))
        for name, load in loads.items():
            if (count := count_of(load)) is not None:
                counter.add_metric((name,), count)
        yield counter
    read_at = {name: load.read_at_s + to_unix_s for name, load in loads.items()}
    yield gauges(
        "syshax_instance_last_success_timestamp_seconds",
        "Time of the last successful reading of the instance's metrics.",
        "name",
        read_at,
    )


_LOAD_GAUGES: tuple[tuple[str, str, Callable[[InstanceLoad], float]], ...] = (
    ("syshax_instance_running_requests", "Requests running inside the instance.", lambda load: load.running),
    ("syshax_instance_waiting_requests", "Requests waiting inside the instance.", lambda load: load.waiting),
    ("syshax_instance_kv_usage_ratio", "Used share of its KV cache, 0..1.", lambda load: load.kv_usage_ratio),
)

_LOAD_COUNTERS: tuple[tuple[str, str, Callable[[InstanceLoad], int | None]], ...] = (
    ("syshax_instance_prompt_tokens", "Prompt tokens, since the instance started.", lambda load: load.prompt_tokens),
    (
        "syshax_instance_generation_tokens",
        "Generated tokens, since the instance started.",
        lambda load: load.generation_tokens,
    ),
    ("syshax_instance_preemptions", "Preempted requests, since the instance started.", lambda load: load.preemptions),
)


def parity_families(reports: Sequence[ParityReport]) -> Iterator[Metric]:
    """Comparisons of instances, by pair. The label `other` is the old name of `peer`."""
    labels = ("name", "peer", "other")
    verdicts = GaugeMetricFamily(
        "syshax_parity_verdict", "1 for the verdict on two instances.", labels=(*labels, "verdict")
    )
    allowed = GaugeMetricFamily("syshax_parity_allowed", "Whether requests may move between them.", labels=labels)
    for report in reports:
        for agreement in Agreement:
            verdicts.add_metric(
                (report.first, report.second, report.second, agreement), report.verdict.agreement is agreement
            )
        allowed.add_metric((report.first, report.second, report.second), report.verdict.allowed)
    yield verdicts
    yield allowed
    for metric, text, value_of in _PARITY_GAUGES:
        family = GaugeMetricFamily(metric, text, labels=labels)
        for report in reports:
            if report.figures.positions:
                family.add_metric((report.first, report.second, report.second), value_of(report.figures))
        yield family


_PARITY_GAUGES: tuple[tuple[str, str, Callable[[Figures], float]], ...] = (
    ("syshax_parity_prefill_distance", "Of the probabilities, prefilling.", lambda figures: figures.prefill_distance),
    ("syshax_parity_decode_distance", "Of the probabilities, decoding.", lambda figures: figures.decode_distance),
    (
        "syshax_parity_same_top_ratio",
        "Positions with the same likeliest token.",
        lambda figures: figures.same_top_ratio,
    ),
    ("syshax_parity_first_token_ratio", "Answers with the same first token.", lambda f: f.first_token_ratio),
    ("syshax_parity_greedy_ratio", "Answers that are the same to the end.", lambda figures: figures.greedy_ratio),
    ("syshax_parity_common_prefix_ratio", "Tokens before answers part.", lambda figures: figures.common_prefix_ratio),
)


def offload_families(trial: OffloadTrial) -> Iterator[Metric]:
    """What help by the CPU gains, predicted and measured."""
    yield GaugeMetricFamily("syshax_offload_enabled", "0 while the CPU does not help, as it gains nothing.", trial.on)
    values = {"measured": trial.measured_s, "low": trial.low_s, "high": trial.high_s, "predicted": trial.predicted_s}
    known = {name: value for name, value in values.items() if value is not None}
    yield gauges("syshax_offload_benefit_seconds", "What help by the CPU gains for a request.", "value", known)
    yield CounterMetricFamily(
        "syshax_offload_held_out", "Requests that waited for the GPU to measure that.", value=trial.all_held_out
    )
    yield CounterMetricFamily("syshax_offload_switched_off", "Times that help was switched off.", value=trial.times_off)
    interference = GaugeMetricFamily(
        "syshax_offload_interference_ratio",
        "Share by which a CPU's work lengthens a GPU's steps, as placement counts it.",
        labels=("name", "peer"),
    )
    for pair in trial.interference:
        interference.add_metric((pair.gpu, pair.cpu), pair.ratio)
    yield interference


def binding_families(bindings: Mapping[str, BindingStatus]) -> Iterator[Metric]:
    """CPU bindings of the instances. `memory-far` is the old name of the drift `remote-memory`."""
    drift = GaugeMetricFamily(
        "syshax_binding_drift", "1 while the instance has drifted from its CPU binding.", labels=("name", "kind")
    )
    memory = GaugeMetricFamily("syshax_binding_memory_bytes", "Its own memory, by node.", labels=("name", "node"))
    for name, status in bindings.items():
        kinds = {drift.kind for drift in status.drifts}
        for kind in DriftKind:
            drift.add_metric((name, kind), kind in kinds)
        for old, new in OLD_DRIFT_KINDS.items():
            drift.add_metric((name, old), new in kinds)
        for node, size in status.verification.memory_bytes.items():
            memory.add_metric((name, str(node)), size)
    yield drift
    for metric, text, value_of in _BINDING_GAUGES:
        yield gauges(metric, text, "name", {name: value_of(status) for name, status in bindings.items()})
    yield memory


_BINDING_GAUGES: tuple[tuple[str, str, Callable[[BindingStatus], float]], ...] = (
    (
        "syshax_binding_cpus_planned",
        "CPUs that should each have a compute thread bound to them.",
        lambda status: status.verification.cpus_planned,
    ),
    ("syshax_binding_cpus_bound", "Planned CPUs that have one.", lambda status: status.verification.cpus_bound),
    (
        "syshax_binding_threads_outside",
        "Threads that may run outside the instance's CPUs.",
        lambda status: status.verification.threads_outside,
    ),
    (
        "syshax_binding_remote_memory_bytes",
        "Memory on other nodes than planned.",
        lambda status: status.verification.remote_memory_bytes,
    ),
    (
        "syshax_binding_last_success_timestamp_seconds",
        "Time of the last reading of the bindings.",
        lambda status: status.read_at_s,
    ),
)


def gpu_families(snapshot: Snapshot, to_unix_s: float) -> Iterator[Metric]:
    """The GPUs. `to_unix_s` turns monotonic time into Unix time."""
    if snapshot.gpus_read_at_s:
        yield gauge(
            "syshax_gpu_last_success_timestamp_seconds",
            "Time of the last successful reading of all GPUs.",
            snapshot.gpus_read_at_s + to_unix_s,
        )
    gpus = snapshot.gpus
    info = GaugeMetricFamily("syshax_gpu_info", "A GPU of the host.", labels=("gpu", "model", "uuid"))
    for gpu in gpus:
        info.add_metric((str(gpu.index), gpu.name, gpu.uuid), 1)
    yield info
    for metric, text, value_of in _GPU_GAUGES:
        values = {str(gpu.index): value_of(gpu) for gpu in gpus}
        yield gauges(metric, text, "gpu", {gpu: value for gpu, value in values.items() if value is not None})


_GPU_GAUGES: tuple[tuple[str, str, Callable[[GpuLoad], float | None]], ...] = (
    ("syshax_gpu_utilization_ratio", "Share of the time in which a kernel ran, 0..1.", lambda gpu: gpu.busy_ratio),
    ("syshax_gpu_memory_used_bytes", "Memory in use.", lambda gpu: gpu.memory_used_bytes),
    ("syshax_gpu_memory_total_bytes", "Memory of the GPU.", lambda gpu: gpu.memory_total_bytes),
    ("syshax_gpu_power_watts", "Power drawn.", lambda gpu: gpu.power_w),
    ("syshax_gpu_temperature_celsius", "Temperature.", lambda gpu: gpu.temperature_c),
)


def host_families(host: HostLoad) -> Iterator[Metric]:
    """The host."""
    yield gauge("syshax_host_cpus", "CPUs of the host.", host.cpu_count)
    yield gauge("syshax_host_cpu_utilization_ratio", "Busy share of all CPUs, 0..1.", host.cpu_busy_ratio)
    yield gauge("syshax_host_memory_used_bytes", "Memory in use.", host.memory_used_bytes)
    yield gauge("syshax_host_memory_total_bytes", "Memory of the host.", host.memory_total_bytes)
    yield gauge("syshax_host_shm_used_bytes", "Shared memory (/dev/shm) in use.", host.shm_used_bytes)
    yield gauge("syshax_host_shm_total_bytes", "Size of the shared memory.", host.shm_total_bytes)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    """A gauge whose value is always 1 and whose labels are the information."""
    family = GaugeMetricFamily(f"{name}_info", text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), 1)
    return family
