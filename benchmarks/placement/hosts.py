# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The hosts on which placement is compared: syshaxd over two simulated instances, or over two real ones."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import asdict
from pathlib import Path

from ruamel.yaml import YAML

from syshax_embedded.folders import cache_folder
from syshaxd.core.placement.calibration import RunResult
from syshaxd.core.placement.replay.profiles import PROFILES

DAEMON = "from syshaxd.daemon import main; main()"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def simulated(options):
    """Runs syshaxd over two simulated instances; yields its URL."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syshax-replay-")))
        services, port = {}, free_port()

        environment = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        profile = PROFILES[options.profile]
        handover = {"kv_token_bytes": profile.handover.token_bytes, "arena_bytes": profile.handover.arena_bytes}
        handover["handover_bytes_per_s"] = profile.handover.bytes_per_s
        profiles = {
            "gpu": asdict(profile.gpu) | handover | options.gpu,
            "cpu": asdict(profile.cpu) | handover | options.cpu,
        }

        def start(*argv):
            log = stack.enter_context((folder / "log").open("ab"))
            process = subprocess.Popen([sys.executable, *argv], stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)

        for name, profile in profiles.items():
            services[name] = {"port": free_port(), "max_num_seqs": profile["max_num_seqs"], "protocol": "connector"}
        simulation = [[services[name]["port"] for name in profiles], list(profiles.values()), options.speed]
        start(str(Path(__file__).with_name("instances.py")), json.dumps(simulation))
        config = {
            "services": services | {"conductor": {"port": port}},
            "models": {"default": "m"},
            "scheduler": {"policy": options.policy},
            "control": {"socket": str(folder / "admin.sock")},
            "monitor": {"interval_s": 1 / options.speed},
            "system": {"max_queue_size": 100_000, "max_queue_wait_s": 3600},
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        start("-c", DAEMON, "--config", str(folder / "config.yaml"))
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, folder / "log", 60)
        yield url, folder


@contextlib.contextmanager
def embedded(options):
    """Runs syshaxd over the embedded profile, whose GPU gets few slots; yields its URL and folder."""
    subprocess.run([sys.executable, "-m", "syshax_embedded", "prepare"], check=True)
    config = YAML(typ="safe").load(cache_folder() / "embedded.yaml")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syshax-replay-")))
        for service in config["services"].values():
            service["port"] = free_port()
            service.pop("quantize", None)  # the same weights on both
        config["services"]["gpu"]["max_num_seqs"] = options.slots
        config |= {
            "scheduler": {"policy": options.policy, "holdout": 0},
            "control": {"socket": str(folder / "admin.sock")},
            "system": {"max_queue_size": 100_000, "max_queue_wait_s": 3600},
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        environment = os.environ | {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
        log = stack.enter_context((folder / "log").open("ab"))
        argv = [sys.executable, "-c", DAEMON, "--config", str(folder / "config.yaml")]
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGTERM)
        url = f"http://127.0.0.1:{config['services']['conductor']['port']}"
        wait_until_ready(url, folder / "log", 480)
        yield url, folder


def calibration(folder):
    """What `syshaxctl calibrate` measures."""
    argv = ["-c", "from syshaxd.cli.syshaxctl import main; main()", "--socket", str(folder / "admin.sock")]
    done = subprocess.run(
        [sys.executable, *argv, "calibrate", "--output", "json"], check=True, stdout=subprocess.PIPE, text=True
    )
    return [RunResult(**one) for one in json.loads(done.stdout)]


def wait_until_ready(url, log, timeout_s):
    deadline_s = time.monotonic() + timeout_s
    while not (ready(url) and "syshax_parity_allowed{" in metrics(url)):
        if time.monotonic() > deadline_s:
            sys.exit(log.read_text())
        time.sleep(0.2)


def ready(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/ready?all=1", timeout=5) as answer:
        return answer.status == 200
    return False


def metrics(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        return answer.read().decode()
