# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""docs/design.md has the states that test_lifecycle.py checks, and the layers that import-linter checks."""

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from syshaxd.core.lifecycle import (
    Abandon,
    Adopted,
    Effect,
    Event,
    Launch,
    Lifecycle,
    SetTimer,
    Terminate,
    TimerFired,
    WatchFailed,
)
from syshaxd.core.types import State
from tests.core.test_lifecycle import ROWS

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "design.md"
PICTURES = DOC.parent / "pictures"
_CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
LAYERS: dict[str, list[list[str]]] = {
    contract["containers"][0]: [layer.split(" | ") for layer in contract["layers"]]
    for contract in _CONTRACTS
    if contract["type"] == "layers"
}
"""Of each package that has an order of its own, the highest first."""


def _from(lifecycle: Lifecycle) -> str:
    if lifecycle.state is State.STOPPED and lifecycle.wanted:
        return "STOPPED, waiting"
    marks = []
    if lifecycle.state in {State.STOPPING, State.DRAINING} and lifecycle.wanted:
        marks.append("failed" if lifecycle.failed else "to start again")
    if lifecycle.blocked_by and lifecycle.state is not State.STOPPED:
        marks.append("blocked")
    if lifecycle.busy:
        marks.append("busy")
    if lifecycle.probe_failures == 2:
        marks.append("last probe")
    if lifecycle.attempts == 7:
        marks.append("last attempt")
    return f"{lifecycle.state}{f' ({chr(44).join(marks)})' if marks else ''}".replace(",", ", ")


def _event(event: Event) -> str:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(event).__name__)
    if isinstance(event, TimerFired):
        return f"timer {event.timer.upper()}"
    notes = [word for word in ("drain", "permanent", "healthy", "busy") if getattr(event, word, False)]
    return name.lower() + "".join(f", {note}" for note in notes)


def _effects(effects: tuple[Effect, ...]) -> str:
    words = []
    for effect in sorted(effects, key=lambda effect: type(effect).__name__):
        match effect:
            case Launch():
                words.append("launch")
            case Abandon():
                words.append("abandon")
            case Terminate():
                words.append("terminate")
            case SetTimer():
                words.append(f"timer {effect.timer.upper()}")
    return ", ".join(words) or "-"


def state_table() -> str:
    """The rows that change something, those with the same consequence together."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for before, event, after, effects in ROWS:
        if before.state is after and not effects:
            continue
        froms = grouped.setdefault((_event(event), str(after), _effects(effects)), [])
        if _from(before) not in froms:
            froms.append(_from(before))
    lines = ["| event | from | to | effects |", "| --- | --- | --- | --- |"]
    lines += [f"| {event} | {'; '.join(froms)} | {to} | {effects} |" for (event, to, effects), froms in grouped.items()]
    return "\n".join(lines)


def test_the_documents_state_table_is_that_of_the_code() -> None:
    assert state_table() in DOC.read_text(), f"put this table into {DOC}:\n{state_table()}"


def state_picture() -> str:
    """Mermaid's source: one arrow from a state to another, with the events that lead there.

    Adoption by a new daemon and faults of the daemon's own are left out.
    """
    arrows: dict[tuple[State, State], list[str]] = {}
    for before, event, after, _ in ROWS:
        if before.state is not after and not isinstance(event, Adopted | WatchFailed):
            events = arrows.setdefault((before.state, State(after)), [])
            if (name := _event(event).partition(",")[0]) not in events:
                events.append(name)
    lines = ["stateDiagram-v2", f"  [*] --> {State.STOPPED}"]
    lines += [f"  {source} --> {target}: {', '.join(events)}" for (source, target), events in arrows.items()]
    return "\n".join(lines) + "\n"


def test_the_state_picture_is_that_of_the_code() -> None:
    _assert_drawn("states", state_picture())


def _assert_drawn(name: str, source: str) -> None:
    assert source == (PICTURES / f"{name}.mmd").read_text(), f"put this there and run render.sh {name}:\n{source}"


@pytest.mark.parametrize("package", LAYERS)
def test_the_documents_layers_are_those_of_the_contract(package: str) -> None:
    section = DOC.read_text().partition(f"### `{package}`\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert [re.findall(r"`(.*?)`", row) for row in rows] == LAYERS[package]


def layer_picture() -> str:
    """Mermaid's source: a column for each package, a box for each layer."""
    lines = ["flowchart TB"]
    for package, layers in reversed(LAYERS.items()):
        name = package.replace(".", "-")
        boxes = [f"{name}-{number}" for number in range(len(layers))]
        lines += [f'  subgraph {name}["{package}"]', "    direction TB"]
        lines += [f'    {box}["{", ".join(layer)}"]' for box, layer in zip(boxes, layers, strict=True)]
        lines += [f"    {' --> '.join(boxes)}", "  end"]
    return "\n".join(lines) + "\n"


def test_the_layer_picture_is_that_of_the_contract() -> None:
    _assert_drawn("layers", layer_picture())


def test_components_that_are_drawn_exist_and_use_what_is_below_them() -> None:
    order = {name: number for number, layer in enumerate(LAYERS["syshaxd"]) for name in layer}
    source = (PICTURES / "components.mmd").read_text()
    inside = source.partition("subgraph syshaxd\n")[2].partition("  end\n")[0]
    drawn = re.findall(r"^    (\w+)\[", inside, re.MULTILINE)
    assert set(drawn) <= set(order)
    arrows = re.findall(r"^  (\w+) -->(?:\|.*?\|)? (\w+)$", source, re.MULTILINE)
    between: list[Any] = [(source, target) for source, target in arrows if {source, target} <= set(drawn)]
    assert between
    assert all(order[source] < order[target] for source, target in between)


@pytest.mark.parametrize("source", sorted(PICTURES.glob("*.mmd")), ids=lambda path: path.stem)
def test_pictures_are_rendered_from_their_sources(source: Path) -> None:
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert digest in source.with_suffix(".svg").read_text(), f"sh docs/pictures/render.sh {source.stem}"


def test_the_modules_on_a_requests_way_exist_and_are_few() -> None:
    source = (PICTURES / "request.mmd").read_text()
    named = re.findall(r"\b[a-z_]+(?:/[a-z_]+)+", re.sub(r"<br/>", " ", source))
    missing = [
        name for name in named if not any((ROOT / "src/syshaxd" / found).exists() for found in (f"{name}.py", name))
    ]
    assert missing == []
    assert len(re.findall(r'\["\d ', source)) <= 7
