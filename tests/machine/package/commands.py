# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Every command of syshaxctl and syshax, and how each is tried on the booted machine."""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from syshaxd.cli import syshax, syshaxctl

FIRST = "of-the-first-request"
"""The id of a request that was answered before the commands are tried."""
SERVER = "/srv/lscpu.txt"
"""What `lscpu` prints on a server with 160 CPUs and 4 NUMA nodes."""
TAKE_A_SLOT = "syshaxctl place --ttl 600"
WRITE_A_TRACE = (
    "sh -c '(echo TIMESTAMP,ContextTokens,GeneratedTokens; "
    "for s in $(seq 10 29); do echo 2023-11-16 18:15:$s.0,300,20; done) > /srv/trace.csv'"
)


@dataclass(frozen=True)
class Trial:
    """One call of a command."""

    words: str = ""
    """What follows the command; {found}: what `before` has told."""
    tells: str = ""
    """A regular expression that the output must contain."""
    code: int = 0
    """How it must end."""
    before: str = ""
    """A command line that goes before."""
    finds: str = ""
    """A regular expression: its group is what `before` tells."""
    both_ready: bool = True
    """Whether both instances are READY afterwards, sooner or later."""


TRIALS: dict[str, tuple[Trial, ...]] = {
    "syshaxctl status": (Trial("", "gpu .*READY"), Trial("-o json", '"state": "READY"')),
    "syshaxctl top": (Trial("--once", "gpu"),),
    "syshaxctl logs": (Trial("-n 5 cpu", "."), Trial("--all gpu", "generation")),
    "syshaxctl events": (Trial("", "READY"), Trial("--instance gpu -n 3 -o json", '"instance": "gpu"')),
    "syshaxctl topology": (Trial("", "CPU|cpu"), Trial(SERVER, "159"), Trial("-o json", r"\{")),
    "syshaxctl numa plan": (Trial(SERVER, "0-159"), Trial(f"--stock {SERVER}", "VLLM_CPU_OMP_THREADS_BIND")),
    "syshaxctl numa check": (
        Trial(f"--host {SERVER} OMP_NUM_THREADS=160 CUSTOM_CPU_AFFINITY=0-159 INFERENCE_OP_MODE=fused"),
    ),
    "syshaxctl numa verify": (Trial("-o json", "."),),
    "syshaxctl parity": (Trial("gpu cpu", "gpu and cpu"), Trial("gpu cpu -o json", '"allowed": true')),
    "syshaxctl calibrate": (
        Trial("--force --svg /srv/plot.svg", "TOKENS/S"),
        Trial("--force -o json", '"token_s"'),
    ),
    "syshaxctl stop": (Trial("cpu --wait", both_ready=False),),
    "syshaxctl start": (Trial("cpu --wait"),),
    "syshaxctl drain": (Trial("cpu --wait", both_ready=False), Trial("gpu", both_ready=False)),
    "syshaxctl restart": (Trial("cpu --wait", both_ready=False), Trial("gpu --now --wait")),
    "syshaxctl rollout": (Trial("gpu", "1 of 1  gpu"), Trial("cpu -o json", '"instance": "cpu"')),
    "syshaxctl render": (Trial("gpu", "docker"), Trial("cpu -o json", "/opt/engine/bin/python")),
    "syshaxctl requests": (Trial(), Trial("-o json", r"\[")),
    "syshaxctl batches list": (Trial("", "no batches"), Trial("-o json", r"\[")),
    "syshaxctl batches cancel": (Trial("batch_none", "no batch", code=1),),
    "syshaxctl decisions": (
        Trial("", FIRST),
        Trial("-n 1 -o json", '"request_id"'),
        Trial("--export -", '"format": "syshax-decisions"'),
    ),
    "syshaxctl explain": (Trial(FIRST, "ok"), Trial(f"{FIRST} -o json", '"decisions"')),
    "syshaxctl cancel": (Trial("{found}", "1", before=TAKE_A_SLOT, finds='"request_id": "([^"]+)"'),),
    "syshaxctl dry-run": (
        Trial("--prompt-tokens 2000", "gpu"),
        Trial("--load gpu:running=256,waiting=3,kv_usage_ratio=0.95 -o json", '"reasons"'),
    ),
    "syshaxctl policy": (
        Trial("", r"\* cost .*"),
        Trial("--gpu-cache-threshold 0.9", "0.9"),
        Trial("gpu-only", r"policy = gpu-only"),
        Trial("cost -o json", '"name": "cost"'),
    ),
    "syshaxctl config get": (Trial("system.max_queue_size", r"\d"), Trial("-o json", "services")),
    "syshaxctl config set": (Trial("system.max_queue_size 61 --apply", "max_queue_size"),),
    "syshaxctl config validate": (Trial(), Trial("/etc/syshax/config.yaml -o json", r"\{|\[")),
    "syshaxctl config apply": (Trial("/srv/same.yaml", before="cp /etc/syshax/config.yaml /srv/same.yaml"),),
    "syshaxctl replay": (
        Trial("/srv/trace.csv --policy cost --load 1 --requests 10 --sections 1", "cost", before=WRITE_A_TRACE),
        Trial("/srv/trace.csv --load 1 --requests 10 --sections 1 -o json", r"\{|\["),
    ),
    "syshaxctl keys create": (
        Trial("alice --file /srv/api_keys --model ds-32b --expires-in 90d", "sk-syshax-"),
        Trial("alice --file /srv/api_keys", "an API key named alice already exists", code=1),
    ),
    "syshaxctl keys list": (Trial("", ""), Trial("--file /srv/api_keys -o json", '"name": "alice"')),
    "syshaxctl keys revoke": (Trial("alice --file /srv/api_keys", "revoked"), Trial("nobody", "no API key", code=1)),
    "syshaxctl reload": (Trial(), Trial("-o json", r"\{")),
    "syshaxctl endpoints": (
        Trial("", "http://127.0.0.1:8010"),
        Trial("http://10.0.0.1:8010 http://10.0.0.2:8010 -f llm-d", '"address": "10.0.0.2"'),
    ),
    "syshaxctl weights": (Trial("", "/weights"),),
    "syshaxctl offload": (Trial("", "help by the CPU: on"), Trial("-o json", '"holdout": ')),
    "syshaxctl place": (Trial("--ttl 0.1", '"lease_id": "[0-9a-f]+"'),),
    "syshaxctl renew-lease": (Trial("{found} --ttl 0.1", "0.1", before=TAKE_A_SLOT, finds='"lease_id": "([^"]+)"'),),
    "syshaxctl report-end": (
        Trial("{found}", before=TAKE_A_SLOT, finds='"lease_id": "([^"]+)"'),
        Trial("{found} --failed", before=TAKE_A_SLOT, finds='"lease_id": "([^"]+)"'),
    ),
    "syshax init": (Trial("--config /srv/another.yaml", "/srv/another.yaml"),),
    "syshax config": (
        Trial("system.max_queue_size 62", "system.max_queue_size"),
        Trial("system.max_queue_size", "62"),
        Trial("--unset system.max_queue_size"),
    ),
    "syshax check-config": (Trial(),),
    "syshax interfaces": (Trial("", "8010"),),
    "syshax model": (Trial("", "ds-32b"),),
    "syshax run": (Trial("--check-config", ""),),
    "syshax quantize": (Trial("/srv/no-model --dry-run", "/srv/no-model", code=1),),
    "syshax weights": (Trial("", "/weights"), Trial("-o json", r"\[\]")),
    "syshaxctl shutdown": (Trial("--leave-running", "", both_ready=False),),
}


def all_commands() -> Iterator[str]:
    """Every command that the two programs have, by their own account."""
    yield from _commands("syshaxctl", syshaxctl.main)
    yield from _commands("syshax", syshax.main)


def _commands(words: str, command: click.Command) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield words
        return
    for name, sub in command.commands.items():
        yield from _commands(f"{words} {name}", sub)
