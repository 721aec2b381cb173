# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Maps the end of an engine's log and its exit status to causes and remedies.

The texts are those of vLLM 0.26 to 0.32 (compared with both sources), PyTorch, transformers, Python and our connector;
tests/core/data/launch_logs has what vLLM 0.32 said when it was made to fail.
"""

import re
from collections.abc import Sequence
from signal import SIGBUS, SIGILL, SIGKILL, SIGSEGV

from syshaxd.core.secrets import HIDDEN, is_secret, safe_text
from syshaxd.core.types import ExitStatus

LAST_LINES = 400
"""Lines to read: the cause precedes the tracebacks of several processes."""
_MAX_QUOTE_CHARS = 300
_LESS_MEMORY = "lower {key}.args.max-model-len or {key}.max_num_seqs"


def _rule(pattern: str, meaning: str) -> tuple[re.Pattern[str], str]:
    """A log pattern and its meaning: {0}, {1} and so on are its groups, {key} is the service's key."""
    return re.compile(pattern), meaning


# The first match counts: the most specific come first.
_RULES = (
    _rule(
        r"error: unrecognized arguments:(?P<flags>.+)",
        "its vLLM does not know the arguments {flags}: correct {key}.args",
    ),
    _rule(r"error: argument (--?[\w./-]+): (.{1,200})", "its vLLM rejects {0} ({1}): correct {key}.args"),
    _rule(
        r"model's max seq len\s+\((\d+)\).{0,20}?([\d.]+) GiB KV\s+cache is needed, which is larger than the available "
        r"KV cache\s+memory \(([\d.]+) GiB\)",
        "too little memory for its KV cache: one request of {0} tokens takes {1} GiB, but only {2} GiB are available: "
        "lower {key}.args.max-model-len, or give it more (gpu-memory-utilization; on a CPU VLLM_CPU_KVCACHE_SPACE)",
    ),
    _rule(
        r"No available memory for the cache blocks",
        "no memory left for its KV cache: raise {key}.args.gpu-memory-utilization (on a CPU "
        f"{{key}}.env.VLLM_CPU_KVCACHE_SPACE), or {_LESS_MEMORY}",
    ),
    _rule(
        r"Free memory on device \S+ \(([\d.]+)/([\d.]+) GiB\)",
        "its GPU is in use: {0} of {1} GiB are free: end other programs on it (`nvidia-smi`), or lower "
        "{key}.args.gpu-memory-utilization",
    ),
    _rule(
        r"Available memory on node (\d+) \(([\d.-]+)/([\d.]+) GiB\)",
        "too little memory on NUMA node {0}: {1} of {2} GiB are free: lower {key}.env.VLLM_CPU_KVCACHE_SPACE or "
        "{key}.args.gpu-memory-utilization (on a CPU, too), or set {key}.cores to another node",
    ),
    _rule(
        r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY",
        "its GPU's memory is full: end other programs on it (`nvidia-smi`), lower {key}.args.gpu-memory-utilization, "
        f"or {_LESS_MEMORY}",
    ),
    _rule(
        r"can't allocate memory|MemoryError|Cannot allocate memory",
        f"the host's memory is full: lower {{key}}.env.VLLM_CPU_KVCACHE_SPACE, or {_LESS_MEMORY}",
    ),
    _rule(r"No space left on device", "a disk or the shared memory is full: check `df -h` and `df -h /dev/shm`"),
    _rule(
        r"(?:given |User-specified )?max_model_len \((\d+)\) is greater than the derived max_model_len\s+\(\D*(\d+)",
        "{key}.args.max-model-len is {0}, but the model supports at most {1}",
    ),
    _rule(
        r"contains custom code|trust_remote_code=True",
        "the model contains code: if you trust it, set {key}.args.trust-remote-code to true",
    ),
    _rule(
        r"gated repo|401 Client Error|403 Client Error|GatedRepoError",
        "the model hub denies access to the model: accept its licence and set {key}.env.HF_TOKEN, or use a folder",
    ),
    _rule(
        r"Cannot find any model weights",
        "the model's folder contains no weights: check models.path or {key}.model",
    ),
    _rule(
        r"SafetensorError|Error while deserializing header|MetadataIncompleteBuffer",
        "the model's weights are damaged or incomplete: copy them again (models.path, {key}.model)",
    ),
    _rule(
        r"Invalid repository ID or local directory|does not appear to have a file named config\.json|Repo id must|"
        r"is not a valid model identifier|RepositoryNotFoundError|LocalEntryNotFoundError|OfflineModeIsEnabled|"
        r"Can't load the configuration of|couldn't connect to '?https://huggingface",
        "its model was found neither as a folder nor at a hub: set models.path or {key}.model",
    ),
    _rule(
        r"Model architectures (\[[^\]]{0,200}\]) (?:are not supported|failed to be inspected)",
        "its vLLM does not know the model's architecture {0}: use another version of vLLM, or another model",
    ),
    _rule(
        r"Unknown quantization method: (\S+?)\.",
        "its vLLM does not know the quantisation {0}: use other weights, or correct {key}.args.quantization",
    ),
    _rule(
        r"((?:[Qq]uantization(?: method)?[^\n]{0,80}(?:not supported|not match|does not support)|"
        r"\S+ is not supported for quantization method)[^\n]{0,120})",
        "its vLLM does not support this quantisation here ({0}): use other weights, or correct {key}.args.quantization",
    ),
    _rule(
        r"Cannot find the config file for (\w+)",
        "the model's weights are not quantised as {0}: remove {key}.args.quantization",
    ),
    _rule(
        r"Bfloat16 is only supported|torch\.bfloat16 is not supported",
        "its device does not support bfloat16: set {key}.args.dtype to half or float",
    ),
    _rule(
        r"no kernel image is available",
        "its vLLM was not built for this GPU: use another build (docs/gpu.md)",
    ),
    _rule(
        r"No CUDA GPUs are available|Found no NVIDIA driver|driver version is insufficient|Failed to infer device type|"
        r"Failed to initialize NVML|NVMLError",
        "it finds no working GPU: check `nvidia-smi`, {key}.env.CUDA_VISIBLE_DEVICES and {key}.python",
    ),
    _rule(
        r"[Aa]ddress already in use",
        "its port is taken: stop the program that listens there (`ss -tlnp`), or set {key}.port",
    ),
    _rule(
        r"No module named '?([\w.]+)'?",
        "its Python has no module {0}: set {key}.python to the interpreter of an environment with vLLM",
    ),
    _rule(
        r"ImportError: (\S+): cannot open shared object file",
        "its environment lacks the library {0}: install it, or set {key}.python to another environment",
    ),
    _rule(r"((?:SettingsError|FolderError|IdentityError): [^\n]+)", "the connector cannot start: {0}"),
)
OTHER_CPUS = "it was built for other CPUs than this host's: install a matching vLLM (`lscpu` lists the CPU features)"
_SIGNALS = {
    SIGILL: OTHER_CPUS,
    SIGKILL: "unless a user killed it, the kernel was out of memory: check `dmesg`",
    SIGBUS: "shared memory is full, or a mapped file was truncated: check `df -h /dev/shm`",
    SIGSEGV: "a bug in the engine or a library: check `dmesg` and the end of its log",
}
_ILLEGAL = re.compile(r"[Ii]llegal instruction")
_FAILED_PROCESS = re.compile(r"Failed core proc\(s\): \{[^}]*: -(\d+)|died with <Signals\.SIG\w+: (\d+)>")
_EXCEPTION = re.compile(r"(?:^|\s)((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception): .+)$")
_SAYS_NOTHING = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|See root cause|stack trace above|"
    r"Engine process failed|EngineDeadError"
)
# Such lines report settings and successes, in words that would mean a fault elsewhere.
_NO_ERROR = re.compile(r"(?:\([^)\n]*\) )?(?:DEBUG|INFO|WARNING)\b")


def lines_of_last_launch(lines: Sequence[str], name: str) -> list[str]:
    """The lines after the last title that the runtime wrote to the log of a service."""
    titles = [index for index, line in enumerate(lines) if line.startswith(f"==== {name}, generation ")]
    return list(lines[titles[-1] + 1 :] if titles else lines)


def program_end(code: int) -> ExitStatus:
    """How a program ended that an engine's environment ran; `code` is negative, or above 128, for a signal."""
    signal = -code if code < 0 else code - 128 if 128 < code <= 128 + 64 else None
    cause = launch_cause((), name="", signal=signal)
    return ExitStatus(code=code if signal is None else None, signal=signal, cause=cause)


def launch_cause(lines: Sequence[str], *, name: str, signal: int | None = None) -> str:
    """Why an engine ended unexpectedly, with the remedy; empty: the log does not show it.

    Args:
        lines: The end of its log, from this launch only.
        name: The service.
        signal: The signal that killed it; None: it exited, or unknown.
    """
    lines = [line for line in lines if not _NO_ERROR.match(line)]
    text = "\n".join(lines)
    if signal is None and (failed := _FAILED_PROCESS.search(text)):
        signal = int(failed[1] or failed[2])
    if signal == SIGILL or (signal is None and _ILLEGAL.search(text)):  # later lines are consequences
        return _SIGNALS[SIGILL]
    for pattern, meaning in _RULES:
        if found := pattern.search(text):
            words = (found.groupdict().get("flags") or "").split()
            flags = ", ".join(word.partition("=")[0] for word in words if word.startswith("-"))
            quoted = [safe_text(group or "").strip()[:_MAX_QUOTE_CHARS] for group in found.groups()]
            if quoted and quoted[0].startswith("-") and is_secret(quoted[0].lstrip("-")):
                quoted[1:] = [HIDDEN] * len(quoted[1:])
            return meaning.format(*quoted, flags=flags or "that is among them", key=f"services.{name}")
    if signal is not None:
        return next((meaning for number, meaning in _SIGNALS.items() if number == signal), "")
    return _last_exception(lines)


def _last_exception(lines: Sequence[str]) -> str:
    """The last informative exception in the log."""
    for line in reversed(lines):
        if (found := _EXCEPTION.search(line)) and not _SAYS_NOTHING.search(line):
            return safe_text(found[1])[:_MAX_QUOTE_CHARS]
    return ""
