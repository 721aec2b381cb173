# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import itertools
import multiprocessing
import os
import pwd
import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from syshaxd.cli.syshax import main as syshax
from syshaxd.core.config import Config, get_value, parse, parse_text, set_value, unset_value
from syshaxd.core.errors import ConfigError, ConflictError, SyshaxError
from syshaxd.instances import binder
from syshaxd.system import configfile, replacing
from syshaxd.system.api_keys import ApiKeys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


@pytest.fixture
def made(path: Path) -> Path:
    configfile.create(path, force=False)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configfile.load(path)
    return [str(fault) for fault in caught.value.faults]


# Reading


def test_the_initial_file_says_what_the_defaults_are(made: Path) -> None:
    assert configfile.load(made) == Config()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "services:\n"])
def test_an_empty_file_is_usable(path: Path, text: str) -> None:
    assert configfile.load(written(path, text)) == Config()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [\n", "line 2, column 1: while parsing a flow node expected the node content, but found '<stream end>'"),
        ("a:\n\tb: 1\n", "line 2, column 1: a tab; YAML is indented with spaces only"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("services:\n  gpu:\n    port: 1\n    port: 2\n", "line 4, column 5: the key 'port' appears twice"),
        ("a: 1\n---\nb: 1\n", "line 2, column 1: expected a single document in the stream but found another document"),
        ("a: *b\n", "line 1, column 4: found undefined alias; quote values that begin with * or !"),
        ("- a\n", "must be a mapping of sections such as `services:`"),
        ("a: \0\n", "is not YAML: special characters are not allowed"),
        ("x: 1\n", "x: no such key; `syshax config --help` lists all"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(path: Path, text: str, fault: str) -> None:
    assert faults_of(written(path, text)) == [fault]


def test_a_secret_that_is_there_twice_is_not_shown(path: Path) -> None:
    text = "services:\n  cpu:\n    env:\n      HF_TOKEN: s3cret\n      HF_TOKEN: s3cret2\n"
    assert faults_of(written(path, text)) == ["line 5, column 7: the key 'HF_TOKEN' appears twice"]


def test_a_file_in_another_encoding(path: Path) -> None:
    path.write_bytes("models:\n  default: größe\n".encode("latin-1"))
    assert faults_of(path) == ["is not UTF-8 text (byte 22)"]


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    assert faults_of(path) == [f"no such file; `syshax init --config {path}` creates it"]


def test_a_line_for_each_fault_below_the_files_name(path: Path) -> None:
    written(path, "services:\n  gpu:\n    port: 0\n    prot: 1\n")
    with pytest.raises(ConfigError) as caught:
        configfile.load(path)
    assert configfile.fault_text(path, caught.value).splitlines() == [
        f"{path}:",
        "  services.gpu.port: must be a whole number from 1 to 65535, not 0",
        "  services.gpu.prot: no such key; did you mean services.gpu.port?",
    ]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert faults_of(tmp_path) == ["cannot be read: Is a directory"]


def test_merged_and_special_values_are_read(path: Path) -> None:
    text = """\
services:
  gpu: {port: 0x1F41, enabled: yes, env: &both {A: 1}}
  cpu:
    env:
      <<: *both
      B: "2"
"""
    services = configfile.load(written(path, text)).services
    assert services.gpu.port == 8001
    assert services.cpu.env == {"A": 1, "B": "2"}


# Making


def test_a_new_file_is_not_for_everybody(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o640


def test_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config.yaml"
    configfile.create(path, force=False)
    assert configfile.load(path) == Config()


def test_an_existing_file_is_replaced_only_by_force(path: Path) -> None:
    written(path, "mine")
    with pytest.raises(ConflictError, match=r"already exists; --force replaces it"):
        configfile.create(path, force=False)
    assert path.read_text() == "mine"
    configfile.create(path, force=True)
    assert configfile.load(path) == Config()


# Editing

_COMMENTED = """\
# top
services:
  # before gpu
  gpu:
    runtime: external   # who starts it
    port: 8001  # where

  # before cpu
  cpu:
    port: 0x1F42
    env:
      "A": 'one'

# before models
models:
  default: größe
# end
"""


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"services.gpu.port": "9001"}, "port: 8001  #", "port: 9001  #"),
        ({"services.gpu.python": "/p"}, "# where\n", "# where\n    python: /p\n"),
        ({"services.cpu.env.A": "two"}, "'one'", "'two'"),
        ({"services.cpu.env.B": "007"}, "'one'\n", "'one'\n      B: '007'\n"),
        ({"services.cpu.args.x": '[1, "a"]'}, "'one'\n", "'one'\n    args:\n      x: [1, a]\n"),
        ({"monitor.interval_s": "2"}, "# end\n", "monitor:\n  interval_s: 2.0\n# end\n"),
        ({"services.gpu.port": None}, "    port: 8001  # where\n", ""),
        ({"services.cpu.env.A": None}, "    env:\n      \"A\": 'one'\n", "    env:\n"),
        ({"services.gpu.runtime": None}, "    runtime: external   # who starts it\n", ""),
        ({"services.cpu.cores": None}, "", ""),
    ],
)
def test_an_edit_changes_only_its_lines(path: Path, changes: dict[str, str | None], old: str, new: str) -> None:
    written(path, _COMMENTED)
    configfile.edit(path, changes)
    got = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    assert got == [line.split() for line in _COMMENTED.replace(old, new).splitlines()]


def test_comments_survive_a_section_that_is_emptied_and_filled_again(made: Path) -> None:
    gpu = ("services.gpu.runtime", "services.gpu.host", "services.gpu.port")
    configfile.edit(made, dict.fromkeys(gpu))
    configfile.edit(made, {"services.gpu.port": "9001"})
    assert "  gpu:\n    port: 9001\n\n  # The vLLM in the role `cpu`.\n  cpu:\n" in made.read_text()


def test_several_keys_go_together(made: Path) -> None:
    with pytest.raises(ConfigError):
        configfile.edit(made, {"services.gpu.port": "8002"})
    configfile.edit(made, {"services.gpu.port": "8002", "services.cpu.port": "8001"})
    services = configfile.load(made).services
    assert (services.gpu.port, services.cpu.port) == (8002, 8001)


def test_a_refused_edit_names_every_fault_and_changes_nothing(made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(ConfigError) as caught:
        configfile.edit(
            made,
            {
                "models.default": "good",
                "services.gpu.port": "70000",
                "services.gpu.prot": "1",
                "services.cpu.cores": "4-1",
            },
        )
    assert {fault.key for fault in caught.value.faults} == {
        "services.gpu.port",
        "services.gpu.prot",
        "services.cpu.cores",
    }
    assert made.read_bytes() == before


def test_arguments_that_the_launch_refuses_are_refused(made: Path) -> None:
    with pytest.raises(ConfigError, match=r"services\.cpu\.args\.port"):
        configfile.edit(made, {"services.cpu.args.port": "3"})


def test_a_faulty_file_can_be_mended(path: Path) -> None:
    written(path, "services:\n  gpu:\n    port: 0\n    # why\n    runtime: podman\n")
    with pytest.raises(ConfigError, match=r"services\.gpu\.runtime"):
        configfile.edit(path, {"services.gpu.port": "8001"})
    configfile.edit(path, {"services.gpu.port": "8001", "services.gpu.runtime": None})
    assert configfile.load(path) == Config()
    assert "# why" in path.read_text()


def test_a_file_that_cannot_be_read_is_not_edited(path: Path) -> None:
    written(path, "a: [\n")
    with pytest.raises(ConfigError, match="line 2"):
        configfile.edit(path, {"models.default": "x"})
    assert path.read_text() == "a: [\n"


# Writing


def test_a_write_that_fails_leaves_the_old_file(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = made.read_bytes()
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(ConfigError, match=f"cannot be written in the folder {made.parent}: No space left on device"):
        configfile.edit(made, {"models.default": "other"})
    assert made.read_bytes() == before
    assert os.listdir(made.parent) == [made.name]


def test_a_missing_right_is_told_with_whose_it_is(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_allowed(descriptor: int) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", not_allowed)
    who = pwd.getpwuid(os.geteuid()).pw_name
    with pytest.raises(ConfigError, match=f"Permission denied for the user {who}; grant the permission, or use `sudo`"):
        configfile.edit(made, {"models.default": "other"})


def test_an_edit_keeps_the_mode(made: Path) -> None:
    made.chmod(0o604)
    configfile.edit(made, {"models.default": "other"})
    assert stat.S_IMODE(made.stat().st_mode) == 0o604


def test_a_symbolic_link_stays_one(made: Path) -> None:
    link = made.with_name("link.yaml")
    link.symlink_to(made.name)
    configfile.edit(link, {"models.default": "other"})
    assert link.is_symlink()
    assert parse(configfile.read(made)).models.default == "other"


# Where


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SYSHAX_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(configfile, "_SYSTEM_PATH", tmp_path / "etc" / "config.yaml")
    return tmp_path


def test_the_file_of_a_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configfile.default_path() == home / ".config/syshax/config.yaml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/xdg")
    assert configfile.default_path() == Path("/xdg/syshax/config.yaml")
    monkeypatch.setenv("SYSHAX_CONFIG", "/named.yaml")
    assert configfile.default_path() == Path("/named.yaml")


def test_the_systems_file_comes_first_where_it_is(home: Path) -> None:
    configfile.create(home / "etc" / "config.yaml", force=False)
    assert configfile.default_path() == home / "etc" / "config.yaml"


def test_root_has_the_systems_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert configfile.default_path() == home / "etc" / "config.yaml"


# Aliases and merge keys

_SHARED = """\
# top
services:
  gpu: &one  # the first
    port: 8001
    env: &both
      # about A
      A: one
    args: {max-model-len: &length 4096}
  cpu:
    <<: *one  # as the gpu
    port: 8002
    args:
      max-model-len: *length
      dtype: &type bfloat16
models:
  default: *type
"""


def plain(text: str) -> dict[str, object]:
    content: dict[str, object] = configfile._plain(text)
    return content


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("services.gpu.host", "::1"),
        ("services.gpu.env.A", "two"),
        ("services.gpu.env.B", "two"),
        ("services.gpu.args.max-model-len", "8192"),
        ("services.gpu.port", None),
        ("services.gpu.env.A", None),
        ("services.cpu.env.B", "two"),
        ("services.cpu.env.A", None),
        ("services.cpu.port", "8003"),
        ("services.cpu.args.dtype", "float32"),
        ("services.cpu.args.max-model-len", None),
        ("models.default", "other"),
    ],
)
def test_only_the_named_key_changes_whatever_is_shared(path: Path, key: str, value: str | None) -> None:
    written(path, _SHARED)
    before = plain(_SHARED)
    configfile.edit(path, {key: value})
    text = path.read_text()
    changed = unset_value(before, key) if value is None else set_value(before, key, parse_text(key, value))
    assert plain(text) == changed
    assert {"# top", "# the first"} <= {found.strip() for found in re.findall("#.*", text)}
    assert "<<: *one" in text or "gpu" in key


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Two services that share what YAML lets them share, with a comment at each line."""
    entries = st.dictionaries(st.sampled_from(["A", "B", "C"]), st.sampled_from(["1", "two", "'3'"]), min_size=1)

    def env(name: str, base: str | None) -> list[str]:
        lines = [f"      {key}: {value}  # {name} {key}" for key, value in draw(entries).items()]
        return [f"      <<: *{base}  # {name} merges", *lines] if base else lines

    lines = ["services:", "  gpu: &gpu  # gpu", "    port: 8001", "    env: &env  # env", *env("gpu", None)]
    match draw(st.sampled_from(["alias", "merge", "merge env", "alias env", "apart"])):
        case "alias":
            lines += ["  cpu: *gpu  # as the gpu"]
        case "merge":
            lines += ["  cpu:", "    <<: *gpu  # as the gpu", "    port: 8002"]
            lines += ["    env:", *env("cpu", draw(st.sampled_from(["env", None])))] if draw(st.booleans()) else []
        case "merge env":
            lines += ["  cpu:", "    port: 8002", "    env:", *env("cpu", "env")]
        case "alias env":
            lines += ["  cpu:", "    port: 8002", "    env: *env  # as the gpu"]
        case "apart":
            lines += ["  cpu:", "    port: 8002", "    env:", *env("cpu", None)]
    return "\n".join([*lines, "# last", "models: {default: m}", ""])


VALUES = {"port": "8123", "host": "::1", "env.A": "8123", "env.D": "two", "args.x": "[1, 2]"}
KEYS = [f"services.{name}.{key}" for name in ("gpu", "cpu") for key in VALUES]


@settings(deadline=None)
@given(text=documents(), keys=st.dictionaries(st.sampled_from(KEYS), st.booleans(), min_size=1))
def test_editing_does_the_same_as_if_nothing_were_shared(text: str, keys: dict[str, bool]) -> None:
    edits = {key: VALUES[key.split(".", 2)[2]] if is_set else None for key, is_set in keys.items()}
    expected = plain(text)
    for key, value in edits.items():
        expected = unset_value(expected, key) if value is None else set_value(expected, key, parse_text(key, value))
    ports = {get_value(expected, f"services.{name}.port", default) for name, default in (("gpu", 8001), ("cpu", 8002))}
    assume(len(ports) == 2)
    edited = configfile.edited(text, edits)
    assert plain(edited) == expected
    if all(value is not None for value in edits.values()):
        kept = {line.partition("#")[2].strip() for line in text.splitlines()}
        assert kept <= {line.partition("#")[2].strip() for line in edited.splitlines()}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("services: &a\n  gpu: *a\n", "an alias stands inside of what it is an alias of"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdef")),
            "it has more than 100000 values",
        ),
    ],
)
def test_aliases_that_have_no_end_are_faults(path: Path, text: str, problem: str) -> None:
    assert faults_of(written(path, text)) == [f"is not usable YAML: {problem}"]


# Several writers


def test_writers_at_the_same_time_lose_nothing(made: Path) -> None:
    keys = [f"services.cpu.env.K{number}" for number in range(8)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.starmap(configfile.edit, [(made, {key: "1"}) for key in keys])
    assert sorted(configfile.load(made).services.cpu.env) == sorted(key.rpartition(".")[2] for key in keys)
    assert os.listdir(made.parent) == [made.name]


def test_a_lock_that_is_never_given_back_is_told(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "_LOCK_TIMEOUT_S", 0.0)
    with replacing.locked(made), pytest.raises(ConfigError, match="another program keeps it locked"):
        configfile.edit(made, {"models.default": "other"})


def test_somebody_elses_link_is_not_followed(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a link for another user")
    link = made.with_name("link.yaml")
    link.symlink_to(made.name)
    os.chown(link, 4242, 4242, follow_symlinks=False)
    with pytest.raises(ConfigError, match=r"a symbolic link that belongs to another user \(uid 4242\)"):
        configfile.create(link, force=True)


def test_the_group_is_kept_where_the_owner_cannot_be(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    def fchown(descriptor: int, uid: int, gid: int) -> None:
        given.append((uid, gid))
        if uid != -1:
            raise PermissionError

    old = made.stat()
    monkeypatch.setattr(os, "fchown", fchown)
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((*old[:4], old.st_uid + 1, old.st_gid + 1, *old[6:])))
    configfile.edit(made, {"models.default": "other"})
    assert given == [(old.st_uid, old.st_gid), (-1, old.st_gid)]


# Who can read and reach what


@pytest.mark.parametrize(
    ("host", "settings", "is_open"),
    [
        ("127.0.0.1", "", False),
        ("localhost", "", False),
        ("::1", "", False),
        ("127.8.8.8", "", False),
        ("0.0.0.0", "", True),
        ("::", "", True),
        ("10.0.0.1", "", True),
        ("host.example", "", True),
        ("0.0.0.0", "args: {api-key: x}", False),
        ("0.0.0.0", "args: {api_key: [x, y]}", False),
        ("0.0.0.0", "env: {VLLM_API_KEY: x}", False),
        ("0.0.0.0", "env: {HF_TOKEN: x}", True),
    ],
)
def test_an_endpoint_that_strangers_can_use_is_told(path: Path, host: str, settings: str, *, is_open: bool) -> None:
    text = f"services:\n  cpu: {{enabled: false}}\n  gpu: {{{settings}}}\n  conductor: {{host: '{host}'}}\n"
    written(path, text).chmod(0o600)
    told = configfile.warnings(path, configfile.load(path))
    assert [f"services.conductor.host is {host}" in text for text in told] == [True] * is_open


def test_keys_that_travel_unencrypted_are_told(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    ApiKeys(tmp_path / "api_keys").create("alice")
    text = "services: {conductor: {host: 0.0.0.0}}\n"
    for tls, is_told in (("", True), ("gateway: {tls: {cert: c, key: k}}\n", False)):
        written(path, text + tls).chmod(0o600)
        told = configfile.warnings(path, configfile.load(path))
        assert ["API keys travel unencrypted" in text for text in told] == [True] * is_told


@pytest.mark.parametrize(
    ("mode", "settings", "told"),
    [
        (0o640, "HF_TOKEN: x", []),
        (0o644, "OMP_NUM_THREADS: 4", []),
        (0o644, "HF_TOKEN: x", ["which holds services.cpu.env.HF_TOKEN: chmod"]),
        (0o644, "PROXY: 'http://a:b@c'", ["holds services.cpu.env.PROXY"]),
        (0o642, "A: 1", ["can write"]),
    ],
)
def test_files_that_others_can_read_or_write_are_told(path: Path, mode: int, settings: str, told: list[str]) -> None:
    written(path, f"services: {{cpu: {{env: {{{settings}}}}}}}\n").chmod(mode)
    found = configfile.warnings(path, configfile.load(path))
    assert len(found) == len(told)
    assert all(text in warning for text, warning in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("mode", "is_told"), [(0o600, False), (0o640, False), (0o400, False), (0o644, True), (0o660, True)]
)
def test_a_private_key_that_others_can_read_is_told(path: Path, mode: int, *, is_told: bool) -> None:
    key = path.with_name("key.pem")
    key.touch()
    key.chmod(mode)
    written(path, f"control: {{tcp: {{port: 1, cert: c, client_ca: a, key: {key}}}}}\n").chmod(0o600)
    found = configfile.warnings(path, configfile.load(path))
    assert [f"control.tcp.key: {key} is accessible to others" in text for text in found] == [True] * is_told


@pytest.mark.parametrize(
    "text",
    [
        "services: {gpu: {env: {HF_TOKEN: *zqSECRETqz}}}",
        "services: {gpu: {env: {HF_TOKEN: !zqSECRETqz x}}}",
        "services: {gpu: {env: {HF_TOKEN: 'zqSECRETqz}}}",
        'services: {gpu: {env: {HF_TOKEN: "zqSECRETqz\\q"}}}',
        "services: {gpu: {env: {HF_TOKEN: zqSECRETqz, HF_TOKEN: zqSECRETqz}}}",
        "services: {gpu: {env: {HF_TOKEN: {a: zqSECRETqz}}}}",
        "services: {gpu: {env: {'HF_TOKEN=zqSECRETqz': y}}}",
        "services: {gpu: {env: {'HF_TOKEN=zqSECRETqz\\n': y}}}",
        "services: {gpu: {env: [HF_TOKEN=zqSECRETqz]}}",
        "services: {gpu: {args: {'--api-key=zqSECRETqz': 1}}}",
        "services: {gpu: {args: {api-key: {a: zqSECRETqz}}}}",
        "services: {gpu: {args: --api-key zqSECRETqz}}",
        "services: {gpu: {host: 'http://bob:zqSECRETqz@h/'}}",
    ],
)
def test_no_fault_quotes_a_secret(text: str, tmp_path: Path) -> None:
    try:
        binder.bind(configfile.parse_file(text))
        said = ""
    except SyshaxError as error:
        said = configfile.fault_text(tmp_path, error)
    assert "zqSECRETqz" not in said
    path = tmp_path / "c.yaml"
    path.write_text(text)
    listed = CliRunner().invoke(syshax, ["config", "--config", str(path)])
    assert "zqSECRETqz" not in listed.output
