# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The dashboard: one read-only page and the status that it polls every second.

Everyone who can reach the OpenAI endpoint can see it. It shows states and loads, but nothing about requests or clients,
no environment, and neither paths, processes nor addresses of instances.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

from syshaxd.core.events import EventKind
from syshaxd.core.numa import NumaTopology, picture
from syshaxd.core.placement.claims import Decided
from syshaxd.core.placement.decision import Reject, Wait
from syshaxd.core.report.describe import gpu_owners, status_notes
from syshaxd.core.report.engine_status import EngineStatus
from syshaxd.core.report.status import status_json
from syshaxd.gateway.errors import Answer
from syshaxd.system.events import EventLog, History

_EVENTS, _DECISIONS = 50, 20
_PRIVATE = frozenset(("model", "address", "ident"))


class Dashboard:
    """Answers the routes of the dashboard."""

    def __init__(
        self,
        status: Callable[[], EngineStatus],
        topology: NumaTopology | None,
        events: EventLog,
        decisions: History[Decided],
    ) -> None:
        self._status = status
        self._events = events
        self._decisions = decisions
        self._topology = topology

    def page(self) -> Answer:
        """The complete page: it loads nothing but the status."""
        return _PAGE

    def status(self) -> Answer:
        """The page's data; the topology is None if the host's could not be read."""
        status = self._status()
        content = status_json(status, monotonic_s=time.monotonic())
        content["now_s"] = time.time()
        content["queued_models"] = dict(status.queued_models)
        content["notes"] = [f"{subject}: {text}" for subject, text in status_notes(status)]
        content["instances"] = [_public(instance) for instance in content["instances"]]
        owners = {instance.spec.name: instance.spec.cores for instance in status.instances if instance.spec.cores}
        on_gpus = gpu_owners((instance.spec for instance in status.instances), status.snapshot.gpus)
        content["topology"] = None if self._topology is None else picture(self._topology, owners, on_gpus)
        content["events"] = [
            {"at_s": event.at_s, "instance": event.instance, "text": event.text}
            for event in self._events.latest(_EVENTS)
            if event.kind is not EventKind.REQUEST
        ]
        content["decisions"] = [_decision(entry) for entry in self._decisions.latest(_DECISIONS)]
        return Answer(200, json.dumps(content).encode(), headers={"cache-control": "no-store"})


def _public(instance: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in instance.items() if key not in _PRIVATE}


def _decision(entry: Decided) -> dict[str, Any]:
    """Where a request was placed and why, but not which request."""
    decision = entry.decision
    if isinstance(decision, Reject):
        return {"at_s": entry.at_s, "place": "rejected", "reasons": [decision.reason]}
    place = "queue" if isinstance(decision, Wait) else ", then ".join(decision.places)
    return {"at_s": entry.at_s, "place": place, "reasons": list(decision.reasons)}


def _page() -> Answer:
    """Inlines style and script, and a policy that allows only these two."""
    folder = resources.files(__package__)
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    text = (
        (folder / "page.html")
        .read_text(encoding="utf-8")
        .replace("/* page.css */", style)
        .replace("/* page.js */", script)
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Answer(200, text.encode(), "text/html; charset=utf-8", headers)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_PAGE = _page()
