# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The Prometheus rules and the Grafana dashboard that the package ships: everything they name exists."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
RULES = ROOT / "packaging/monitoring/syshax.rules.yaml"
DASHBOARD = ROOT / "packaging/monitoring/syshax.dashboard.json"
OF_PROMETHEUS = frozenset(("instance", "job", "le"))
_METRIC = re.compile(r"\b(?:syshax_|vllm:)[a-z0-9_]+\b")


def rules() -> list[dict[str, Any]]:
    return [dict(rule) for group in YAML(typ="safe").load(RULES)["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> Iterator[tuple[str, str]]:
    """Title and expression, as Prometheus gets it."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$host", ".*")
    queries = (ROOT / "docs/metrics.md").read_text().partition("## Queries")[2]
    for line in queries.splitlines():
        if line.startswith("    ") and not line.startswith("    #"):
            yield "docs/metrics.md", line.strip()


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each family; another test holds docs/metrics.md to what the daemon exports."""
    rows = [line.split("|") for line in (ROOT / "docs/metrics.md").read_text().splitlines()]
    return {
        row[1].strip(" `"): (row[2].strip(), frozenset(re.findall(r"\w+", row[3])))
        for row in rows
        if len(row) == 6 and row[1].strip(" `").startswith(("syshax_", "vllm:"))
    }


FAMILIES = documented()


def family_of(sample: str) -> str:
    """The family of a sample; itself if there is none."""
    short = re.sub("_(bucket|count|sum)$", "", sample)
    return short if FAMILIES.get(short, ("", ""))[0] == "histogram" else sample


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_every_metric_and_label_exists(title: str, expression: str) -> None:
    samples = _METRIC.findall(expression)
    assert samples or expression.startswith("up{")
    assert [sample for sample in samples if family_of(sample) not in FAMILIES] == []
    for sample, selector in re.findall(r"\b((?:syshax_|vllm:)[a-z0-9_]+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", selector))
        assert labels <= FAMILIES[family_of(sample)][1] | OF_PROMETHEUS, sample
    known = OF_PROMETHEUS.union(*(FAMILIES[family_of(sample)][1] for sample in samples))
    for clause in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression):
        assert set(re.findall(r"\w+", clause)) <= known


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_rule_says_what_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "action"}
    names = {label for sample in _METRIC.findall(rule["expr"]) for label in FAMILIES[family_of(sample)][1]}
    text = " ".join(rule["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", text)) <= names | OF_PROMETHEUS
    dropped = re.findall(r"without \(([^)]*)\)", rule["expr"])
    gone = set(re.findall(r"\w+", " ".join(dropped)))
    assert not gone & set(re.findall(r"\$labels\.(\w+)", text)), "a label that is summed away is empty"


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())
