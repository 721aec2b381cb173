# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The engine's state as vLLM's /metrics reports it, in the names of V1 or the older ones."""

from syshax_sim.engine import Engine


def render(engine: Engine, *, model: str, old_names: bool) -> str:
    """Returns the Prometheus text."""
    counters = engine.counters
    usage_ratio = engine.kv_used_tokens / engine.profile.kv_tokens
    labels = f'model_name="{model}"' if old_names else f'engine="0",model_name="{model}"'
    samples: list[tuple[str, str, str, float]] = [
        ("gauge", "num_requests_running", "", len(engine.running)),
        ("gauge", "num_requests_waiting", "", len(engine.waiting)),
        ("counter", "num_preemptions_total", "", counters.preemptions),
        ("counter", "prompt_tokens_total", "", counters.prompt_tokens + counters.loaded_tokens),
        ("counter", "generation_tokens_total", "", counters.generation_tokens),
    ]
    if old_names:
        rate = counters.generation_tokens / counters.busy_s if counters.busy_s and engine.running else 0.0
        samples += [
            ("gauge", "num_requests_swapped", "", 0),
            ("gauge", "gpu_cache_usage_perc", "", usage_ratio),
            ("gauge", "cpu_cache_usage_perc", "", 0),
            ("gauge", "avg_generation_throughput_toks_per_s", "", rate),
        ]
    else:
        samples += [
            ("gauge", "kv_cache_usage_perc", "", usage_ratio),
            ("counter", "prompt_tokens_by_source_total", ',source="local_compute"', counters.prompt_tokens),
            ("counter", "prompt_tokens_by_source_total", ',source="external_kv_transfer"', counters.loaded_tokens),
            ("counter", "request_prefill_time_seconds_sum", "", counters.prefill_s),
            ("counter", "request_prefill_kv_computed_tokens_sum", "", counters.prefill_tokens),
            ("counter", "request_prefill_kv_computed_tokens_count", "", counters.prefills),
            ("counter", "inter_token_latency_seconds_sum", "", counters.token_s),
            ("counter", "inter_token_latency_seconds_count", "", counters.token_gaps),
            ("counter", "request_success_total", ',finished_reason="length"', counters.finished),
            ("counter", "request_success_total", ',finished_reason="abort"', counters.aborted),
        ]
    lines: list[str] = []
    named: set[str] = set()
    for kind, name, more, value in samples:
        if name not in named:
            named.add(name)
            lines += [f"# HELP vllm:{name} Simulated.", f"# TYPE vllm:{name} {kind}"]
        lines.append(f"vllm:{name}{{{labels}{more}}} {float(value)}")
    return "\n".join(lines) + "\n"
