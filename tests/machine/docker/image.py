# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Images without a registry: this machine's Python, its libraries and a simulated vLLM, as one tar archive."""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

# What the simulated instance imports, and what that imports.
_PACKAGES = (
    "aiohttp", "multidict", "yarl", "frozenlist", "propcache", "aiosignal", "attr", "idna", "aiohappyeyeballs",
    "typing_extensions", "syshax_sim",
)  # fmt: skip
_PROGRAMS = ("sh", "sleep", "cat", "ls", "rm", "touch", "env", "lscpu", "readlink")
_SITE = "/opt/site"
_SKIPPED = {"test", "site-packages", "__pycache__", "idlelib", "tkinter", "ensurepip", "lib2to3", "turtledemo"}
_VLLM = """#!{python}
import argparse, sys
sys.path.insert(0, "{site}")
from syshax_sim.__main__ import main
parser = argparse.ArgumentParser()
parser.add_argument("command", choices=["serve"])
parser.add_argument("model")
for name in ("served-model-name", "host", "port", "max-num-seqs"):
    parser.add_argument("--" + name)
args, rest = parser.parse_known_args()
print("vllm", *sys.argv[1:], flush=True)
main(["--model", args.served_model_name, "--host", args.host, "--port", args.port, "--max-num-seqs", args.max_num_seqs])
"""
_NVIDIA_SMI = """#!/bin/sh
[ -e /tmp/gpus-lost ] && { echo "Failed to initialize NVML: Unknown Error"; exit 255; }
echo "GPU 0: stub"
"""


def make_tar(path: Path, packages: Sequence[str] = ()) -> None:
    """Writes the image's content: `vllm serve` is the simulator, `nvidia-smi` a stub that /tmp/gpus-lost makes fail.

    Args:
        path: Of the archive.
        packages: Further ones that its `python3` imports.
    """
    python = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    files = dict(_python_files(Path(python)))
    for name in (*_PACKAGES, *packages):
        files.update(_package_files(name))
    programs = [Path(found) for name in _PROGRAMS if (found := shutil.which(name))]
    for program in programs:
        files[f"/usr/bin/{program.name}"] = program.resolve()
    for library in _libraries([*files.values()]):
        files[str(library)] = library.resolve()
    scripts = {
        "/usr/local/bin/vllm": _VLLM.format(python=python, site=_SITE),
        "/usr/local/bin/nvidia-smi": _NVIDIA_SMI,
        "/usr/local/bin/python3": f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{_SITE}" exec {python} "$@"\n',
    }
    with tarfile.open(path, "w") as archive:
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
        for name in ("tmp", "proc", "sys", "dev", "etc", "root", "home"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(folder)
        for inner, source in files.items():
            archive.add(source, _merged(inner).lstrip("/"), recursive=False)
        for inner, text in scripts.items():
            script = tarfile.TarInfo(inner.lstrip("/"))
            script.size, script.mode = len(text.encode()), 0o755
            archive.addfile(script, io.BytesIO(text.encode()))


def _merged(path: str) -> str:
    """`/lib/x` is `/usr/lib/x` where /lib is a link."""
    return re.sub(r"^/(bin|sbin|lib|lib64)/", r"/usr/\1/", path)


def _python_files(python: Path) -> Iterator[tuple[str, Path]]:
    yield str(python), python.resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    for path in _walk(standard):
        if not path.name.endswith((".a", ".pyc")) and not path.parent.name.startswith("config-"):
            yield str(path), path
    for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        yield str(library), library.resolve()


def _package_files(name: str) -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    origin = Path(spec.origin)
    if origin.name != "__init__.py":
        yield f"{_SITE}/{origin.name}", origin
        return
    for folder in (origin.parent, origin.parent.with_name(f"{name}.libs")):
        for path in _walk(folder) if folder.is_dir() else ():
            yield f"{_SITE}/{path.relative_to(folder.parent)}", path


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name not in _SKIPPED:
            yield from _walk(entry)
        elif entry.is_file():
            yield entry


def _libraries(files: Iterable[Path]) -> set[Path]:
    """The shared libraries that programs and modules need, the loader among them."""
    elves = [str(path) for path in files if _is_elf(path)]
    listed = subprocess.run(["ldd", *elves], capture_output=True, text=True).stdout
    found = map(os.path.normpath, re.findall(r"^\s.*?(/\S+) \(0x", listed, re.MULTILINE))
    return {Path(path) for path in found if path not in elves}


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"
