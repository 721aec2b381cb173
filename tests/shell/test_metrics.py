# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""MetricsService: what it counts, and that its text is what Prometheus takes."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from syshaxd.core.loads import GpuLoad, HostLoad, InstanceLoad, Snapshot
from syshaxd.core.numa import BindingStatus
from syshaxd.core.parity import Figures, unknown
from syshaxd.core.placement.decision import Prediction
from syshaxd.core.placement.records import Cause, HandoverRecord, Outcome, RequestRecord
from syshaxd.core.report.engine_status import EngineStatus, Interference, OffloadTrial, OnDemandStatus
from syshaxd.core.types import Device, InstanceStatus, Role, State
from syshaxd.observe.metric_aliases import RENAMED, REPLACED
from syshaxd.observe.metrics import ClientCounts, MetricsService
from tests.fakes.engine import DRIFT, GIB, parity_report, seen
from tests.fakes.specs import external_spec

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
COUNTERS = {alias.old for alias in RENAMED if alias.old in {"syshax_tokens", "syshax_offload_seconds"}}
OLD_NAMES = {
    f"{name}_total" if name in COUNTERS else name for name in {alias.old for alias in RENAMED} | REPLACED.keys()
}
SPEC = external_spec("gpu", device=Device.CUDA, port=8001)
STATUSES = (
    InstanceStatus(spec=SPEC, state=State.READY, generation=3),
    InstanceStatus(spec=replace(SPEC, name="cpu", role=Role.CPU), state=State.BACKOFF, generation=1),
)
SNAPSHOT = Snapshot(
    taken_at_s=100.0,
    instances={
        "gpu": InstanceLoad(
            read_at_s=98.0,
            running=5,
            waiting=2,
            kv_usage_ratio=0.5,
            preemptions=7,
            prompt_tokens=900,
            generation_tokens=300,
            generation_tokens_per_s=30.0,
        ),
        "cpu": InstanceLoad(read_at_s=0.0, error="GET http://127.0.0.1:8002/metrics: Connection refused"),
    },
    gpus_read_at_s=99.0,
    gpus=(
        GpuLoad(
            index=0,
            name='NVIDIA "H200"\\x',
            uuid="GPU-1",
            busy_ratio=None,
            memory_used_bytes=1,
            memory_total_bytes=2,
            power_w=300.5,
        ),
    ),
    host=HostLoad(
        cpu_count=4,
        cpu_busy_ratio=0.25,
        memory_used_bytes=10,
        memory_total_bytes=20,
        shm_used_bytes=1,
        shm_total_bytes=5,
    ),
)
RECORD = RequestRecord(
    request_id="r1",
    route="/v1/chat/completions",
    stream=True,
    placement="gpu",
    status=200,
    queue_s=0.02,
    ttft_s=0.5,
    duration_s=2.5,
    tokens_in=100,
    tokens_out=21,
    retries=1,
    handovers=[
        HandoverRecord(
            source="gpu",
            target="cpu",
            cause=Cause.OFFLOAD,
            known_tokens=101,
            asked=True,
            cached_tokens=100,
            size_bytes=2_304_000,
            gap_s=0.02,
        )
    ],
    carried_for=("gpu",),
)


@dataclass
class Exposition:
    """Prometheus text, read by a stricter parser than prometheus_client's: every rule of the format is asserted."""

    types: dict[str, str] = field(default_factory=dict)
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    def value(self, name: str, /, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"')


def parse_strictly(text: str) -> Exposition:
    assert text.endswith("\n")
    exposition = Exposition()
    helped: set[str] = set()
    family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in helped, f"a second HELP of {family}"
            assert len(line.split(" ", 3)[3]) > 5
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family, "TYPE follows HELP"
            assert name not in exposition.types
            assert (kind == "counter") == name.endswith("_total")
            exposition.types[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            name, labels, value = match[1], match[2] or "", float(match[3])
            found = _LABEL.findall(labels)
            assert ",".join(f'{key}="{text}"' for key, text in found) == labels, line
            assert len(dict(found)) == len(found), line
            suffixes = ("_bucket", "_count", "_sum") if exposition.types[family] == "histogram" else ("",)
            assert name in {family + suffix for suffix in suffixes}, f"{name} stands among the samples of {family}"
            key = (name, frozenset(found))
            assert key not in exposition.samples, f"twice: {line}"
            exposition.samples[key] = value
    assert helped == exposition.types.keys()
    _check_histograms(exposition)
    return exposition


def _check_histograms(exposition: Exposition) -> None:
    buckets: dict[tuple[str, frozenset[tuple[str, str]]], list[tuple[float, float]]] = {}
    for (name, labels), value in exposition.samples.items():
        if name.endswith("_bucket"):
            rest = frozenset(item for item in labels if item[0] != "le")
            buckets.setdefault((name.removesuffix("_bucket"), rest), []).append((float(dict(labels)["le"]), value))
    assert {name for name, _ in buckets} <= {name for name, kind in exposition.types.items() if kind == "histogram"}
    for (name, labels), counts in buckets.items():
        assert counts == sorted(counts), f"{name} is cumulative, in order"
        assert counts[-1] == (float("inf"), exposition.samples[f"{name}_count", labels])
        assert (f"{name}_sum", labels) in exposition.samples


def render(service: MetricsService, snapshot: Snapshot = SNAPSHOT) -> Exposition:
    parity = (parity_report(), replace(parity_report(), second="npu", verdict=unknown("no answer"), figures=Figures()))
    status = EngineStatus(
        version="1",
        started_at_s=0.0,
        endpoint="",
        queued=4,
        queued_models={"m": 3, "": 1},
        inflight={"gpu": 3, "cpu": 0},
        instances=STATUSES,
        snapshot=snapshot,
        parity=parity,
        on_demand={"m": OnDemandStatus(queued=3, starts=2, failures=1, stops={"idle": 1, "room": 0})},
        offload=OffloadTrial(
            predicted_s=2.0,
            measured_s=1.5,
            low_s=1.0,
            high_s=2.0,
            interference=(Interference(gpu="gpu", cpu="cpu", ratio=0.1),),
        ),
        bindings={"cpu": BindingStatus(verification=seen(DRIFT), read_at_s=1700.5, drifts=(DRIFT,), drifted_at_s=1.0)},
    )
    text = service.render(status, ClientCounts(certificates_end_at_s={"cert": 1.0})).decode()
    theirs = {
        (sample.name, frozenset((key, _escape(value)) for key, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    ours = parse_strictly(text)
    assert theirs == ours.samples
    return ours


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


@pytest.fixture
def service() -> MetricsService:
    return MetricsService(task_failures={"monitor": 0}, now=lambda: 100.0, clock=lambda: 1_700_000_100.0)


def test_a_finished_stream_counts_everywhere(service: MetricsService) -> None:
    service.record(RECORD)
    text = render(service)
    route = "/v1/chat/completions"
    assert text.value("syshax_requests_total", placement="gpu", route=route, outcome="ok") == 1
    assert text.value("syshax_tokens_total", placement="gpu", kind="prompt") == 100
    assert text.value("syshax_tokens_total", placement="gpu", kind="generation") == 21
    assert text.value("syshax_request_retries_total", placement="gpu") == 1
    assert text.value("syshax_queue_seconds_sum", placement="gpu") == 0.02
    assert text.value("syshax_time_to_first_token_seconds_sum", placement="gpu") == 0.5
    assert text.value("syshax_time_to_first_token_seconds_bucket", placement="gpu", le="0.5") == 1, "le is inclusive"
    assert text.value("syshax_time_to_first_token_seconds_bucket", placement="gpu", le="0.25") == 0
    assert text.value("syshax_time_per_output_token_seconds_sum", placement="gpu") == 0.1, "20 gaps in 2 s"
    assert text.value("syshax_request_duration_seconds_sum", placement="gpu") == 2.5


def test_a_comparison_shows_how_alike_two_instances_are(service: MetricsService) -> None:
    text = render(service)
    assert text.value("syshax_parity_verdict", name="gpu", peer="cpu", other="cpu", verdict="noise") == 1
    assert text.value("syshax_parity_verdict", name="gpu", peer="cpu", other="cpu", verdict="differs") == 0
    assert text.value("syshax_parity_allowed", name="gpu", peer="cpu", other="cpu") == 1
    assert text.value("syshax_parity_prefill_distance", name="gpu", peer="cpu", other="cpu") == 0.0175
    assert text.value("syshax_parity_greedy_ratio", name="gpu", peer="cpu", other="cpu") == 0.5


def test_a_comparison_that_failed_has_no_figures(service: MetricsService) -> None:
    text = render(service)
    assert text.value("syshax_parity_verdict", name="gpu", peer="npu", other="npu", verdict="unknown") == 1
    assert text.value("syshax_parity_allowed", name="gpu", peer="npu", other="npu") == 0
    assert not [key for key in text.samples if key[0] == "syshax_parity_greedy_ratio" and ("other", "npu") in key[1]]


def test_observations_over_the_last_bound_count_in_inf_alone(service: MetricsService) -> None:
    service.record(structs.replace(RECORD, duration_s=1e6))
    text = render(service)
    assert text.value("syshax_request_duration_seconds_bucket", placement="gpu", le="7680.0") == 0
    assert text.value("syshax_request_duration_seconds_count", placement="gpu") == 1


@pytest.mark.parametrize(
    "record",
    [
        structs.replace(RECORD, stream=False),
        structs.replace(RECORD, status=400, outcome=Outcome.CLIENT_ERROR),
        structs.replace(RECORD, ttft_s=None),
    ],
)
def test_only_answered_streams_have_token_times(service: MetricsService, record: RequestRecord) -> None:
    service.record(record)
    text = render(service)
    assert text.value("syshax_time_to_first_token_seconds_count", placement="gpu") == 0
    assert text.value("syshax_time_per_output_token_seconds_count", placement="gpu") == 0
    assert text.value("syshax_request_duration_seconds_count", placement="gpu") == 1


@pytest.mark.parametrize("tokens", [0, 1])
def test_a_stream_without_gaps_has_no_time_between_tokens(service: MetricsService, tokens: int) -> None:
    service.record(structs.replace(RECORD, tokens_out=tokens))
    text = render(service)
    assert text.value("syshax_time_to_first_token_seconds_count", placement="gpu") == 1
    assert text.value("syshax_time_per_output_token_seconds_count", placement="gpu") == 0


def test_labels_stay_bounded_whatever_clients_send(service: MetricsService) -> None:
    for number in range(1000):
        service.record(
            structs.replace(RECORD, route=f"/v1/{number}", placement="", outcome=Outcome.CLIENT_ERROR, status=404)
        )
    text = render(service)
    assert text.value("syshax_requests_total", placement="none", route="other", outcome="client_error") == 1000
    assert Counter(name for name, _ in text.samples)["syshax_requests_total"] == 1


def test_states(service: MetricsService) -> None:
    text = render(service)
    states = {
        (dict(labels)["name"], dict(labels)["state"]): value
        for (name, labels), value in text.samples.items()
        if name == "syshax_instance_state"
    }
    assert len(states) == 2 * len(State)
    assert {key for key, value in states.items() if value} == {("gpu", "READY"), ("cpu", "BACKOFF")}
    assert text.value("syshax_instance_launches_total", name="gpu") == 3
    assert text.value("syshax_requests_queued") == 4
    assert text.value("syshax_requests_inflight", name="gpu") == 3


def test_readings_and_their_age(service: MetricsService) -> None:
    text = render(service)
    assert text.value("syshax_instance_running_requests", name="gpu") == 5
    assert text.value("syshax_instance_waiting_requests", name="gpu") == 2
    assert text.value("syshax_instance_kv_usage_ratio", name="gpu") == 0.5
    assert text.value("syshax_instance_prompt_tokens_total", name="gpu") == 900
    assert text.value("syshax_instance_generation_tokens_total", name="gpu") == 300
    assert text.value("syshax_instance_last_success_timestamp_seconds", name="gpu") == 1_700_000_098.0
    assert text.value("syshax_instance_preemptions_total", name="gpu") == 7


def test_what_was_never_read_is_absent_not_zero(service: MetricsService) -> None:
    text = render(service)
    assert ("syshax_instance_running_requests", frozenset({("name", "cpu")})) not in text.samples
    assert "syshax_gpu_utilization_ratio" not in text.names(), "the driver does not tell"
    assert "syshax_gpu_temperature_celsius" not in text.names()
    assert not any(name.startswith("syshax_host_") for name in render(service, Snapshot()).types)


def test_devices(service: MetricsService) -> None:
    text = render(service)
    assert text.value("syshax_gpu_info", gpu="0", model='NVIDIA \\"H200\\"\\\\x', uuid="GPU-1") == 1
    assert text.value("syshax_gpu_power_watts", gpu="0") == 300.5
    assert text.value("syshax_gpu_last_success_timestamp_seconds") == 1_700_000_099.0
    assert text.value("syshax_host_cpu_utilization_ratio") == 0.25


def test_handovers_are_counted_by_pair_cause_and_result(service: MetricsService) -> None:
    (loaded,) = RECORD.handovers
    others = [
        replace(loaded, cached_tokens=0),
        replace(loaded, asked=False, cached_tokens=None, gap_s=None, cause=Cause.FAILURE),
        replace(loaded, cached_tokens=None),
    ]
    service.record(structs.replace(RECORD, handovers=[loaded, *others]))
    text = render(service)
    pair = {"source": "gpu", "target": "cpu"}
    for cause, result in (("offload", "loaded"), ("offload", "recomputed"), ("failure", "recomputed")):
        assert text.value("syshax_handovers_total", **pair, cause=cause, result=result) == 1
    assert text.value("syshax_handovers_total", **pair, cause="offload", result="unknown") == 1
    assert text.value("syshax_handover_tokens_total", **pair) == 100
    assert text.value("syshax_handover_bytes_total", **pair) == 2_304_000
    assert text.value("syshax_handover_gap_seconds_count", cause="offload") == 3


def test_offloads_are_held_against_what_was_predicted(service: MetricsService) -> None:
    expected = Prediction(offload_s=3.0, wait_s=5.0)
    service.record(structs.replace(RECORD, prediction=expected))
    service.record(structs.replace(RECORD, prediction=expected, outcome=Outcome.CLIENT_GONE))
    text = render(service)
    seconds = {
        kind: text.value(f"syshax_offload_{kind}_seconds_total") for kind in ("predicted", "measured", "predicted_wait")
    }
    assert seconds == {"predicted": 3.0, "measured": pytest.approx(2.48), "predicted_wait": 5.0}


def test_bindings(service: MetricsService) -> None:
    text = render(service)
    assert text.value("syshax_binding_drift", name="cpu", kind="thread-outside") == 1
    assert text.value("syshax_binding_drift", name="cpu", kind="remote-memory") == 0
    assert text.value("syshax_binding_cpus_planned", name="cpu") == 40
    assert text.value("syshax_binding_cpus_bound", name="cpu") == 39
    assert text.value("syshax_binding_memory_bytes", name="cpu", node="1") == GIB
    assert text.value("syshax_binding_last_success_timestamp_seconds", name="cpu") == 1700.5


def test_the_host_looks_like_one_vllm(service: MetricsService) -> None:
    service.record(RECORD)
    service.record(structs.replace(RECORD, placement="gpu+cpu", outcome=Outcome.CLIENT_GONE))
    service.record(structs.replace(RECORD, placement="", outcome=Outcome.REJECTED))
    text = render(service)
    host = {"model_name": "m", "engine": "0"}
    assert text.value("vllm:num_requests_running", **host) == 5, "by the reading, which is more than the own count"
    assert text.value("vllm:num_requests_waiting", **host) == 4 + 2, "in the own queue and inside the instance"
    assert text.value("vllm:kv_cache_usage_perc", **host) == 0.5, "of what is READY"
    assert text.value("vllm:prompt_tokens_total", model_name="m", engine="gpu") == 900
    assert text.value("vllm:generation_tokens_total", model_name="m", engine="gpu") == 300
    assert text.value("vllm:num_preemptions_total", model_name="m", engine="gpu") == 7
    assert text.value("vllm:request_success_total", **host) == 1
    assert text.value("vllm:e2e_request_latency_seconds_count", **host) == 2
    assert text.value("vllm:time_to_first_token_seconds_sum", **host) == 1.0
    assert text.value("vllm:inter_token_latency_seconds_count", **host) == 40
    assert text.value("vllm:inter_token_latency_seconds_sum", **host) == pytest.approx(4.0)
    assert text.value("vllm:request_time_per_output_token_seconds_count", **host) == 2


def test_what_routers_read_has_one_series_for_each_model(service: MetricsService) -> None:
    """A router takes whichever series it finds last."""
    text = render(service)
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert [labels for found, labels in text.samples if found == name] == [
            frozenset({("model_name", "m"), ("engine", "0")})
        ]


def test_one_name_for_every_family(service: MetricsService) -> None:
    service.record(RECORD)
    for name in render(service).types:
        assert re.fullmatch(r"(syshax_|vllm:)[a-z0-9]+(_[a-z]+)*", name)


def test_old_names_are_exported_until_the_next_release(service: MetricsService) -> None:
    service.record(structs.replace(RECORD, prediction=Prediction(offload_s=3.0, wait_s=5.0)))
    gpu = replace(SNAPSHOT.gpus[0], busy_ratio=0.5)
    text = render(service, replace(SNAPSHOT, gpus=(gpu,), gpu_error="GPU 1: lost"))
    for alias in RENAMED:
        new = {
            (name.removeprefix(alias.new), labels | frozenset(alias.labels.items())): value
            for (name, labels), value in text.samples.items()
            if re.fullmatch(rf"{alias.new}(_total|_bucket|_count|_sum)?", name)
        }
        old = {(name.removeprefix(alias.old), labels): value for (name, labels), value in text.samples.items()}
        assert new
        assert new.items() <= old.items(), alias
    assert text.value("syshax_instance_reading_ok", name="gpu") == 1
    assert text.value("syshax_instance_reading_ok", name="cpu") == 0
    assert text.value("syshax_instance_reading_age_seconds", name="gpu") == 2.0
    assert text.value("syshax_instance_generation_tokens_per_second", name="gpu") == 30.0
    assert text.value("syshax_instance_prompt_tokens_per_second", name="gpu") == 0.0
    assert text.value("syshax_gpu_reading_ok") == 0
    assert {name for name in OLD_NAMES if name not in text.types} == set()
    assert text.value("syshax_parity_allowed", name="gpu", peer="cpu", other="cpu") == 1
    assert text.value("syshax_binding_drift", name="cpu", kind="memory-far") == 0


def test_the_changelog_lists_every_old_name() -> None:
    renamed = CHANGELOG.read_text().partition("### Renamed")[2].partition("\n### ")[0]
    assert [name for name in sorted(OLD_NAMES) if f"`{name}`" not in renamed] == []


def test_the_documentation_lists_every_family(service: MetricsService) -> None:
    """docs/metrics.md has the same names, types and labels, in the same order."""
    service.record(RECORD)
    gpu = replace(SNAPSHOT.gpus[0], busy_ratio=0.5, temperature_c=40.0)
    text = render(service, replace(SNAPSHOT, gpus=(gpu,)))
    labels_of: dict[str, set[str]] = {}
    for name, labels in text.samples:
        family = re.sub("_(bucket|count|sum)$", "", name)
        labels_of.setdefault(family, set()).update(key for key, _ in labels if key != "le")
    rows = [line.split("|") for line in DOCS.read_text().splitlines() if line.startswith(("| `syshax_", "| `vllm:"))]
    documented = [
        (name.strip(" `"), kind.strip(), set(re.findall(r"\w+", labels))) for _, name, kind, labels, _, _ in rows
    ]
    exported = [(name, kind, labels_of[name]) for name, kind in text.types.items()]
    assert documented == [family for family in exported if family[0] not in OLD_NAMES]
