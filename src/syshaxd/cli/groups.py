# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Instances by model, and what is told of pairs of them in few lines however many there are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.text import Text

from syshaxd.cli.parity import parity_line
from syshaxd.core.parity import ParityReport
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.types import InstanceStatus, State

MAX_ALONE = 6
"""So many instances are shown one by one where a line for each model would do."""
_MAX_PAIRS = 6
"""So many pairs, those of three instances both ways, get a line each."""


def by_model(instances: Iterable[InstanceStatus]) -> dict[str, list[InstanceStatus]]:
    """Instances by the model that they serve, in the order of the configuration."""
    found: dict[str, list[InstanceStatus]] = {}
    for instance in instances:
        found.setdefault(instance.spec.served_model, []).append(instance)
    return found


def model_cells(status: EngineStatus, model: str, instances: Sequence[InstanceStatus]) -> Mapping[str, Text]:
    """The row of a model above those of its instances, by the name of the column."""
    loads = [load for each in instances if (load := status.snapshot.instances.get(each.spec.name)) is not None]
    ready = sum(each.state is State.READY for each in instances)
    texts = {
        "INSTANCE": model,
        "STATE": f"{ready} of {len(instances)}",
        "RUNNING": str(sum(load.running for load in loads)) if loads else "-",
        "WAITING": str(sum(load.waiting for load in loads)) if loads else "-",
        "IN FLIGHT": str(sum(status.inflight.get(each.spec.name, 0) for each in instances)),
    }
    return {name: Text(text, "bold") for name, text in texts.items()}


def handover_notes(refusals: Mapping[tuple[str, str], str]) -> Iterator[Text]:
    """Which instances can hand over to which, or why not; a reason that applies both ways appears once."""
    if len(refusals) > _MAX_PAIRS:
        by_reason: dict[str, list[tuple[str, str]]] = {}
        for pair, refusal in refusals.items():
            by_reason.setdefault(_common(refusal, pair), []).append(pair)
        for refusal, pairs in by_reason.items():
            said = f"no hand-over: {refusal}" if refusal else "can hand over"
            yield Text.assemble((_of_pairs(pairs, "to"), "bold"), said)
        return
    shown: set[tuple[str, str]] = set()
    for (source, target), refusal in refusals.items():
        if (target, source) in shown:
            continue
        both = bool(refusal) and refusals.get((target, source)) == refusal
        if both:
            shown.add((source, target))
        said = f"no hand-over: {refusal}" if refusal else "can hand over"
        yield Text.assemble((f"{source} {'and' if both else 'to'} {target}: ", "bold"), said)


def _common(reason: str, pair: tuple[str, str]) -> str:
    """The reason without the name of one of the pair in front of it."""
    return next((reason.removeprefix(f"{name}: ") for name in pair if reason.startswith(f"{name}: ")), reason)


def parity_notes(reports: Sequence[ParityReport]) -> Iterator[Text]:
    """The verdicts on pairs; of many pairs, a line for each verdict, and one for each pair between which none moves."""
    many = len(reports) > _MAX_PAIRS
    verdicts: dict[str, list[tuple[str, str]]] = {}
    for report in reports:
        if many and report.verdict.allowed:
            verdicts.setdefault(str(report.verdict.agreement), []).append((report.first, report.second))
        else:
            yield Text.assemble("parity: ", parity_line(report))
    for agreement, pairs in verdicts.items():
        yield Text.assemble("parity: ", (_of_pairs(pairs, "and"), "bold"), agreement)


def _of_pairs(pairs: Sequence[tuple[str, str]], between: str) -> str:
    first = f"{pairs[0][0]} {between} {pairs[0][1]}"
    return f"{first}: " if len(pairs) == 1 else f"{first} and {len(pairs) - 1} more pairs: "
