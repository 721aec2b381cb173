# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""syshaxctl explain: one request's decisions, what else could have been done, and how it ended."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from syshaxd.cli import complete, show
from syshaxd.cli.connection import run
from syshaxd.cli.options import output_option
from syshaxd.client import ControlClient
from syshaxd.core.types import FULL_WEIGHTS

_INDENT = 4


@click.command()
@click.argument("request_id", default="")
@click.option("--model", default="", shell_complete=complete.models, help="The latest request for this model.")
@output_option
@click.pass_obj
def explain(socket: Path | None, request_id: str, model: str, output: str) -> None:
    """Shows where the request REQUEST_ID ran, why, and how it ended.

    For each decision: the ways to serve the request with the predicted seconds to the first token and to the end of
    the answer, the seconds that each takes from other requests, and the loads. SURE GAIN is what help by the CPU gains
    even if every measurement is off. Responses carry the ID as X-Request-Id; `syshaxctl decisions` lists recent ones.

    \b
    Examples:
      syshaxctl explain 5f1c22ab-1f
      syshaxctl explain --model qwen-7b
      syshaxctl explain 5f1c22ab-1f -o json | jq '.decisions[].alternatives'
    """  # noqa: D301
    if bool(request_id) is bool(model):
        raise click.UsageError("give either REQUEST_ID or --model")

    async def work(client: ControlClient) -> None:
        answer = await client.ask("ExplainDecision", request_id=request_id, model=model)
        if output == "json":
            click.echo(json.dumps(answer, indent=2))
            return
        console = show.console()
        for entry in answer["decisions"]:
            console.print(Text(decision_line(entry)))
            for part in _details(entry):
                console.print(Padding(part, (0, 0, 0, _INDENT), expand=False))
        for end in answer["ends"]:
            for move in end["handovers"]:
                console.print(Text(f"moved: {_handover_text(move)}"))
            console.print(Text(_end_text(end, answer["decisions"])))

    run(socket, work)


def decision_line(entry: Mapping[str, Any]) -> str:
    """A decision in one line: time, request, decision and reasons."""
    return f"{show.clock_text(entry['at_s'])}  {entry['request_id']}  {decision_text(entry['decision'])}"


def decision_text(decision: Mapping[str, Any]) -> str:
    """What was decided, where, and the reasons."""
    kind = str(decision["kind"]).removeprefix("DECISION_KIND_").lower().replace("_", " ")
    where = "+".join(dict.fromkeys(name for name in (decision["prefill"], decision["decode"]) if name))
    return f"{kind} {where}".rstrip() + f": {'; '.join(decision['reasons'])}"


def _details(entry: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(_inputs(entry))
    if entry["alternatives"]:
        yield _alternatives(entry["alternatives"])
    if entry["candidates"]:
        yield _candidates(entry["candidates"])


def _inputs(entry: Mapping[str, Any]) -> str:
    parts = [entry["path"], *([f"model {entry['model']}"] if entry["model"] else [])]
    if entry["prompt_tokens"]:
        parts.append(f"prompt of about {entry['prompt_tokens']} tokens")
    limit = f", at most {entry['max_tokens']}" if "max_tokens" in entry else ""
    if entry["expected_tokens"]:
        parts.append(f"answer of about {entry['expected_tokens']:.0f} tokens{limit} ({_quantiles(entry)})")
    if entry["full_weights"]:
        parts.append("full weights only")
    if entry["policy"]:
        parts.append(f"policy {entry['policy']}")
    return "; ".join((*parts, f"{entry['queued']} queued"))


def _quantiles(entry: Mapping[str, Any]) -> str:
    median, long = entry["expected_median_tokens"], entry["expected_long_tokens"]
    return f"median {median}, 90th percentile {long}, from {entry['expected_from']}"


def _alternatives(ways: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("WAY", "FIRST TOKEN", "WHOLE ANSWER", "COST TO OTHERS", "SURE GAIN", "")
    for way in ways:
        times = [_seconds(way.get(name)) for name in ("first_s", "whole_s", "others_s", "least_s")]
        table.add_row(Text("+".join(way["places"])), *times, "chosen" if way["chosen"] else "")
    return table


def _candidates(candidates: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("INSTANCE", "IN FLIGHT", "RUN", "WAIT", "KV", "TOKENS/S", "WEIGHTS")
    for item in candidates:
        kv = f"{item['kv_usage_ratio']:.0%}" if "kv_usage_ratio" in item else "-"
        rate = f"{item['generation_tokens_per_s']:.0f}" if "generation_tokens_per_s" in item else "-"
        counts = [str(item.get(name, "-")) for name in ("inflight", "running", "waiting")]
        table.add_row(Text(item["name"]), *counts, kv, rate, Text(item["weights"]))
    return table


def _table(*names: str) -> Table:
    """Names of several words take as many lines on narrow terminals, before anything is cut off."""
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(names):
        justify: Literal["left", "right"] = "left" if number in {0, len(names) - 1} else "right"
        table.add_column(name, justify=justify, no_wrap=" " not in name)
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _end_text(end: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> str:
    """How it ended; the prediction is that of the decision by which it got its slots."""
    parts = [f"ended: {end['outcome']} after {end['duration_s']:.3f} s", f"{end['tokens_out']} tokens"]
    if "ttft_s" in end:
        parts.append(f"first token after {end['ttft_s']:.3f} s")
    parts.append(f"{end['queue_s']:.3f} s queued")
    if end["carried_for"]:
        parts.append(f"by a CPU, as {', '.join(end['carried_for'])} took no requests")
    if end["held_out"]:
        parts.append("held out: it waited for the GPU to measure what help by the CPU gains")
    chosen = [way for entry in decisions for way in entry["alternatives"] if way["chosen"] and "whole_s" in way]
    text = ", ".join(parts)
    if not chosen or end["outcome"] != "ok":
        return text
    measured = _seconds(end["duration_s"] - end["queue_s"])
    return f"{text}\nfrom its placement: {measured} measured, {_seconds(chosen[-1]['whole_s'])} predicted"


def _handover_text(move: Mapping[str, Any]) -> str:
    weights = [f"{move['weights']} weights"] if move["weights"] not in {"", FULL_WEIGHTS} else []
    text = f"from {move['source']} to {', '.join([move['target'], *weights])} ({move['cause']})"
    gap = f", {move['gap_s'] * 1000:.0f} ms between two tokens" if "gap_s" in move else ""
    return f"{text} with {move['tokens']} tokens, KV cache {move['result']}{gap}"
