# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs kernels of vLLM for CPUs that every model uses. Its text is run by the engine's interpreter.

If they were built for other CPUs than this host's, the process ends with SIGILL. Importing vLLM itself takes ten times
as long, and importing a library runs none of its kernels. The argument is the data type of the model.
"""

import importlib
import importlib.util
import platform
import sys
from pathlib import Path
from typing import Any

_COLUMNS = 256


def main() -> None:
    """Raises what keeps it from running them: then nothing is known."""
    torch = importlib.import_module("torch")
    found = importlib.util.find_spec("vllm")  # does not import it
    assert found is not None
    assert found.origin is not None
    torch.ops.load_library(str(Path(found.origin).with_name(f"{_library(torch)}.abi3.so")))
    for dtype in (torch.float32, getattr(torch, sys.argv[1])):
        rows = torch.ones(4, _COLUMNS, dtype=dtype)
        torch.ops._C.rms_norm(torch.empty_like(rows), rows, torch.ones(_COLUMNS, dtype=dtype), 1e-6)
        torch.ops._C.silu_and_mul(torch.empty(4, _COLUMNS // 2, dtype=dtype), rows)


def _library(torch: Any) -> str:
    """The one that vLLM chooses (vllm/platforms/cpu.py)."""
    if platform.machine() != "x86_64":
        return "_C"
    if not torch.cpu._is_avx512_supported():
        return "_C_AVX2"
    return "_C" if torch.cpu._is_avx512_bf16_supported() else "_C_AVX512"


if __name__ == "__main__":
    main()
