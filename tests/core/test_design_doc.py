# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The state table and the state picture are made from the rows that test_lifecycle.py checks."""

import re
from pathlib import Path

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

DOC = Path(__file__).parents[2] / "docs" / "design.md"
PICTURE = DOC.parent / "pictures" / "states.mmd"


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
    assert state_picture() == PICTURE.read_text(), f"write {PICTURE} anew and render it (docs/pictures/render.sh)"
