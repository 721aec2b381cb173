# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.core.launch.launch_faults import launch_cause, lines_of_last_launch

RECORDED = Path(__file__).parent / "data" / "launch_logs"
WRAPPER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)

TEXTS = (
    (
        "x.py: error: unrecognized arguments: --max-modle-len 8 --x=1",
        "does not know the arguments --max-modle-len, --x:",
    ),
    ("api_server.py: error: argument --dtype: invalid choice: 'bf17'", "rejects --dtype (invalid choice: 'bf17')"),
    (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
        "no memory left for its KV cache: raise services.gpu.args.gpu-memory-utilization",
    ),
    (
        (
            "with the model's max seq len (131072), (16.0 GiB KV cache is needed, which is larger than the available "
            "KV cache memory (3.42 GiB). Based on the available memory, the estimated maximum model length is 28016."
        ),
        "tokens takes 16.0 GiB, but only 3.42 GiB are available: lower services.gpu.args.max-model-len",
    ),
    (
        "ValueError: Free memory on device cuda:0 (1.5/79.1 GiB) on startup is less than desired GPU memory",
        "its GPU is in use: 1.5 of 79.1 GiB are free",
    ),
    (
        "ValueError: Available memory on node 1 (2.1/31.2 GiB) on startup is less than desired CPU memory utilization",
        "too little memory on NUMA node 1: 2.1 of 31.2 GiB are free",
    ),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "its GPU's memory is full"),
    ("RuntimeError: CUDA error: out of memory", "its GPU's memory is full"),
    ("RuntimeError: [enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory", "host's memory"),
    ("OSError: [Errno 28] No space left on device: '/psm_01234567'", "df -h /dev/shm"),
    (
        (
            "  Value error, User-specified max_model_len (1000000) is greater than the derived max_model_len "
            "(max_position_embeddings=2048.0 or model_max_length=None in model's config.json)."
        ),
        "max-model-len is 1000000, but the model supports at most 2048",
    ),
    ("  Value error, Invalid repository ID or local directory specified: 'some/model'.", "its model was found neither"),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", "its model was found neither"),
    ("OSError: You are trying to access a gated repo.", "accept its licence and set services.gpu.env.HF_TOKEN"),
    ("RuntimeError: Cannot find any model weights with `/m/tiny`", "contains no weights"),
    ("safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge", "damaged or incomplete"),
    (
        "ValueError: Model architectures ['NewForCausalLM'] are not supported for now.",
        "['NewForCausalLM']: use",
    ),
    ("  Value error, Unknown quantization method: q5. Must be one of ['awq']", "does not know the quantisation q5:"),
    ("ValueError: The quantization method awq is not supported for the current GPU. Minimum capability: 75.", "awq is"),
    (
        "ValueError: torch.float32 is not supported for quantization method awq. Supported",
        "correct services.gpu.args.qu",
    ),
    ("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.", "args.dtype to half"),
    ("ValueError: The repository /m contains custom code which must be executed. pass trust_remote_code=True", "trust"),
    ("RuntimeError: CUDA error: no kernel image is available for execution on the device", "not built for this GPU"),
    ("RuntimeError: Failed to infer device type, please set the environment variable", "finds no working GPU"),
    ("OSError: [Errno 98] error while attempting to bind on address: address already in use", "its port is taken"),
    ("/usr/bin/python3: No module named vllm", "no module vllm: set services.gpu.python"),
    ("ModuleNotFoundError: No module named 'vllm.entrypoints'", "no module vllm.entrypoints"),
    ("ImportError: libcudart.so.12: cannot open shared object file: No such file", "lacks the library libcudart.so.12"),
    ("RuntimeError: Failed core proc(s): {'EngineCore_DP0': -4}", "built for other CPUs"),
    ("RuntimeError: Failed core proc(s): {'EngineCore_DP0': -9}", "out of memory: check `dmesg`"),
    (
        (
            "CalledProcessError: Command '['/venv/bin/python']' died with <Signals.SIGILL: 4>.\n"
            "ValueError: Model architectures ['LlamaForCausalLM'] failed to be inspected."
        ),
        "built for other CPUs",
    ),
    ("ValueError: something quite new", "ValueError: something quite new"),
)


@pytest.mark.parametrize(("line", "cause"), TEXTS, ids=[line[:40] for line, _ in TEXTS])
def test_what_the_log_says(line: str, cause: str) -> None:
    assert cause in launch_cause(["INFO: begins", line, "INFO: more", WRAPPER], name="gpu")


CAUSES = {
    "arch": "does not know the model's architecture ['NewForCausalLM']",
    "argument": "does not know the arguments --max-modle-len: correct services.gpu.args",
    "awq": "the model's weights are not quantised as awq",
    "choice": "rejects --dtype (invalid choice: 'bf17'",
    "connector": "the connector cannot start: SettingsError: arena_dir: an absolute path is wanted",
    "custom": "the model contains code",
    "cut": "weights are damaged or incomplete",
    "damaged": "weights are damaged or incomplete",
    "empty": "the model's folder contains no weights",
    "hub": "its model was found neither",
    "kvsmall": "too little memory for its KV cache: one request of 2048 tokens takes",
    "maxlen": "max-model-len is 1000000, but the model supports at most 4096",
    "memory": "too little memory on NUMA node 0: 20.86 of 23.59 GiB are free",
    "noconfig": "its model was found neither",
    "nomodule": "no module vllm: set services.gpu.python",
    "port": "its port is taken",
    "quantization": "does not know the quantisation q5",
}
"""What vLLM 0.32 for CPUs said when it was given such a fault; frames of tracebacks are left out of the logs."""


@pytest.mark.parametrize("log", sorted(RECORDED.glob("*.log")), ids=lambda log: log.stem)
def test_recorded_logs(log: Path) -> None:
    assert CAUSES[log.stem] in launch_cause(log.read_text().splitlines(), name="gpu")


def test_settings_that_a_log_repeats_are_no_cause() -> None:
    lines = [
        "(APIServer pid=7) INFO 11-28 15:12:50 [api_utils.py:286] non-default args: {'trust_remote_code=True': 1}",
        "(EngineCore pid=9) WARNING 11-28 15:12:50 [x.py:1] can cause errors like [Errno 28] No space left on device",
        "INFO:     Shutting down: address already in use",
    ]
    assert launch_cause(lines, name="gpu") == ""


@pytest.mark.parametrize(("signal", "cause"), [(4, "other CPUs"), (9, "dmesg"), (7, "/dev/shm"), (11, "dmesg")])
def test_what_a_signal_says(signal: int, cause: str) -> None:
    assert cause in launch_cause(["INFO: all is well"], name="gpu", signal=signal)


@pytest.mark.parametrize("signal", [9, 7, 11])
def test_the_log_says_more_than_a_signal(signal: int) -> None:
    assert "no memory left" in launch_cause(["No available memory for the cache blocks"], name="gpu", signal=signal)


@pytest.mark.parametrize("signal", [None, 15, 34])
def test_a_log_that_tells_nothing(signal: int | None) -> None:
    assert launch_cause(["INFO: all is well", WRAPPER], name="gpu", signal=signal) == ""


@pytest.mark.parametrize(
    "line",
    [
        "error: unrecognized arguments: --api-kee hunter2hunter2",
        "error: argument --api-key: invalid value: hunter2hunter2",
        "ValueError: cannot open https://me:hunter2hunter2@example.org/model",
        "OSError: token=hunter2hunter2 is refused",
    ],
)
def test_secrets_are_not_shown(line: str) -> None:
    assert "hunter2" not in launch_cause([line], name="gpu")


@given(st.lists(st.text()), st.none() | st.integers(1, 64))
def test_any_log_is_read(lines: list[str], signal: int | None) -> None:
    launch_cause(lines, name="gpu", signal=signal)


def test_only_the_last_launch_counts() -> None:
    lines = ["a", "==== gpu, generation 1, now: x", "b", "==== gpu, generation 2, now: x", "c"]
    assert lines_of_last_launch(lines, "gpu") == ["c"]
    assert lines_of_last_launch(lines, "cpu") == lines
