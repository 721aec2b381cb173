# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from syshaxd import __version__
from syshaxd.cli.syshax import main
from syshaxd.core.config import Config, describe
from syshaxd.system import configfile

BIN = Path(sys.executable).parent


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "etc" / "config.yaml"
    monkeypatch.setenv("SYSHAX_CONFIG", str(path))
    return path


def syshax(*words: str) -> Result:
    return CliRunner().invoke(main, list(words), catch_exceptions=False)


def done(*words: str) -> str:
    result = syshax(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> str:
    result = syshax(*words)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    return result.stderr


def test_the_basic_configuration_of_the_readme(path: Path) -> None:
    done("init")
    done("config", "services.gpu.port", "8001")
    done("config", "services.cpu.port", "8002")
    done("config", "services.conductor.port", "8010")
    done("config", "models.default", "ds-32b")
    config = configfile.load(path)
    services = config.services
    assert (services.gpu.port, services.cpu.port, services.conductor.port) == (8001, 8002, 8010)
    assert config.models.default == "ds-32b"
    assert done("check-config") == f"{path} is valid. Instances: gpu, cpu.\n"


def test_init_does_not_overwrite(path: Path) -> None:
    assert str(path) in done("init")
    done("config", "models.default", "mine")
    assert refused("init") == f"Error: {path} already exists; --force replaces it\n"
    assert configfile.load(path).models.default == "mine"
    done("init", "--force")
    assert configfile.load(path) == Config()


def test_another_file(path: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "other.yaml")
    done("init", "--config", other)
    done("config", "--config", other, "models.default", "x")
    assert done("config", "models.default", "--config", other) == "x\n"
    assert not path.exists()


def test_one_value(path: Path) -> None:
    done("init")
    assert done("config", "services.gpu.port") == "8001\n"
    result = syshax("config", "services.gpu.max_num_seqs")
    assert result.stdout == "256\n"
    assert result.stderr == f"services.gpu.max_num_seqs is not set in {path}; that is the default\n"
    result = syshax("config", "services.gpu.cores")
    assert (result.stdout, result.stderr) == ("\n", f"services.gpu.cores is not set in {path}\n")


def test_what_is_set(path: Path) -> None:
    done("init")
    done("config", "services.cpu.args.x", "[1, 2]", "services.cpu.args.flag", "true")
    lines = done("config").splitlines()
    assert "services.gpu.port 8001" in lines
    assert "services.cpu.args.x [1, 2]" in lines
    assert "services.cpu.args.flag true" in lines
    path.write_text("services:\n")
    result = syshax("config")
    assert (result.stdout, result.stderr) == ("", f"{path} sets no keys: all have their defaults\n")


def test_secrets_are_shown_only_when_asked_for(path: Path) -> None:
    done("init")
    assert "s3cret" not in done("config", "services.cpu.env.HF_TOKEN", "s3cret")
    assert "services.cpu.env.HF_TOKEN (hidden)\n" in done("config")
    assert done("config", "services.cpu.env.HF_TOKEN") == "s3cret\n"


def test_a_key_goes_back_to_its_default(path: Path) -> None:
    done("init")
    assert done("config", "monitor.interval_s", "3") == "monitor.interval_s is set\n"
    assert done("config", "--unset", "monitor.interval_s") == "monitor.interval_s has its default\n"
    assert configfile.load(path).monitor.interval_s == 1.0


def test_all_that_is_wrong_is_said_and_nothing_done(path: Path) -> None:
    done("init")
    before = path.read_text()
    message = refused("config", "services.gpu.prot", "1", "services.gpu.port", "abc", "services.cpu.device", "npu")
    assert message == (
        f"Error: {path}:\n"
        "  services.gpu.prot: no such key; did you mean services.gpu.port?\n"
        '  services.gpu.port: must be a whole number from 1 to 65535, not "abc"\n'
        '  services.cpu.device: must be cuda or cpu, not "npu"\n'
    )
    assert path.read_text() == before


@pytest.mark.parametrize(
    "words", [("config", "gpu.prot"), ("config", "gpu.prot", "1"), ("config", "--unset", "services.gpu.prot")]
)
def test_the_nearest_key_is_named(path: Path, words: tuple[str, ...]) -> None:
    done("init")
    assert "services.gpu.prot: no such key; did you mean services.gpu.port?" in refused(*words)


@pytest.mark.parametrize(
    "words", [("config",), ("config", "models.default"), ("config", "models.default", "x"), ("check-config",)]
)
def test_without_a_file(path: Path, words: tuple[str, ...]) -> None:
    assert refused(*words) == f"Error: {path}:\n  no such file; `syshax init --config {path}` creates it\n"


def test_check_config_names_every_fault(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("services:\n  gpu:\n    port: 0\n    nonsense: 1\n")
    message = refused("check-config")
    assert "services.gpu.port: must be" in message
    assert "services.gpu.nonsense: no such key" in message


def test_check_config_knows_what_the_launch_refuses(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("services:\n  cpu:\n    args: {port: 3}\n")
    assert "services.cpu.args.port" in refused("check-config")


@pytest.mark.parametrize(
    "words", [("config", "a", "b", "c"), ("config", "a", "--unset", "b"), ("config", "--what"), ("fly",)]
)
def test_wrong_usage(path: Path, words: tuple[str, ...]) -> None:
    assert syshax(*words).exit_code == 2


def test_help_lists_every_key(path: Path) -> None:
    text = " ".join(done("config", "--help").split())
    for key in describe():
        default = f"; default: {key.default}" if key.default else ""
        assert " ".join(f"{key.name} {key.meaning} [{key.allowed}{default}]".split()) in text


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_examples(command: str) -> None:
    assert f"Examples:\n    syshax {command}" in done(command, "--help")


# The words of upstream sysHAX 0.2.


def test_short_keys(path: Path) -> None:
    done("init")
    assert done("config", "gpu.port", "9001", "model", "ds-32b") == (
        "services.gpu.port is set\nmodels.default is set\n"
    )
    done("config", "maxtokens", "32", "temperature", "0.5", "conductor.port", "9010")
    config = configfile.load(path)
    assert (config.services.gpu.port, config.services.conductor.port) == (9001, 9010)
    assert (config.models.default, config.models.params.test_tokens) == ("ds-32b", 32)
    assert done("config", "gpu.port") == "9001\n"
    done("config", "--unset", "gpu.port")
    assert configfile.load(path).services.gpu.port == 8001


def test_one_host_for_all(path: Path) -> None:
    done("init")
    done("config", "host", "10.0.0.7")
    assert done("config", "host") == "10.0.0.7\n" * 3
    assert done("interfaces") == (
        "gpu: http://10.0.0.7:8001\ncpu: http://10.0.0.7:8002\nconductor: http://10.0.0.7:8010\n"
    )
    done("config", "host", "::1")
    assert "cpu: http://[::1]:8002\n" in done("interfaces")


def test_the_model(path: Path) -> None:
    done("init")
    done("config", "model", "ds-32b", "maxtokens", "64")
    assert done("model") == "model name: ds-32b\nmax_tokens: 64\ntemperature: 0\n"


def test_files_take_no_short_keys(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("gpu: {port: 8001}\n")
    assert "gpu: no such key; did you mean services.gpu?" in refused("check-config")


def test_version() -> None:
    assert done("--version") == f"syshax, version {__version__}\n"


# The program itself.


def program(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / "syshax", *words], capture_output=True, text=True, check=False, env=os.environ)


def test_the_programs_exit_codes(path: Path) -> None:
    assert program("init").returncode == 0
    assert program("init").returncode == 1
    assert program("what").returncode == 2


def test_run_is_the_daemon(path: Path) -> None:
    result = program("run", "--log-level", "loud")
    assert result.returncode == 2
    assert "Usage: syshaxd" in result.stderr
    done("init")
    assert program("run", "--check-config").returncode == 0
    path.write_text("x: 1\n")
    result = program("run")
    assert result.returncode == 1
    assert f"{path}:\n  x: no such key" in result.stderr


@pytest.mark.parametrize("value", ["-1", "-0.5", "-h5", "-x", "--flag", "--conf", "-", "-1,-2"])
def test_a_value_may_begin_with_a_dash(path: Path, value: str) -> None:
    done("init")
    done("config", "services.gpu.args.seed", value)
    assert done("config", "services.gpu.args.seed") == f"{value}\n"
    done("config", "services.cpu.args.seed", value, "services.gpu.args.seed", "1", "--config", str(path))
    assert done("config", "--config", str(path), "services.cpu.args.seed") == f"{value}\n"


@pytest.mark.parametrize("value", ["--config", "--unset", "--", "-h"])
def test_after_two_dashes_anything_is_a_value(path: Path, value: str) -> None:
    done("init")
    done("config", "--", "services.gpu.args.seed", value)
    assert done("config", "services.gpu.args.seed") == f"{value}\n"


def test_a_misspelt_option_is_told(path: Path) -> None:
    done("init")
    result = syshax("config", "--unst", "services.gpu.port")
    assert result.exit_code == 2
    assert "No such option" in result.stderr
