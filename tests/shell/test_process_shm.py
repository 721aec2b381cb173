# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What is removed from /dev/shm after an instance: what it surely made, and nothing else."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syshaxd.runtime.process import procfs, shm
from syshaxd.runtime.process.shm import FOLDER, File
from tests.fakes.specs import make_spec

# Opens the files as it is told, says so, and keeps them until it is ended.
USER = """
import mmap, os, signal, sys
kept = []
for order in sys.argv[1:]:
    how, path = order.split(":", 1)
    fd = os.open(path, os.O_RDONLY if "r" in how else os.O_RDWR | os.O_CREAT, 0o600)
    if "c" in how:
        os.truncate(fd, 4096)
    if "m" in how or "p" in how:
        access = {"rm": mmap.PROT_READ, "wm": mmap.PROT_READ | mmap.PROT_WRITE}.get(how[:2], 3)
        kept.append(mmap.mmap(fd, 4096, mmap.MAP_PRIVATE if "p" in how else mmap.MAP_SHARED, access))
        os.close(fd)
print("ready", flush=True)
signal.pause()
"""


@contextmanager
def user(*orders: str) -> Iterator[procfs.Process]:
    """A process that has files open: `r:PATH`, `w:PATH`, and mapped with `m` (shared) or `p` (private)."""
    with subprocess.Popen([sys.executable, "-c", USER, *orders], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            found = procfs.find(process.pid)
            assert found is not None
            yield found
        finally:
            process.send_signal(signal.SIGKILL)


@pytest.fixture
def named() -> Iterator[Callable[[str], Path]]:
    """Names in /dev/shm that no other test has; what gets them is removed after the test."""
    paths: list[Path] = []

    def name(pattern: str) -> Path:
        paths.append(FOLDER / pattern.replace("?", secrets.token_hex(4)))
        return paths[-1]

    yield name
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            rmtree(path)
        else:
            path.unlink(missing_ok=True)


def filled(path: Path) -> Path:
    path.write_bytes(bytes(4096))
    path.chmod(0o600)
    return path


def noted(path: Path) -> File:
    return File(path.name, path.lstat().st_ino)


ENGINES_NAMES = (
    "psm_?",
    "torch_42_1234_7",
    "nccl-Ab3dE9",
    "cuda.shm.0.1a2b.3",
    "__KMP_REGISTERED_LIB_4242_0",
    "vllm_offload_?.mmap",
    "vllm_ec_?.mmap",
    "41235-tp:0-[0-1]-cpushm_0",
)


@pytest.mark.parametrize("name", ENGINES_NAMES)
def test_what_engines_make_is_removed_once_nobody_has_it(name: str, named: Callable[[str], Path]) -> None:
    path = named(name)
    with user(f"wc:{path}") as engine:
        files = shm.written_by([engine])
        assert {file.name for file in files} == {path.name}
        assert shm.remove_unused(files, ()) == (0, 0)
    assert shm.remove_unused(files, ()) == (1, 4096)
    assert not path.exists()


@pytest.mark.parametrize("how", ["w", "wm"])
def test_open_for_writing_and_mapped_to_write_are_evidence(how: str, named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    with user(f"{how}:{path}") as engine:
        assert shm.written_by([engine]) == {noted(path)}


@pytest.mark.parametrize("how", ["r", "rm", "rp"])
def test_reading_is_no_evidence(how: str, named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    with user(f"{how}:{path}") as engine:
        assert shm.written_by([engine]) == frozenset()


@pytest.mark.parametrize("how", ["r", "w", "rm", "wm", "rp"])
@pytest.mark.parametrize(
    "name", ["model-?.safetensors", "?.gguf", "psm_?.safetensors", "my-psm_?", "sem.mine-?", "torch_model_?", "vllm_?"]
)
def test_other_names_are_never_noted(name: str, how: str, named: Callable[[str], Path]) -> None:
    path = filled(named(name))
    with user(f"{how}:{path}") as engine:
        assert shm.written_by([engine]) == frozenset()
    assert shm.remove_unused([noted(path)], ()) == (0, 0)
    assert path.exists()


def test_nothing_in_a_folder_is_noted(named: Callable[[str], Path]) -> None:
    folder = named("models-?")
    folder.mkdir()
    path = filled(folder / "psm_0123abcd")
    with user(f"w:{path}", f"wm:{path}") as engine:
        assert shm.written_by([engine]) == frozenset()
    assert shm.remove_unused([File(f"{folder.name}/{path.name}", path.stat().st_ino)], ()) == (0, 0)
    assert path.exists()


def test_what_was_there_before_the_launch_stays(named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    spared = shm.spared(make_spec())
    with user(f"w:{path}") as engine:
        files = shm.written_by([engine])
    assert shm.remove_unused(files, spared) == (0, 0)
    assert path.exists()


@pytest.mark.parametrize("key", ["model", "argv", "flag", "env", "link"])
def test_what_the_settings_name_stays(key: str, named: Callable[[str], Path], tmp_path: Path) -> None:
    path = named("psm_?")
    (tmp_path / "link").symlink_to(path)
    spec = {
        "model": replace(make_spec(), model=str(path)),
        "argv": make_spec(argv=("python", "--chat-template", str(path))),
        "flag": make_spec(argv=("python", f"--chat-template={path}")),
        "env": make_spec(env=(("TEMPLATE", str(path)),)),
        "link": replace(make_spec(), model=str(tmp_path / "link")),
    }[key]
    spared = shm.spared(spec)
    filled(path)
    assert shm.remove_unused([noted(path)], spared) == (0, 0)
    assert path.exists()


def test_where_the_model_is_in_the_folder_itself_everything_stays(named: Callable[[str], Path]) -> None:
    spared = shm.spared(replace(make_spec(), model="/dev/shm"))
    path = filled(named("psm_?"))
    assert shm.remove_unused([noted(path)], spared) == (0, 0)


def test_settings_that_are_no_paths_are_no_matter() -> None:
    shm.spared(replace(make_spec(), model="/a\0b", argv=("python", "x" * 5000, "/" + "y" * 5000)))


def test_a_name_that_means_another_file_now(named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    before = noted(path)
    other = filled(named("psm_?"))
    other.replace(path)
    assert shm.remove_unused([before], ()) == (0, 0)
    assert path.exists()


def test_links_stay_and_so_does_what_they_lead_to(named: Callable[[str], Path], tmp_path: Path) -> None:
    target = filled(tmp_path / "weights")
    soft, hard, beside = named("psm_?"), named("psm_?"), filled(named("weights-?"))
    soft.symlink_to(target)
    hard.hardlink_to(beside)
    assert shm.remove_unused([noted(soft), File(soft.name, target.stat().st_ino), noted(hard)], ()) == (0, 0)
    assert soft.is_symlink()
    assert hard.exists()
    assert target.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_files_of_other_users_stay_even_for_root(named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    os.chown(path, 65534, 65534)
    with user(f"w:{path}") as engine:
        files = shm.written_by([engine])
    assert shm.remove_unused(files, ()) == (0, 0)
    assert path.exists()


@pytest.mark.parametrize("how", ["r", "w", "rm", "wm", "rp"])
def test_what_somebody_has_open_stays(how: str, named: Callable[[str], Path]) -> None:
    path = filled(named("psm_?"))
    with user(f"{how}:{path}"):
        assert shm.remove_unused([noted(path)], ()) == (0, 0)
    assert path.exists()


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder"])
def test_what_is_no_plain_file_stays(kind: str, named: Callable[[str], Path]) -> None:
    path = named("psm_?")
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            os.mknod(path, 0o140600)
    assert shm.remove_unused([noted(path)], ()) == (0, 0)
    assert path.exists()


@given(st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=40))
def test_names_that_people_give_are_not_engines(name: str) -> None:
    with suppress(OSError, ValueError):
        assert shm.remove_unused([File(name, 1)], ()) == (0, 0)


def test_memory_of_python_itself_is_known() -> None:
    """The name is one that Python really gives."""
    code = (
        "import signal; from multiprocessing.shared_memory import SharedMemory as S; m = S(create=True, size=4096);"
        "print(m.name, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        memory = process.stdout.readline().strip()
        found = procfs.find(process.pid)
        assert found is not None
        assert {file.name for file in shm.written_by([found])} == {memory}
        process.send_signal(signal.SIGTERM)
