# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Reads facts about an instance from disk before it starts: its vLLM's version and its model's configuration."""

import hashlib
import json
import os
import re
import stat
from pathlib import Path

from syshaxd.core.config import AUTO, Config, ServiceConfig, enabled_services, model_of
from syshaxd.core.errors import SyshaxError
from syshaxd.core.handover.connector import EngineFiles, LaunchHost, PlannedWeights
from syshaxd.core.launch.instance_key import KEY_VARIABLE
from syshaxd.core.launch.quantised import quantised_by_us
from syshaxd.core.numa.cpulist import parse_cpulist
from syshaxd.core.types import RuntimeKind
from syshaxd.core.weights import Quantize
from syshaxd.system import smallfile
from syshaxd.system.auto_weights import auto_choice
from syshaxd.system.weights import plan_for, record_of, weight_samples, weights_dir

_SHM = "/dev/shm"  # noqa: S108 - only its size is read
_ARENA_DIR = f"{_SHM}/syshax"
# In a virtual environment, and in Debian's own interpreter.
_PACKAGES = ("lib*/python3*/site-packages", "lib*/python3*/dist-packages", "local/lib*/python3*/dist-packages")
# Fields that determine a model's KV cache besides its weights; others may differ between versions of transformers.
_OF_THE_MODEL = re.compile(
    r"model_type|architectures|hidden_size|intermediate_size|num_.*|head_dim|vocab_size|rope_.*|quantization_config"
)
_DIST_INFO = re.compile(r"vllm(?:_cpu)?-(\d[^-]*)\.dist-info")


def read_launch_host(config: Config, *, measure: bool = False) -> LaunchHost:
    """Reads what the instances that syshaxd starts will run, and where. Unknown facts are left empty.

    Args:
        config: The configuration.
        measure: Also measure what `quantize: auto` needs, if this was not done yet. It takes half a minute.
    """
    engines = {
        name: EngineFiles(
            version=_vllm_version(Path(service.python)) if service.python else "",
            model=_model_config(folder := Path(model_of(config, service).path or "")),
            is_sentence_transformer=_exists(folder / "modules.json"),
            identity=_model_identity(folder),
            weights=_planned_weights(folder, service, measure=measure),
        )
        for name, service in enabled_services(config).items()
        if service.runtime is not RuntimeKind.EXTERNAL
    }
    user = os.getuid()
    arena_dir = f"{_ARENA_DIR}-{user}" if user else _ARENA_DIR
    return LaunchHost(
        engines=engines,
        arena_dir=arena_dir,
        arena_fault=_arena_fault(Path(config.offload.arena_dir or arena_dir)),
        shm_total_bytes=_shm_total_bytes(),
        api_key=os.environ.get(KEY_VARIABLE, ""),
    )


def _planned_weights(folder: Path, service: ServiceConfig, *, measure: bool) -> PlannedWeights | str | None:
    if not quantised_by_us(service):
        made = record_of(folder).get("quantize")
        return PlannedWeights(quantize=str(made), folder=os.fspath(folder)) if made else None
    quantize, reason = service.quantize, ""
    if quantize is Quantize.AUTO:
        cores = () if service.cores in {None, AUTO} else parse_cpulist(service.cores)
        python = service.python or ""
        choice = auto_choice(folder, python, _vllm_version(Path(python)), cores, measure=measure)
        quantize, reason = choice.quantize, choice.reason
        if quantize is Quantize.NONE:
            return PlannedWeights(quantize=quantize, folder=os.fspath(folder), reason=reason)
    try:
        plan = plan_for(folder, quantize)
        return PlannedWeights(
            reason=reason,
            quantize=plan.quantize,
            folder=os.fspath(weights_dir() / plan.name),
            source=os.fspath(folder),
            loaded_bytes=plan.loaded_bytes,
        )
    except SyshaxError as error:
        return str(error)


def _arena_fault(folder: Path) -> str:
    """Why instances can't share a folder, whose name any user may take first; empty: they can, or will create it."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{folder}: {error.strerror}; set offload.arena_dir to another folder in shared memory"
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077:
        return ""
    what = "a folder" if stat.S_ISDIR(found.st_mode) else "no folder"
    return (
        f"{folder} is {what} of user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):04o}: it must belong "
        f"to user {os.getuid()} alone (0700); remove it, or set offload.arena_dir to another one in shared memory"
    )


def _shm_total_bytes() -> int:
    try:
        shm = os.statvfs(_SHM)
    except OSError:
        return 0
    return shm.f_blocks * shm.f_frsize


def site_packages(python: Path) -> list[Path]:
    """The folders of packages of an interpreter in an environment of its own."""
    prefix = python.parent.parent
    return [folder for pattern in _PACKAGES for folder in prefix.glob(pattern)]


def _vllm_version(python: Path) -> str:
    """Empty: not found, or ambiguous."""
    entries = [entry for folder in site_packages(python) for entry in folder.glob("vllm*.dist-info")]
    versions = {found[1] for entry in entries if (found := _DIST_INFO.fullmatch(entry.name))}
    return versions.pop() if len(versions) == 1 else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # in a folder that this user may not read
        return False


def _model_config(folder: Path) -> dict[str, object] | None:
    try:
        content = smallfile.read_json(folder / "config.json")
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _model_identity(folder: Path) -> str:
    """Equal configurations may have different weights, so bytes spread over each weights file are hashed too.

    Weights that were quantised by sysHAX count as those that they were made of: their KV cache is of the same kind.
    """
    config = _model_config(folder)
    try:
        weights = record_of(folder).get("made_from") or weight_samples(folder)
    except OSError:
        return ""
    if config is not None and record_of(folder):
        config = {key: value for key, value in config.items() if key != "quantization_config"}
    if config is None or not weights:
        return ""
    fixed = {key: value for key, value in config.items() if _OF_THE_MODEL.fullmatch(key)}
    text = json.dumps([fixed, weights], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
