# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What the packages are made from agrees with the project."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from syshaxd import __version__
from tests.machine.package.commands import TRIALS, all_commands

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "packaging/rpm/requirements.lock").read_text("utf-8")
TARGETS = [
    {"python_version": "3.11", "python_full_version": "3.11.9", "platform_machine": machine, "extra": ""}
    for machine in ("x86_64", "aarch64")
]
NAME = r"[A-Za-z0-9._-]+"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked() -> dict[str, str]:
    return {_normal(name): version for name, version in re.findall(rf"^({NAME})==(\S+) \\$", LOCK, re.MULTILINE)}


def test_the_lock_has_every_dependency_in_a_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    locked = _locked()
    for wanted in project["dependencies"] + project["optional-dependencies"]["speed"]:
        name = re.match(NAME, wanted)
        assert name, wanted
        version = [int(part) for part in locked[_normal(name[0])].split(".")[:2]]
        for sign, limit in re.findall(r"(>=|<)([\d.]+)", wanted):
            bound = [int(part) for part in limit.split(".")]
            assert version >= bound if sign == ">=" else version < bound, (wanted, version)


def test_a_distributions_own_packages_are_required_in_the_versions_that_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {_normal(wanted.name): wanted.specifier for wanted in map(Requirement, project["dependencies"])}
    spec = (ROOT / "syshax.spec").read_text("utf-8")
    required = re.findall(rf"^Requires: +python3-({NAME}) >= (\S+)$", spec, re.MULTILINE)
    assert required
    for name, version in required:
        bounds = {each.version for each in needed[_normal(name)] if each.operator == ">="}
        assert bounds == {version}, name


def test_the_locked_packages_need_no_others() -> None:
    """Of those that are installed in the locked version; `make wheels` has pip check all of them."""
    locked, checked = _locked(), 0
    for name, version in locked.items():
        if _installed_version(name) != version:
            continue
        checked += 1
        for need in map(Requirement, distribution(name).requires or ()):
            wanted = any(need.marker is None or need.marker.evaluate(target) for target in TARGETS)
            found = locked.get(_normal(need.name), "")
            assert not wanted or (found and need.specifier.contains(found)), f"{name} {version} needs {need}"
    assert checked > len(locked) / 2


def _installed_version(name: str) -> str:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def test_the_lock_gives_hashes_and_no_index() -> None:
    entries = re.split(rf"^(?={NAME}==)", LOCK, flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK


def test_the_spec_has_the_projects_version() -> None:
    spec = (ROOT / "syshax.spec").read_text("utf-8")
    assert f"%global syshax_version {__version__}}}" in spec
    assert f"- {__version__}-" in spec


def test_the_unit_takes_nothing_from_instances_that_outlive_the_daemon() -> None:
    lines = (ROOT / "systemd/syshaxd.service").read_text("utf-8").splitlines()
    assert "KillMode=process" in lines
    assert "RemoveIPC=no" in lines
    assert not [line for line in lines if line.startswith("PrivateTmp=") and line != "PrivateTmp=no"]
    assert "BindPaths=/var/lib/syshax/tmp:/tmp /var/lib/syshax/tmp:/var/tmp" in lines
    assert "StateDirectory=syshax syshax/tmp" in lines


def test_the_service_may_write_its_configuration_and_not_its_environment() -> None:
    lines = (ROOT / "systemd/syshaxd.service").read_text("utf-8").splitlines()
    assert "ReadWritePaths=-/etc/syshax" in lines
    assert "ReadOnlyPaths=-/etc/syshax/environment" in lines
    assert "d /etc/syshax 2755 syshax syshax -" in (ROOT / "systemd/tmpfiles.conf").read_text("utf-8")
    assert "%dir %attr(2755,syshax,syshax) %{_sysconfdir}/syshax" in (ROOT / "syshax.spec").read_text("utf-8")


def test_every_command_is_tried_on_the_booted_package() -> None:
    """A new command needs trials in tests/machine/package/commands.py."""
    assert sorted(TRIALS) == sorted(all_commands())
