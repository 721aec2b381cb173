# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""`quantize: auto`: measures once how fast this host is with each kind of weights, and keeps the result."""

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from syshaxd.core import jsontext
from syshaxd.core.errors import SyshaxError
from syshaxd.core.launch.launch_faults import program_end
from syshaxd.core.weights import Quantize, choose, scheme_of
from syshaxd.core.weights.auto import ROWS, AutoChoice, Times, choose_auto, full_weights, measured_shape
from syshaxd.core.weights.scheme import Cpu
from syshaxd.system import sdnotify, smallfile
from syshaxd.system.importable import QUANTISER, importable_folder
from syshaxd.system.weights import read_checkpoint, this_cpu, weights_dir

_log = logging.getLogger(__name__)
_RECORD = "measured.json"
_VERSION = 1
"""Of the measurement: raised when it changes, so that hosts are measured again."""
_TIMEOUT_S = 120.0
_MARGIN_S = 30.0
_MAX_ERROR_CHARS = 300


def auto_choice(model: Path, python: str, version: str, cores: Sequence[int], *, measure: bool) -> AutoChoice:
    """Returns which weights of a model are the fastest on this host.

    Args:
        model: Its folder.
        python: The interpreter of vLLM's environment.
        version: Of that vLLM.
        cores: CPUs of the instance; empty: all.
        measure: Measure if this was not done yet. It takes half a minute.
    """
    try:
        checkpoint = read_checkpoint(model)
        tensors = [tensor for its in checkpoint.files.values() for tensor in its]
        shape = measured_shape(tensors, choose(checkpoint.config, tensors).quantised)
    except SyshaxError as error:
        return full_weights(str(error))
    cpu = this_cpu()
    configs, without = _configs(cpu)
    threads = len(cores or os.sched_getaffinity(0))
    key = _key([_VERSION, shape, ROWS, threads, configs, version, cpu.machine, sorted(cpu.flags)])
    known = _read()
    if key in known:
        return choose_auto(known[key] | without)
    if not measure:
        return full_weights("not measured on this host yet; syshaxd does so before it starts the instance")
    _log.info("%s: measuring which weights are the fastest on this host (quantize: auto); this happens once", model)
    order = {"shape": shape, "rows": ROWS, "threads": threads, "cores": list(cores), "configs": configs}
    times = _measure(order, python)
    if not isinstance(times[Quantize.NONE], str):
        _write(known | {key: times})
    choice = choose_auto(times | without)
    _log.info("%s: %s", model, choice.reason)
    return choice


def _configs(cpu: Cpu) -> tuple[dict[str, Any], dict[str, str]]:
    """What can be measured, and why the rest can't."""
    configs: dict[str, Any] = {Quantize.NONE: None}
    without: dict[str, str] = {}
    for quantize in (Quantize.Q8_0, Quantize.Q4_0):
        try:
            configs[quantize] = scheme_of(quantize, cpu).config(())
        except SyshaxError as error:
            without[quantize] = str(error).removeprefix(f"{quantize}: ")
    return configs, without


def _measure(order: Mapping[str, Any], python: str) -> dict[str, Any]:
    sdnotify.extend_timeout(_TIMEOUT_S + _MARGIN_S)
    variables = {"CUDA_VISIBLE_DEVICES": "", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    reader, writer = os.pipe()
    try:
        os.write(writer, json.dumps(order).encode() + b"\n")
        folder = importable_folder(weights_dir().parent, QUANTISER)
        done = subprocess.run(
            [python, "-s", "-m", f"{QUANTISER}.measure"],
            stdin=reader,  # it stays open as long as this process lives
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | variables | {"PYTHONPATH": os.fspath(folder), "PYTHONDONTWRITEBYTECODE": "1"},
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, SyshaxError, subprocess.TimeoutExpired) as error:
        return {Quantize.NONE: str(error)}
    finally:
        os.close(reader)
        os.close(writer)
    try:
        found = jsontext.loads(done.stdout.splitlines()[-1])
        if isinstance(found, dict) and Quantize.NONE in found:
            return found
    except (ValueError, IndexError):
        pass
    last = (done.stderr.strip().splitlines() or [str(program_end(done.returncode))])[-1]
    return {Quantize.NONE: last[-_MAX_ERROR_CHARS:]}


def _read() -> dict[str, dict[str, Any]]:
    try:
        content = smallfile.read_json(weights_dir() / _RECORD)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(known: Mapping[str, Times]) -> None:
    path = weights_dir() / _RECORD
    try:
        smallfile.replace_json(path, known, synced=False)
    except OSError as error:
        _log.warning("%s: %s; the next start measures again", path, error.strerror)


def _key(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
