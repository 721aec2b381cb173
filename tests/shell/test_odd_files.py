# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Whatever is in the place of a small file: reading it ends, and costs what was in it and nothing else."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.config import TlsConfig
from syshaxd.core.errors import SyshaxError
from syshaxd.core.weights.plan import CONFIG, INDEX, RECORD
from syshaxd.gateway.tls import Tls
from syshaxd.instances.stopped import StoppedInstances
from syshaxd.observe.access_log import AccessLog, Caller
from syshaxd.runtime.process.record import Record
from syshaxd.system import api_keys, enginefiles, host, planned_gpus, smallfile
from syshaxd.system import weights as weight_files
from syshaxd.system.auto_weights import _read as read_measured

IN_TIME_S = 20.0
TENSOR = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


def _model(path: Path) -> None:
    weights = len(TENSOR).to_bytes(8, "little") + TENSOR + bytes(4)
    (path.parent / "model.safetensors").write_bytes(weights)
    if path.name != CONFIG:
        (path.parent / CONFIG).write_text("{}")


def _checkpoint(path: Path) -> None:
    _model(path)
    weight_files.read_checkpoint(path.parent)


def _weights(path: Path) -> None:
    _model(path)
    host.weights(path.parent)


def _tls(name: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        missing = {part: str(path.parent / "none") for part in ("cert", "key")}
        Tls(TlsConfig(**missing | {name: str(path)}))

    return read


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "stopped instances": ("stopped.json", StoppedInstances.load),
    "planned GPUs": ("gpus.json", planned_gpus.read),
    "a process's record": ("process.json", Record.read),
    "API keys": ("keys.json", api_keys._read),
    "measured weights": ("weights/measured.json", lambda _: read_measured()),
    "what weights were made of": (RECORD, lambda path: weight_files.record_of(path.parent)),
    "a model that is quantised": (CONFIG, _checkpoint),
    "its index": (INDEX, _checkpoint),
    "a model that is planned": (CONFIG, _weights),
    "a model that is compared": (CONFIG, lambda path: enginefiles._model_identity(path.parent)),
    "a certificate": ("tls.pem", _tls("cert")),
    "its key": ("tls.pem", _tls("key")),
    "clients' certificates": ("tls.pem", _tls("client_ca")),
}


def _huge(path: Path) -> None:
    path.touch(0o600)
    os.truncate(path, 1 << 40)


ODD: dict[str, Callable[[Path], object]] = {
    "a pipe that nobody writes to": lambda path: os.mkfifo(path, 0o600),
    "a folder": Path.mkdir,
    "a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "holes without end": _huge,
    "deep JSON": lambda path: path.write_text('{"a":' + "[" * 100_000),
    "a number without end": lambda path: path.write_text("9" * 100_000),
    "no UTF-8": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "nothing": Path.touch,
    "null": lambda path: path.write_text("null"),
    "a list of lists": lambda path: path.write_text("[[{}], [{}]]"),
}


async def _ends(call: Callable[[], object], pipe: Path) -> None:
    """Calls what may raise an error of ours and no other, and may not block."""
    task = asyncio.create_task(asyncio.to_thread(call))
    done, _ = await asyncio.wait((task,), timeout=IN_TIME_S)
    if not done:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))  # so that its thread ends
    with suppress(SyshaxError):
        await task
    assert done, "it blocked"


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("reader", READERS)
async def test_whatever_is_in_its_place(reader: str, odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    ODD[odd](path)
    if path.is_file() and not path.is_symlink():
        path.chmod(0o600)
    await _ends(lambda: read(path), path)


def test_a_file_of_usual_size_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    assert smallfile.read(path) == b"x" * (1 << 20)


async def test_a_pipe_that_nobody_reads_does_not_keep_the_access_log_from_ending(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    log = AccessLog(str(pipe))
    log.refused(Caller(client="10.0.0.9", method="POST", path="/", model="m", key=""), "id", 401)
    await _ends(lambda: log._write(log._take()), pipe)
    assert "cannot be written" in caplog.text
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log.refused(Caller(client="10.0.0.9", method="POST", path="/", model="m", key=""), "other", 401)
    await _ends(lambda: log._write(log._take()), pipe)
    assert b'"other"' in os.read(reader, 10_000)
    os.close(reader)
