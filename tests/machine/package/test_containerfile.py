# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The container image: built from the Containerfile, and run."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.machine.docker.bed import Bed
from tests.machine.package.machine import BED, ROOT

pytestmark = pytest.mark.timeout(300)
BASE = "python-base:test"
IMAGE = "syshax:test"
WHEELS = "/wheels"
# As in python:3.11-slim, but that packages come from a folder: the engine of this test has no network.
PIP = '#!/bin/sh\nexec python3 -m pip "$@"\n'
PIP_CONFIG = f"[global]\nno-index = true\nfind-links = {WHEELS}\n"
URL = "http://127.0.0.1:8010"
# Whose members may read the configuration on the host; the image does not know it.
GROUP = 4243
CONFIG = """\
models: {{default: ds-32b}}
services:
  gpu: {{runtime: external, port: {0}}}
  cpu: {{runtime: external, port: {1}}}
"""
_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(BED / "containerfile") as bed:
        _make_base(bed, tmp_path_factory.mktemp("base"))
        bed.docker(
            *("build", "--quiet", "--build-arg", f"PYTHON={BASE}", "--tag", IMAGE),
            *("--file", f"{ROOT}/Containerfile", str(ROOT)),
        )
        yield bed


def _make_base(bed: Bed, folder: Path) -> None:
    """Makes an image from the root file system that the package is installed in: Debian's Python, pip, and wheels."""
    packages = folder / "usr/lib/python3/dist-packages"
    shutil.copytree(next((ROOT / "build/tools/lib").glob("python3*/site-packages/pip")), packages / "pip")
    shutil.copytree(ROOT / f"build/wheels/{platform.machine()}", folder / WHEELS.lstrip("/"))
    for path in (BED / "setuptools").glob("*.whl"):
        shutil.copy(path, folder / WHEELS.lstrip("/"))
    for name, text in {"usr/local/bin/pip": PIP, "etc/pip.conf": PIP_CONFIG}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    excluded = [f"--exclude=./{name}" for name in ("usr/share", "var/cache", "var/lib/apt")]
    archive = folder.with_suffix(".tar")
    subprocess.run(["tar", "-c", "-f", archive, *excluded, "-C", f"{BED}/root", "."], check=True, timeout=_TIMEOUT_S)
    bed.docker("import", str(archive), "root:test")
    archive.unlink()
    (folder / "Containerfile").write_text("FROM root:test\nCOPY . /\n")
    bed.docker("build", "--quiet", "--tag", BASE, "--file", f"{folder}/Containerfile", str(folder))


@pytest.fixture(scope="module")
def instances() -> Iterator[list[int]]:
    """Two, started by somebody else. Yields their ports."""
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            argv = [sys.executable, "-u", "-m", "syshax_sim", "--port", "0", "--model", "ds-32b", "--speed", "10"]
            process = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            stack.callback(process.terminate)
            assert process.stdout is not None
            ports.append(int(process.stdout.readline().split()[-1].rpartition(":")[2].strip("/")))
        yield ports


def test_the_image_serves_external_instances_and_stops_cleanly(bed: Bed, instances: list[int], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(*instances))
    config.chmod(0o640)
    os.chown(config, 0, GROUP)
    volumes = ["--volume", f"{config}:/etc/syshax/config.yaml:ro", "--volume", "syshax:/var/lib/syshax"]
    options = ["--network=host", f"--group-add={GROUP}", *volumes]
    assert "is valid" in bed.docker("run", "--rm", *options, IMAGE, "--check-config")
    bed.docker("run", "--detach", "--name=syshax", *options, IMAGE)
    deadline = time.monotonic() + _TIMEOUT_S
    while subprocess.run(["curl", "-sf", f"{URL}/ready?all=1"], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, bed.docker("logs", "syshax")
        time.sleep(0.05)
    assert "READY" in bed.docker("exec", "syshax", "syshaxctl", "status").upper()
    chat = {"model": "ds-32b", "messages": [{"role": "user", "content": "Introduce openEuler."}], "max_tokens": 20}
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions", json.dumps(chat).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == 20
    bed.docker("stop", "--time=30", "syshax")
    assert bed.docker("inspect", "--format", "{{.State.ExitCode}}", "syshax") == "0", bed.docker("logs", "syshax")
