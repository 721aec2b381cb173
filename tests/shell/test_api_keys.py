# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from syshaxd.cli.syshaxctl import main
from syshaxd.core.errors import BadRequestError, ConflictError, NotFoundError, SyshaxError, UnauthorizedError
from syshaxd.system.api_keys import ApiKeys


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "api_keys"


def test_a_key_is_valid_from_its_making_to_its_revocation(path: Path) -> None:
    keys = ApiKeys(path)
    assert not keys.exist
    new = keys.create("alice", models=("m",))
    assert keys.find(new.secret) == new.key
    assert [key.name for key in keys.list()] == ["alice"]
    keys.revoke("alice")
    assert keys.exist  # requests need a key all the same
    with pytest.raises(UnauthorizedError):
        keys.find(new.secret)
    with pytest.raises(NotFoundError, match="there is no API key alice; none exist"):
        keys.revoke("alice")


def test_the_file_holds_hashes_and_is_for_its_owner_alone(path: Path) -> None:
    new = ApiKeys(path).create("alice")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert new.secret not in path.read_text()
    assert len(new.secret) == 53
    assert ApiKeys(path).find(new.secret) == new.key


def test_a_name_is_taken_until_its_key_is_revoked(path: Path) -> None:
    keys = ApiKeys(path)
    keys.create("alice")
    with pytest.raises(ConflictError, match="an API key named alice already exists"):
        keys.create("alice")
    keys.revoke("alice")
    keys.create("alice")


def test_a_key_that_has_expired_is_not_made(path: Path) -> None:
    with pytest.raises(BadRequestError, match="would have expired already"):
        ApiKeys(path, clock=lambda: 100.0).create("alice", expires_at_s=100.0)
    assert not path.exists()


def test_a_file_that_has_gone_opens_nothing(path: Path) -> None:
    keys = ApiKeys(path)
    new = keys.create("alice")
    path.unlink()
    assert keys.list() == ()
    assert keys.exist
    with pytest.raises(UnauthorizedError):
        keys.find(new.secret)


def test_programs_that_make_keys_at_the_same_time_lose_none(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: ApiKeys(path).create(f"k{number}"), range(16)))
    assert {key.name for key in ApiKeys(path).list()} == {new.key.name for new in made}
    assert [each.name for each in path.parent.iterdir()] == ["api_keys"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    ApiKeys(path).create("alice")
    path.chmod(mode)
    with pytest.raises(SyshaxError, match=f"open to other users \\(mode {mode:04o}\\): chmod 0600"):
        ApiKeys(path)


def test_a_file_of_something_else_is_refused_and_kept(path: Path) -> None:
    keys = ApiKeys(path)
    keys.create("alice")
    path.write_text("{")
    with pytest.raises(SyshaxError, match="does not hold API keys"):
        ApiKeys(path)
    with pytest.raises(SyshaxError, match="does not hold API keys"):
        keys.create("bob")
    assert path.read_text() == "{"


def test_without_a_daemon_the_command_changes_the_file(path: Path) -> None:
    shell, file = CliRunner(), ("--file", str(path))
    made = shell.invoke(main, ["keys", "create", "alice", "--expires-in", "90d", "--model", "m", *file])
    assert made.exit_code == 0, made.output
    secret = made.stdout.splitlines()[0]
    assert ApiKeys(path).find(secret).models == ("m",)
    listed = shell.invoke(main, ["keys", "list", *file])
    assert "alice  api     interactive  m       any" in listed.output
    assert secret not in listed.output
    assert shell.invoke(main, ["keys", "revoke", "alice", *file]).output == "alice is revoked\n"
    assert shell.invoke(main, ["keys", "create", "x", "--expires-in", "90", *file]).exit_code == 2
    contrary = ["keys", "create", "x", "--batch-only", "--class", "interactive", *file]
    assert shell.invoke(main, contrary).exit_code == 2
    for name, option in {"b": ["--batch-only"], "c": ["--class", "batch"], "d": ["--class", "interactive"]}.items():
        assert shell.invoke(main, ["keys", "create", name, *option, *file]).exit_code == 0
    keys = json.loads(shell.invoke(main, ["keys", "list", "-o", "json", *file]).output)
    assert {key["name"]: key["batch_only"] for key in keys} == {"b": True, "c": True, "d": False}
    assert shell.invoke(main, ["keys", "create", "exact", "--weights", "full", *file]).exit_code == 0
    keys = json.loads(shell.invoke(main, ["keys", "list", "-o", "json", *file]).output)
    assert {key["name"] for key in keys if key["full_weights"]} == {"exact"}
    assert "exact  api     interactive  all     full" in shell.invoke(main, ["keys", "list", *file]).output
    failed = shell.invoke(main, ["keys", "create", "a b", *file])
    assert (failed.exit_code, "name: " in failed.output) == (1, True)


def test_a_list_is_whole_at_100_columns(path: Path) -> None:
    shell, file = CliRunner(env={"COLUMNS": "100"}), ("--file", str(path))
    model = "DeepSeek-R1-Distill-Qwen-32B"
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "100000", "--expires-in", "90d")
    assert shell.invoke(main, ["keys", "create", "alice", "--model", model, *limits, *file]).exit_code == 0
    listed = shell.invoke(main, ["keys", "list", *file]).output
    assert max(map(len, listed.splitlines())) <= 100
    assert "…" not in listed
