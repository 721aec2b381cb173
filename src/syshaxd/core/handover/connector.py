# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance that syshaxd starts needs in order to hand over: whether it can at all, and its flags.

Source: src/syshax_connector/PROTOCOL.md and its identity.py, which refuses to start where it cannot work.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from syshaxd.core import jsontext

PACKAGE = "syshax_connector"
"""Must be importable for the instance: the folder that holds it belongs on its PYTHONPATH."""
KV_TRANSFER_FLAG = "kv-transfer-config"
OFFLOADING_FLAG = "kv-offloading-size"
OFFLOADING_BACKEND_FLAG = "kv-offloading-backend"
"""With these vLLM puts its own connector's name in the place of ours, looks for it in our module, and can't start. So
the daemon asks for both connectors itself."""
_OFFLOADING_SWITCH = "VLLM_USE_SIMPLE_KV_OFFLOAD"
"""Variable that chooses another connector for them."""
_CONNECTOR = "SyshaxConnector"
_FLAGS_FILE = "config"
PROMPT_DETAILS_FLAG = "enable-prompt-tokens-details"
_SINCE = (0, 26)
SINCE = ".".join(map(str, _SINCE))
"""The first version of vLLM that it works with."""
_GENERATING = ("ForCausalLM", "LMHeadModel")
"""Ends of the names of architectures that generate text; encoders alone, classifiers and rewarders have others."""
_VERSION = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWeights:
    """Quantised weights that are there, or will be made."""

    quantize: str
    """`q8_0` or `q4_0`; `none`: they are the model's own."""
    folder: str
    source: str = ""
    """The model that they are made of; empty: they are what the configuration names as its model."""
    loaded_bytes: int = 0
    """In memory; 0: not known."""
    reason: str = ""
    """Why they were chosen, for a person; empty: the configuration says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """What is known of an instance before it is started."""

    version: str = ""
    """Of its vLLM; empty: not found."""
    model: Mapping[str, Any] | None = None
    """The model's config.json; None: not found."""
    is_sentence_transformer: bool = False
    """Whether the model's folder says how its states become one vector: vLLM then serves embeddings."""
    identity: str = ""
    """Digest of the model's files, equal for equal models in whatever folder; empty: not found."""
    weights: PlannedWeights | str | None = None
    """What the model is to be quantised to, or why it can't be; None: it is not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchHost:
    """What is known of the host before instances are started on it."""

    engines: Mapping[str, EngineFiles] = field(default_factory=dict)
    """By service; none for external instances."""
    arena_dir: str = "/dev/shm/syshax"  # noqa: S108 - the connector makes it, for one user alone
    """Where KV caches on their way are kept, unless the configuration says otherwise."""
    arena_fault: str = ""
    """Why they can't be kept in that folder, or in the configured one, for a person; empty: they can."""
    api_key: str = ""
    """Of instances that are processes, as they inherit it from the daemon's environment; empty: they do not."""
    shm_total_bytes: int = 0
    """Size of the shared memory; 0: not known."""


def connector_flags(
    *,
    engine_id: str,
    arena_dir: str,
    arena_bytes: int,
    identity: str = "",
    verify: bool = False,
    offloading_bytes: int = 0,
) -> dict[str, str | bool]:
    """The flags of `vllm serve` that turn the connector on, by name.

    Args:
        engine_id: What the instance calls its files in the folder.
        arena_dir: The folder.
        arena_bytes: What it takes there.
        identity: Of the model; empty: the connector makes one.
        verify: Whether KV caches get a checksum.
        offloading_bytes: Host memory into which vLLM itself offloads KV caches; 0: it does not.
    """
    extra: dict[str, str | int | bool] = {"arena_dir": arena_dir, "arena_bytes": arena_bytes}
    if identity:
        extra["identity"] = identity
    if verify:
        extra["payload_checksum"] = True
    ours = _part(_CONNECTOR, extra, kv_connector_module_path=f"{PACKAGE}.connector")
    offloading = _part("OffloadingConnector", {"cpu_bytes_to_use": offloading_bytes})
    # Ours first: the first one that has a request's KV cache loads it.
    config = _part("MultiConnector", {"connectors": [ours, offloading]}) if offloading_bytes else ours
    whole = json.dumps(config | {"engine_id": engine_id}, separators=(",", ":"))
    return {KV_TRANSFER_FLAG: whole, PROMPT_DETAILS_FLAG: True}


def _part(name: str, extra: Mapping[str, Any], **more: str) -> dict[str, Any]:
    """A connector's configuration, as vLLM takes it."""
    return {
        "kv_connector": name,
        **more,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",  # vLLM's default answers with an error
        "kv_connector_extra_config": extra,
    }


def arena_dir(argv: Sequence[str]) -> str:
    """The folder that a command line with `connector_flags` names."""
    return str(_extra(argv)["arena_dir"])


def engine_id(argv: Sequence[str]) -> str:
    """What an instance with this command line calls its files there; empty: not given."""
    return str(_config(argv).get("engine_id", ""))


def identity(argv: Sequence[str]) -> str:
    """What its connector compares models by; empty: not given."""
    return str(_extra(argv).get("identity", ""))


def _config(argv: Sequence[str]) -> dict[str, Any]:
    flag = f"--{KV_TRANSFER_FLAG}"
    config: dict[str, Any] = jsontext.loads(argv[argv.index(flag) + 1]) if flag in argv else {}
    return config


def _extra(argv: Sequence[str]) -> dict[str, Any]:
    extra: dict[str, Any] = _config(argv).get("kv_connector_extra_config", {})
    for part in extra.get("connectors", ()):
        if part["kv_connector"] == _CONNECTOR:
            extra = part["kv_connector_extra_config"]
    return extra


def is_part_of(flag: str, whole: str) -> bool:
    """A flag with a JSON value may be given whole, or key by key: `kv-transfer-config.kv_role`."""
    return flag == whole or flag.startswith(f"{whole}.")


def offloading_bytes(args: Mapping[str, Any]) -> int:
    """The host memory that an instance's flags give to vLLM's own offloading; 0: none, or not a size."""
    try:
        return max(0, int(float(args.get(OFFLOADING_FLAG) or 0) * (1 << 30)))
    except (TypeError, ValueError, OverflowError):
        return 0


def offloading_fault(args: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    """Why vLLM's own offloading, which an instance's flags ask for, can't run with the connector; empty: it can."""
    if args.get(OFFLOADING_FLAG) is None:
        return ""
    if not offloading_bytes(args):
        return f"its {OFFLOADING_FLAG} is {args[OFFLOADING_FLAG]!r}, not a number of GiB"
    if (backend := args.get(OFFLOADING_BACKEND_FLAG) or "native") != "native":
        return f"its {OFFLOADING_BACKEND_FLAG} is {backend}: only native runs with the connector that hands over"
    if str(env.get(_OFFLOADING_SWITCH, "0")) != "0":
        return f"its {_OFFLOADING_SWITCH} is set: only vLLM's usual offloading runs with the connector that hands over"
    return ""


def connector_doubt(key: str, files: EngineFiles, args: Mapping[str, Any], env: Mapping[str, Any]) -> str:
    """Why an instance is not given the connector unasked, for a person; empty: it surely works.

    Args:
        key: Of the service: `services.NAME`.
        files: What is known of the instance.
        args: Its flags, by name with dashes.
        env: Its variables.
    """
    found = _VERSION.match(files.version)
    if found is None:
        return f"its vLLM's version is not known: set {key}.protocol to connector if it is {SINCE} or later"
    if (int(found[1]), int(found[2])) < _SINCE:
        return f"its vLLM {files.version} is older than {SINCE}"
    if any(is_part_of(flag, KV_TRANSFER_FLAG) for flag in args):
        return f"its args have a {KV_TRANSFER_FLAG} already"
    if _FLAGS_FILE in args:
        return f"its args name a file of further ones ({_FLAGS_FILE}): set {key}.protocol to connector if it fits them"
    if fault := offloading_fault(args, env):
        return fault
    if args.get("kv-cache-dtype", "auto") != "auto":
        return f"its KV cache is of {args['kv-cache-dtype']}"
    for flag in ("pipeline-parallel-size", "decode-context-parallel-size", "prefill-context-parallel-size"):
        if args.get(flag, 1) != 1:
            return f"its {flag} is {args[flag]}"
    if pooling := _pooling_flag(args):
        return f"its {pooling} makes it compute vectors or scores, not answers"
    if files.model is None:
        return "the model's config.json was not found"
    if files.is_sentence_transformer and args.get("runner", "auto") != "generate":
        return "the model computes vectors (its folder has a modules.json), not answers"
    return _model_doubt(files.model)


def _pooling_flag(args: Mapping[str, Any]) -> str:
    """The flag that asks for something else than text; empty: none does."""
    wanted = {"runner": ("auto", "generate"), "convert": ("auto", "none"), "task": ("auto", "generate")}
    return next((f"{flag} {args[flag]}" for flag, texts in wanted.items() if args.get(flag, "auto") not in texts), "")


def _model_doubt(model: Mapping[str, Any]) -> str:
    """The connector knows one kind of KV cache: that of full attention in every layer."""
    architectures = model.get("architectures")
    if not isinstance(architectures, list) or not architectures:
        return "the model's config.json names no architecture"
    if not all(str(name).endswith(_GENERATING) for name in architectures):
        return f"the model ({', '.join(map(str, architectures))}) is not one that generates text from left to right"
    if "num_attention_heads" not in model:
        return "the model's config.json names no attention heads"
    if model.get("kv_lora_rank"):
        return "the model has latent attention (MLA)"
    if model.get("sliding_window") and model.get("use_sliding_window", True):
        return "the model has a sliding window"
    if any(kind != "full_attention" for kind in model.get("layer_types") or ()):
        return "the model has layers of several kinds"
    if model.get("is_encoder_decoder"):
        return "the model has an encoder"
    if model.get("is_causal") is False or model.get("use_bidirectional_attention"):
        return "the model attends in both directions"
    return ""
