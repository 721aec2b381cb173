# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Maps a container engine's error texts to causes and remedies."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from syshaxd.core.launch.launch_faults import launch_cause
from syshaxd.core.types import ExitStatus, InstanceSpec

NOT_RUN = frozenset((126, 127))
"""Exit codes of containers whose program could not be run."""
NVML_LOST = "Failed to initialize NVML"
GPU_LOST = (
    "it lost its GPUs (Failed to initialize NVML): a `systemctl daemon-reload` causes this where Docker's cgroup "
    "driver is systemd; a new container has them again"
)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    meaning: str
    """Placeholders: {name}, {image}, {port} and so on of the instance; {0} is the text itself."""
    permanent: bool


def _rule(pattern: str, meaning: str, *, permanent: bool) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE | re.DOTALL), meaning, permanent)


_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# The first match counts.
_LAUNCH = (
    _rule(
        r"could not select device driver|unknown or invalid runtime name|nvidia-container-runtime.*not found",
        "the container engine has no NVIDIA runtime: install nvidia-container-toolkit, run `nvidia-ctk runtime "
        "configure` and restart the engine, or set {key}.gpus to 0",
        permanent=True,
    ),
    _rule(
        r"unknown device|device error|no such device|unresolvable CDI",
        "no such GPU: compare {key}.gpus with `nvidia-smi -L` ({0})",
        permanent=True,
    ),
    _rule(
        r"nvml error|driver not loaded|failed to initialize NVML|nvidia-container-cli",
        "the NVIDIA driver does not work: check `nvidia-smi` on the host ({0})",
        permanent=False,
    ),
    _rule(
        r"port is already allocated|address already in use|failed to bind",
        "port {port} is taken on {host}: stop the program that listens there (`ss -tlnp`), or set services.{name}.port",
        permanent=False,
    ),
    _rule(
        r"is already in use by container|name .* is in use|already in use",
        "a container {container} exists that this syshaxd did not create: remove it (`docker rm -f {container}`), or "
        "set {key}.name",
        permanent=True,
    ),
    _rule(
        r"cannot join IPC|can't join IPC|non[- ]running container|No such container|cannot share .*ipc",
        "the container whose IPC namespace it joins ({ipc}) is not running: start that first, or set {key}.ipc",
        permanent=False,
    ),
    _rule(
        r"invalid mount config.*permission denied|error mounting.*permission denied",
        "the container engine may not open a folder to mount: run syshaxd as the user of a rootless engine, give that "
        "user access, or see {key}.volumes ({0})",
        permanent=True,
    ),
    _rule(
        r"bind source path does not exist|invalid mount config|statfs .* no such file|error mounting",
        "a folder to mount does not exist: see {key}.volumes ({0})",
        permanent=True,
    ),
    _rule(
        r"exec format error",
        "the image {image} is for other CPUs than this host's (`docker image inspect` shows its architecture): set "
        "{key}.image",
        permanent=True,
    ),
    _rule(
        r"executable file not found|exec: .*no such file or directory",
        "the image {image} has no program {program} for this machine: set {key}.command",
        permanent=True,
    ),
    _rule(
        r"requested (cpus|memory nodes) are not available|invalid value .*cpuset",
        "the host has no such CPUs or NUMA nodes: set {key}.cpuset_cpus, {key}.cpuset_mems or services.{name}.cores "
        "({0})",
        permanent=True,
    ),
    _rule(
        r"unable to apply caps|operation not permitted",
        "the container engine may not grant {key}.privileged and {key}.cap_add ({0})",
        permanent=True,
    ),
    _rule(r"no space left on device", "the disk of the container engine is full ({0})", permanent=False),
)
_PULL = (
    _rule(
        r"no such host|connection refused|i/o timeout|timed? ?out|TLS handshake|server misbehaving|"
        r"network is unreachable|EOF|temporary failure|no route to host",
        "the registry of {image} can't be reached: check network and proxy of the container engine, or load the image "
        "by hand (`docker load`) ({0})",
        permanent=False,
    ),
    _rule(
        r"unauthorized|denied|authentication required",
        "the registry refuses {image}: check the name, or log in for the user who runs syshaxd ({0})",
        permanent=True,
    ),
    _rule(
        r"manifest unknown|not found|does not exist|invalid reference|no matching manifest",
        "there is no image {image} for this machine: set {key}.image ({0})",
        permanent=True,
    ),
)


def architecture_fault(spec: InstanceSpec, image: str, engine: str) -> str:
    """Why the engine's host cannot run an image, by the architectures of both; empty: it can, or one is not known."""
    image, engine = (_ARCHITECTURES.get(name.lower(), "") for name in (image, engine))
    if not image or not engine or image == engine:
        return ""
    return f"{launch_fault(spec, 'exec format error')[0]} ({image}, and this host is {engine})"


def launch_fault(spec: InstanceSpec, text: str) -> tuple[str, bool]:
    """The cause and remedy of a failure to create or start a container, and whether it is permanent."""
    return _diagnose(_LAUNCH, spec, text)


def pull_fault(spec: InstanceSpec, text: str) -> tuple[str, bool]:
    """The cause and remedy of a failure to pull an image, and whether it is permanent."""
    return _diagnose(_PULL, spec, text)


def exit_status(code: int, *, name: str, out_of_memory: bool, asked: bool, last_lines: Sequence[str]) -> ExitStatus:
    """The exit status of a container.

    Args:
        code: The engine's exit code; above 128 it may stand for a signal.
        name: The service.
        out_of_memory: The kernel killed it for its memory limit.
        asked: It was asked to stop.
        last_lines: The end of its output.
    """
    cause = ""
    signal = code - 128 if 128 < code <= 128 + 64 else None
    if any(NVML_LOST in line for line in last_lines):
        cause = GPU_LOST
    elif out_of_memory:
        cause = (
            "out of memory: make it use less (`gpu-memory-utilization`, VLLM_CPU_KVCACHE_SPACE), or give the host more"
        )
    elif code in NOT_RUN:
        cause = "its program could not be run"
    elif code and not asked:
        cause = launch_cause(last_lines, name=name, signal=signal)
    return ExitStatus(code=code if signal is None else None, signal=signal, cause=cause)


def _diagnose(rules: tuple[_Rule, ...], spec: InstanceSpec, text: str) -> tuple[str, bool]:
    container = spec.container
    assert container is not None
    for rule in rules:
        if rule.pattern.search(text):
            meaning = rule.meaning.format(
                text,
                name=spec.name,
                key=f"{spec.key}.container",
                container=container.name,
                image=container.image,
                ipc=container.ipc,
                host=spec.host,
                port=spec.port,
                program=spec.argv[0],
            )
            return f"{spec.name}: {meaning}", rule.permanent
    return f"{spec.name}: the container engine says: {text}", False
