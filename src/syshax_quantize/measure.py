# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`python -m syshax_quantize.measure`: times one of vLLM's layers on this host, with full and with quantised weights.

Unlike the rest of this package it needs vLLM. It reads one line of JSON: `shape`, `rows`, `cores` (CPUs to compute on;
empty: all), `threads`, and `configs` (a `quantization_config` or null, by name). It writes one: milliseconds by name
and rows, or for a name the reason why there are none. Like the rest it ends when its standard input is closed.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig

from syshax_quantize.orphaned import end_when_orphaned

_CACHES_BYTES = 1 << 29
"""Weights that are used in turn. A model's weights do not fit into the caches, so these must not either."""
_MOST_LAYERS = 16
_ROUNDS = 5
_PREFIX = "model.layers.0.mlp.down_proj"

Layer = Callable[[torch.Tensor], Any]


def main() -> None:
    """Reads the order and writes the times."""
    order = json.loads(sys.stdin.buffer.readline())
    with suppress(OSError):  # these CPUs no longer exist, or are not allowed: all do
        if order["cores"]:
            os.sched_setaffinity(0, order["cores"])
    torch.set_num_threads(order["threads"])
    torch.set_default_dtype(torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig()), torch.inference_mode():
        end_when_orphaned(partial(shutil.rmtree, folder, ignore_errors=True))
        # Layers ask for their rank, even if there is only one.
        init_distributed_environment(1, 0, f"file://{folder}/ranks", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        times = _times(order)
    print(json.dumps(times))  # noqa: T201


def _times(order: Mapping[str, Any]) -> dict[str, Any]:
    rows, columns = order["shape"]
    count = max(1, min(_MOST_LAYERS, _CACHES_BYTES // (2 * rows * columns)))
    found: dict[str, Any] = {}
    layers: dict[str, list[Layer]] = {}
    for name, config in order["configs"].items():
        try:
            layers[name] = [_layer(rows, columns, config) for _ in range(count)]
            layers[name][0](torch.randn(1, columns))
        except Exception as error:  # noqa: BLE001 - whatever it is, this engine has no such layer
            layers.pop(name, None)
            found[name] = f"{type(error).__name__}: {error}"
    for requests in order["rows"]:
        inputs = torch.randn(requests, columns)
        best_s = dict.fromkeys(layers, float("inf"))
        for _ in range(_ROUNDS):
            # All kinds take turns, so that other work on the host slows all of them down alike.
            for name, its in layers.items():
                begun_s = time.perf_counter()
                for layer in its:
                    layer(inputs)
                best_s[name] = min(best_s[name], (time.perf_counter() - begun_s) / count)
        for name, each_s in best_s.items():
            found.setdefault(name, {})[str(requests)] = each_s * 1000
    return found


def _layer(rows: int, columns: int, config: Mapping[str, Any] | None) -> Layer:
    """A layer with random weights."""
    quantised = None if config is None else CompressedTensorsConfig.from_config(config)
    layer: Any = ReplicatedLinear(columns, rows, bias=False, quant_config=quantised, prefix=_PREFIX, disable_tp=True)
    for name, parameter in layer.named_parameters():
        if "scale" in name:
            parameter.data.fill_(0.01)
        elif "shape" in name:
            parameter.data.copy_(torch.tensor((rows, columns)))
        elif parameter.is_floating_point():
            parameter.data.normal_(0.0, 0.02)
        elif parameter.dtype == torch.int32:  # eight numbers of 4 bits
            parameter.data.random_(-(2**31), 2**31 - 1)
        else:
            parameter.data.random_(-8, 8)
    layer.quant_method.process_weights_after_loading(layer)
    made: Layer = layer
    return made


if __name__ == "__main__":
    main()
