# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The package's life on a booted machine, in order: each test goes on where the one before it stopped."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from syshaxd import __version__
from tests.core.topologies import KUNPENG_LSCPU
from tests.machine.docker.bed import Bed
from tests.machine.package.commands import FIRST, SERVER, TRIALS
from tests.machine.package.machine import ROOT, Machine

pytestmark = pytest.mark.timeout(300)
URL = "http://127.0.0.1:8010"
REPO = ("dnf", "-y", "--quiet", "--disablerepo=*", "--repofrompath=syshax,file:///repo/build/repo", "--nogpgcheck")
SEED_LINES = (
    ("services.gpu.port", "8001"),
    ("services.cpu.port", "8002"),
    ("services.conductor.port", "8010"),
    ("models.default", "ds-32b"),
)
# Until a line comes.
ASK_AGAIN_AND_AGAIN = """\
(while syshaxctl status >/tmp/asked 2>&1; do :; done; cat /tmp/asked) & asking=$!
read -r line
kill $asking 2>/dev/null && echo always answered
"""
# What stands for the interpreter of an environment with vLLM.
ENGINE = """\
#!/bin/sh
# What real engines have beside their process: shared memory of both kinds, and files in temporary folders.
echo weights >/dev/shm/psm_of_the_engine
echo mine >"${TMPDIR:-/tmp}/of_the_engine"
echo mine >/tmp/in_tmp
ipcmk --shmem 4096 >/dev/null
shift 2
PYTHONPATH=/usr/lib/syshax/site-packages:/repo/src exec /usr/bin/python3 -B -m syshax_sim --speed 10 "$@"
"""
CHAT = {
    "model": "ds-32b",
    "messages": [{"role": "user", "content": "Introduce openEuler."}],
    "stream": True,
    "max_tokens": 1024,
}
# One instance of each kind: a container of the real engine, and a process.
GPU_LINE = ["services.gpu.runtime", "docker", "services.gpu.container.shm_size", "64m", "services.gpu.container.image"]
CPU_LINE = ["services.cpu.runtime", "process", "services.cpu.python", "/opt/engine/bin/python"]


# The socket's group, of which the daemon is a member where containers are its instances.
DOCKER_GROUP = 4242


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    with Bed(ROOT / "build/machine/package/docker") as bed:
        yield bed


@pytest.fixture(scope="module")
def machine(bed: Bed) -> Iterator[Machine]:
    with Machine(bed.network, mounts={bed.socket: "/run/docker.sock"}) as machine:
        yield machine


def show(machine: Machine, name: str) -> str:
    return machine.run("systemctl", "show", "--value", "--property", name, "syshaxd.service")


@pytest.fixture(scope="module")
def engines(machine: Machine, bed: Bed) -> Callable[[], set[str]]:
    """What runs: the container with its start, and the process."""

    def find() -> set[str]:
        containers = bed.docker("ps", "--no-trunc", "--quiet").split()
        starts = [
            bed.docker("inspect", "--format", "{{.Name}} {{.Id}} {{.State.StartedAt}}", each) for each in containers
        ]
        return {*starts, *machine.try_run("pgrep", "-f", "syshax_sim").stdout.split()}

    return find


def ready(machine: Machine) -> bool:
    return machine.try_run("curl", "-sf", f"{URL}/ready?all=1").returncode == 0


def restarted(machine: Machine, old_pid: str) -> bool:
    return show(machine, "MainPID") not in {old_pid, "0"} and show(machine, "ActiveState") == "active"


def journal(machine: Machine, *matches: str) -> list[dict[str, str]]:
    text = machine.run("journalctl", "--output=json", "--no-pager", *matches)
    return [json.loads(line) for line in text.splitlines()]


def test_installing_starts_nothing_and_changes_nothing_that_is_there(machine: Machine) -> None:
    machine.run(*REPO, "install", f"sysHAX-{__version__}-1")
    assert (
        machine.try_run("systemctl", "is-enabled", "syshaxd.service", "syshaxd.socket").stdout.split()
        == ["disabled"] * 2
    )
    assert (
        machine.try_run("systemctl", "is-active", "syshaxd.service", "syshaxd.socket").stdout.split()
        == ["inactive"] * 2
    )
    assert machine.run("rpm", "--verify", "sysHAX", "sysHAX-connector") == ""
    assert machine.run("stat", "-c", "%U:%G %a", "/etc/syshax", "/var/lib/syshax").splitlines() == [
        "syshax:syshax 2755",
        "syshax:syshax 750",
    ]


def test_the_seeds_lines_make_a_configuration(machine: Machine, bed: Bed) -> None:
    machine.run("syshax", "init")
    for key, value in SEED_LINES:
        machine.run("syshax", "config", key, value)
    engine = machine.root / "opt/engine/bin/python"
    engine.parent.mkdir(parents=True)
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    machine.run("syshax", "config", "models.path", "/srv", *GPU_LINE, bed.image, *CPU_LINE)
    assert machine.run("stat", "-c", "%U:%G %a", "/etc/syshax/config.yaml") == "root:syshax 640"


def test_the_administrator_lets_it_use_the_container_engine(machine: Machine, bed: Bed) -> None:
    os.chown(bed.socket, 0, DOCKER_GROUP)
    machine.run("groupadd", "--gid", str(DOCKER_GROUP), "docker")
    folder = machine.root / "etc/systemd/system/syshaxd.service.d"
    folder.mkdir()
    (folder / "docker.conf").write_text("[Service]\nSupplementaryGroups=docker\n")
    machine.run("systemctl", "daemon-reload")


def test_it_starts_within_five_seconds(machine: Machine) -> None:
    started_s = time.monotonic()
    machine.run("systemctl", "start", "syshaxd")
    assert show(machine, "ActiveState") == "active"
    assert time.monotonic() - started_s < 5
    assert "listening" in show(machine, "StatusText") or "serving" in show(machine, "StatusText")


def test_it_answers_the_seeds_curl(machine: Machine) -> None:
    machine.until("both instances are ready", partial(ready, machine))
    status = machine.run("syshaxctl", "status")
    assert re.search(r"gpu.*READY", status, re.IGNORECASE), status
    assert re.search(r"cpu.*READY", status, re.IGNORECASE), status
    data = machine.run(
        "curl", "-sS", f"{URL}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", json.dumps(CHAT)
    )
    assert data.endswith("data: [DONE]")
    machine.until("its status says so", lambda: "serving ds-32b" in show(machine, "StatusText"))


def test_the_journal_can_be_filtered_by_instance(machine: Machine) -> None:
    assert {entry["MESSAGE"].partition(":")[0] for entry in journal(machine, "INSTANCE=gpu")} >= {"gpu"}
    assert not [entry for entry in journal(machine, "INSTANCE=gpu") if entry["MESSAGE"].startswith("cpu")]


def test_the_journal_can_be_filtered_by_request(machine: Machine) -> None:
    fault = json.dumps({"api_status": 500, "api_faults": 1})
    machine.run("curl", "-sSf", "http://127.0.0.1:8001/sim/fault", "-d", fault)
    header = "X-Request-Id: seen-in-the-journal"
    body = json.dumps(CHAT | {"stream": False, "max_tokens": 5})
    machine.run(
        "curl", "-sSf", f"{URL}/v1/chat/completions", "-H", "Content-Type: application/json", "-H", header, "-d", body
    )
    (entry,) = journal(machine, "REQUEST_ID=seen-in-the-journal")
    assert entry["INSTANCE"] == "gpu"
    assert "seen-in-the-journal: instance gpu:" in entry["MESSAGE"]
    machine.until("both instances are ready", partial(ready, machine))


def test_the_sandbox_is_tight(machine: Machine) -> None:
    text = machine.run("systemd-analyze", "security", "--no-pager", "syshaxd.service")
    score = re.search(r"exposure level for syshaxd.service: ([\d.]+)", text)
    assert score, text
    assert float(score[1]) <= 2.1, text


def belongings(machine: Machine) -> str:
    """What the instance that is a process has beside it, as it sees it."""
    (pid,) = machine.run("pgrep", "-f", "syshax_sim").split()
    script = f"""
        root=/proc/{pid}/root
        tmp=$(tr '\\0' '\\n' </proc/{pid}/environ | sed -n 's/^TMPDIR=//p')
        cat $root/dev/shm/psm_of_the_engine $root/tmp/in_tmp "$root${{tmp:-/tmp}}/of_the_engine"
        ipcs -m | grep syshax
        grep -c '//deleted .*/tmp ' /proc/{pid}/mountinfo
    """
    return machine.try_run("sh", "-c", script).stdout


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_what_instances_use_outlives_the_daemon(machine: Machine, engines: Callable[[], set[str]], how: str) -> None:
    before, pid, had = engines(), show(machine, "MainPID"), belongings(machine)
    assert had.split()[:3] == ["weights", "mine", "mine"]
    assert had.split()[-1] == "0"
    if how == "restart":
        machine.run("systemctl", "restart", "syshaxd")
    else:
        machine.run("kill", "-9", pid)
    machine.until("it runs again", lambda: restarted(machine, pid))
    machine.until("both instances are ready", partial(ready, machine))
    assert engines() == before
    assert belongings(machine) == had
    pid = show(machine, "MainPID")
    assert machine.run("cat", f"/proc/{pid}/root/tmp/in_tmp") == "mine"
    assert machine.try_run("cat", "/tmp/in_tmp").returncode != 0


def test_a_killed_daemon_is_restarted_and_adopts_its_instances(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    before, pid = engines(), show(machine, "MainPID")
    machine.run("kill", "-9", pid)
    machine.until("systemd has restarted it", lambda: restarted(machine, pid))
    machine.until("both instances are ready", partial(ready, machine))
    assert engines() == before


def test_a_frozen_daemon_is_restarted_by_the_watchdog(machine: Machine, engines: Callable[[], set[str]]) -> None:
    folder = machine.root / "run/systemd/system/syshaxd.service.d"
    machine.run("mkdir", "-p", "/run/systemd/system/syshaxd.service.d")
    machine.run("sh", "-c", "printf '[Service]\\nWatchdogSec=2\\n' >/run/systemd/system/syshaxd.service.d/test.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))
    before, pid = engines(), show(machine, "MainPID")
    machine.run("kill", "-STOP", pid)
    machine.until("systemd has restarted it", lambda: restarted(machine, pid), 30)
    machine.until("both instances are ready", partial(ready, machine))
    assert engines() == before
    assert show(machine, "Result") == "success"
    text = machine.run("journalctl", "--no-pager", "--unit", "syshaxd")
    assert "Watchdog timeout" in text
    assert not folder.exists()  # /run is the machine's own
    machine.run("rm", "-r", "/run/systemd/system/syshaxd.service.d")
    machine.run("systemctl", "daemon-reload")


def test_a_reload_changes_what_the_file_changes_and_starts_only_that_instance_again(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    before, pid = engines(), show(machine, "MainPID")
    machine.run("syshax", "config", "system.max_queue_size", "77", "services.cpu.env.OF_THIS_TEST", "1")
    machine.run("systemctl", "reload", "syshaxd")
    machine.until("the CPU instance is another one", lambda: len(engines() & before) == 1)
    (same,) = engines() & before
    assert "gpu" in same
    machine.until("both instances are ready", partial(ready, machine))
    machine.until("it is kept", lambda: "77" in machine.run("syshaxctl", "config", "get", "system.max_queue_size"))
    assert show(machine, "MainPID") == pid


def test_a_reload_refuses_a_bad_configuration_and_the_daemon_goes_on(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    before, pid = engines(), show(machine, "MainPID")
    machine.run("systemctl", "reload", "syshaxd")
    path = machine.root / "etc/syshax/config.yaml"
    good = path.read_text()
    path.write_text(good.replace("8001", "80010"))
    done = machine.try_run("systemctl", "reload", "syshaxd")
    assert done.returncode != 0
    machine.until(
        "the journal tells why", lambda: "services.gpu.port" in machine.run("journalctl", "--no-pager", "-u", "syshaxd")
    )
    path.write_text(good)
    machine.run("systemctl", "reload", "syshaxd")
    assert (show(machine, "MainPID"), show(machine, "ActiveState")) == (pid, "active")
    assert ready(machine)
    assert engines() == before


CONFIG = "/etc/syshax/config.yaml"


def file_of(machine: Machine) -> tuple[str, str]:
    """Owner and mode, and the text, of the configuration file."""
    return machine.run("stat", "-c", "%U:%G %a", CONFIG), machine.run("cat", CONFIG)


def test_the_service_and_root_write_the_same_file_in_turn(machine: Machine, engines: Callable[[], set[str]]) -> None:
    before = engines()
    for size in ("101", "103"):
        machine.run("syshaxctl", "config", "set", "system.max_queue_size", size, "--apply")
        owner, text = file_of(machine)
        assert owner == "syshax:syshax 640"
        assert f"max_queue_size: {size}" in text
        machine.run("syshax", "config", "system.max_queue_size", str(int(size) + 1))
        machine.run("syshaxctl", "reload")
        assert machine.run("syshaxctl", "config", "get", "system.max_queue_size").endswith(str(int(size) + 1))
    assert engines() == before


def test_a_text_is_applied_and_kept(machine: Machine, engines: Callable[[], set[str]]) -> None:
    before = engines()
    text = file_of(machine)[1].replace("max_queue_size: 104", "max_queue_size: 105")
    (machine.root / "srv/new.yaml").write_text(text)
    machine.run("syshaxctl", "config", "apply", "/srv/new.yaml")
    assert file_of(machine)[1] == text
    assert engines() == before


def test_a_rejected_reload_leaves_its_text_beside_the_file(machine: Machine) -> None:
    good = file_of(machine)[1]
    machine.run("syshax", "config", "services.cpu.python", "/nowhere/python")
    bad = file_of(machine)[1]
    done = machine.try_run("syshaxctl", "reload")
    assert done.returncode != 0
    assert "rolled back" in done.stderr
    assert "; but" not in done.stderr
    assert file_of(machine)[1] == good
    assert machine.run("cat", f"{CONFIG}.rejected") == bad
    machine.until("both instances are ready", partial(ready, machine))
    machine.run("rm", f"{CONFIG}.rejected")


def test_the_service_cannot_change_what_systemd_reads_for_it(machine: Machine) -> None:
    inside = ["nsenter", "-t", show(machine, "MainPID"), "-m", "setpriv", "--reuid=syshax", "--regid=syshax"]
    inside += ["--clear-groups", "sh", "-c"]
    machine.run(*inside, "touch /etc/syshax/probe && rm /etc/syshax/probe")
    for attempt in ("echo A=1 >>/etc/syshax/environment", "rm -f /etc/syshax/environment"):
        assert machine.try_run(*inside, attempt).returncode != 0
    assert machine.try_run(*inside, "ln -sf /etc/shadow /etc/syshax/environment").returncode != 0


def test_a_file_that_the_service_may_not_write_is_told_before_anything_happens(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    machine.run("mkdir", "-p", "/run/systemd/system/syshaxd.service.d")
    folder = "/run/systemd/system/syshaxd.service.d"
    machine.run("sh", "-c", f"printf '[Service]\\nReadWritePaths=\\n' >{folder}/test.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))
    before, good = engines(), file_of(machine)
    (machine.root / "srv/new.yaml").write_text(good[1].replace("port: 8002", "port: 8003"))
    for words in (("apply", "/srv/new.yaml"), ("set", "services.cpu.port", "8003", "--apply")):
        done = machine.try_run("syshaxctl", "config", *words)
        assert done.returncode != 0
        assert "Read-only file system" in done.stderr
        assert "ReadWritePaths=" in done.stderr
    assert file_of(machine) == good
    assert engines() == before
    machine.run("rm", "-r", folder)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))


def test_what_the_commands_are_tried_on(machine: Machine) -> None:
    (machine.root / SERVER.lstrip("/")).write_text(KUNPENG_LSCPU)
    body = json.dumps(CHAT | {"stream": False, "max_tokens": 5})
    machine.run(
        "curl",
        "-sSf",
        f"{URL}/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-H",
        f"X-Request-Id: {FIRST}",
        "-d",
        body,
    )


@pytest.mark.parametrize("command", TRIALS)
def test_every_command(machine: Machine, command: str) -> None:
    for trial in TRIALS[command]:
        found = ""
        if trial.before:
            said = machine.run(*shlex.split(trial.before))
            if trial.finds:
                match = re.search(trial.finds, said)
                assert match, said
                found = match[1]
        done = machine.try_run(*command.split(), *trial.words.format(found=found).split())
        told = done.stdout + done.stderr
        assert done.returncode == trial.code, f"{command} {trial.words}: {told}"
        assert re.search(trial.tells, told), f"{command} {trial.words}: {told}"
        if trial.both_ready:
            machine.until("both instances are ready", partial(ready, machine))


def test_after_a_shutdown_the_next_daemon_has_the_same_instances(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    machine.until("it has ended", lambda: show(machine, "ActiveState") == "inactive")
    before = engines()
    assert len(before) == 2
    machine.run("systemctl", "start", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))
    assert engines() == before


@pytest.mark.parametrize((("verb", "release")), [("upgrade", 2), ("downgrade", 1)])
def test_another_version_takes_over_without_losing_a_request(
    machine: Machine, engines: Callable[[], set[str]], verb: str, release: int
) -> None:
    (machine.root / "etc/syshax/environment").write_text("# mine\n")
    before, pid, had = engines(), show(machine, "MainPID"), belongings(machine)
    asking: subprocess.Popen[str] | None = None
    load = subprocess.Popen(
        machine.command("python3", "/repo/tests/machine/package/load.py", URL),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        served = partial(machine.run, "curl", "-sf", f"{URL}/metrics")
        machine.until("requests flow", lambda: 'placement="gpu"' in served())
        asking = subprocess.Popen(
            machine.command("sh", "-c", ASK_AGAIN_AND_AGAIN), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        machine.run(*REPO, verb, "sysHAX")
        machine.until("the new daemon runs", lambda: restarted(machine, pid))
        machine.until("both instances are ready", partial(ready, machine))
        machine.until("requests flow", lambda: 'placement="gpu"' in served())
        assert asking.communicate("stop\n", timeout=90)[0] == "always answered\n"
        results = json.loads(load.communicate("stop\n", timeout=90)[0])
    finally:
        for each in (load, asking):
            if each is not None:
                each.kill()
                each.wait()
    assert set(results) == {"ok"}
    assert results["ok"] > 20
    assert machine.run("rpm", "-q", "--queryformat", "%{VERSION}-%{RELEASE}", "sysHAX") == f"{__version__}-{release}"
    assert engines() == before
    assert belongings(machine) == had
    assert (machine.root / "etc/syshax/environment").read_text() == "# mine\n"


def test_a_stop_ends_the_instances(machine: Machine, engines: Callable[[], set[str]]) -> None:
    machine.run("systemctl", "stop", "syshaxd.socket", "syshaxd.service")
    assert engines() == set()
    assert show(machine, "Result") == "success"
    machine.run("systemctl", "start", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))


def test_removal_leaves_nothing_but_the_administrators_files_and_state(
    machine: Machine, engines: Callable[[], set[str]]
) -> None:
    machine.run("dnf", "-y", "--quiet", "--disablerepo=*", "remove", "sysHAX", "sysHAX-connector")
    assert engines() == set()
    assert (
        machine.try_run("systemctl", "is-active", "syshaxd.service", "syshaxd.socket").stdout.split()
        == ["inactive"] * 2
    )
    find = [
        "find",
        "/",
        "-xdev",
        "(",
        "-path",
        "/repo",
        "-o",
        "-path",
        "/proc",
        "-o",
        "-path",
        "/var/cache",
        ")",
        "-prune",
    ]
    left = machine.run(*find, "-o", "-ipath", "*syshax*", "-print").splitlines()
    ours = [path for path in left if not path.startswith(("/var/lib/syshax", "/etc/systemd/system/syshaxd.service.d"))]
    assert sorted(ours) == ["/etc/syshax", "/etc/syshax/config.yaml", "/etc/syshax/environment.rpmsave"]
    assert machine.try_run("ls", "/run/syshax").returncode != 0


def test_installed_again_it_starts_nothing_and_then_serves_with_what_was_left(machine: Machine) -> None:
    machine.run(*REPO, "install", f"sysHAX-{__version__}-1")
    assert machine.try_run("systemctl", "is-active", "syshaxd.service").stdout.split() == ["inactive"]
    saved = machine.root / "etc/syshax/environment.rpmsave"
    saved.rename(saved.with_suffix(""))
    machine.run("systemctl", "enable", "--now", "syshaxd")
    machine.until("both instances are ready", partial(ready, machine))
    machine.run("systemctl", "disable", "--now", "syshaxd.socket", "syshaxd.service")


def _contents(arch: str) -> dict[str, str]:
    """Paths and modes in the package of an architecture."""
    package = ROOT / f"build/repo/sysHAX-{__version__}-1.{arch}.rpm"
    listing = subprocess.run(["rpm", "-qplv", package], capture_output=True, text=True, check=True, timeout=60).stdout
    return {line.split()[-1]: line.split()[0] for line in listing.splitlines()}


def test_both_architectures_have_the_same_files_but_for_the_names_of_extension_modules() -> None:
    plain = [
        {re.sub(rf"-{arch}-linux-gnu|_{arch}", "", path): mode for path, mode in _contents(arch).items()}
        for arch in ("x86_64", "aarch64")
    ]
    assert plain[0] == plain[1]


@pytest.mark.parametrize(("arch", "machine_code"), [("x86_64", 62), ("aarch64", 183)])
def test_every_extension_module_is_for_its_architecture(arch: str, machine_code: int, tmp_path: Path) -> None:
    package = ROOT / f"build/repo/sysHAX-{__version__}-1.{arch}.rpm"
    subprocess.run(f"rpm2cpio {package} | cpio -idm --quiet '*.so'", shell=True, cwd=tmp_path, check=True, timeout=60)
    modules = list(tmp_path.rglob("*.so"))
    assert len(modules) > 8
    for module in modules:
        header = module.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert int.from_bytes(header[18:20], "little") == machine_code, module


def test_rpmlint_finds_nothing_but_what_is_explained() -> None:
    packages = sorted((ROOT / "build/repo").glob("sysHAX*-1.*.rpm"))
    done = subprocess.run(
        ["rpmlint", "--config", ROOT / "packaging/rpm/rpmlint.toml", ROOT / "syshax.spec", *packages],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"0 errors, 0 warnings", done.stdout), done.stdout
