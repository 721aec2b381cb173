# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A comparison of two instances, as a table."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from syshaxd.cli.tables import Heading, fitting_table
from syshaxd.core.parity import Agreement, ParityCause, ParityReport, PromptReport

_COLOURS = {
    Agreement.AGREES: "green",
    Agreement.NOISE: "green",
    Agreement.QUANTISED: "yellow",
    Agreement.DIFFERS: "red",
    Agreement.UNKNOWN: "yellow",
}
_PROMPT_COLUMNS, _NARROW_PROMPT_COLUMNS = 28, 16
"""Terminal columns, on narrow terminals too: Chinese characters take two."""
_NARROW = 80
_HEADINGS = (
    Heading("PROMPT"),
    Heading("FIRST", right=True, spare=1),
    *(Heading(name, right=True) for name in ("PREFIX", "SAME TOP", "PREFILL", "DECODE")),
    Heading("DIVERGE AT", least=10),
)


def parity_line(report: ParityReport) -> Text:
    """The verdict in one line."""
    verdict, figures = report.verdict, report.figures
    distances = f" (distance {max(figures.prefill_distance, figures.decode_distance):.3f})" if figures.positions else ""
    moves = "" if verdict.allowed or not verdict.reasons else f": {verdict.reasons[-1]}"
    return Text.assemble(
        (f"{report.first} and {report.second}: ", "bold"),
        (verdict.agreement, _COLOURS.get(verdict.agreement, "")),
        distances,
        moves,
    )


def parity_table(report: ParityReport, width: int) -> RenderableType:
    """The whole report, for a terminal of `width` columns."""
    columns = _PROMPT_COLUMNS if width >= _NARROW else _NARROW_PROMPT_COLUMNS
    table = fitting_table(_HEADINGS, [_cells(prompt, columns) for prompt in report.prompts], width)
    return Group(*_head(report), *((Text(), table) if report.prompts else ()))


def _head(report: ParityReport) -> Iterator[Text]:
    verdict, figures = report.verdict, report.figures
    yield Text.assemble(
        (f"{report.first} and {report.second}: ", "bold"),
        (verdict.agreement, _COLOURS.get(verdict.agreement, "")),
        "" if verdict.cause is ParityCause.NONE else f"; likely cause: {verdict.cause}",
        f"; requests {'may' if verdict.allowed else 'may not'} move between them",
    )
    yield from (Text(f"  {reason}") for reason in verdict.reasons)
    if figures.positions:
        yield Text(
            f"  first token the same in {figures.first_token_ratio:.0%} of the answers, the whole answer in "
            f"{figures.greedy_ratio:.0%}; {figures.common_prefix_ratio:.0%} of the tokens come before a difference"
        )
        yield Text(
            f"  distance of the probabilities (0 to 1): prefill {figures.prefill_distance:.4f}, "
            f"decode {figures.decode_distance:.4f}"
        )


def _cells(prompt: PromptReport, columns: int) -> tuple[str | Text, ...]:
    shown = Text(prompt.prompt.replace("\n", " "))
    shown.truncate(columns, overflow="ellipsis")
    if not prompt.same_tokens:
        return (shown, "", "", "", "", "", "other tokens")
    return (
        shown,
        "same" if prompt.common_tokens else "differs",
        f"{prompt.common_tokens}/{prompt.generated_tokens}",
        f"{prompt.same_top}/{prompt.positions}",
        f"{prompt.prefill_distance:.4f}",
        f"{prompt.decode_distance:.4f}",
        _parting(prompt),
    )


def _parting(prompt: PromptReport) -> str:
    """Where the answers diverge, and by how much each side preferred its own token."""
    difference = prompt.difference
    if difference is None:
        return ""
    margins = f"{difference.first_margin_nats:.2f} and {difference.second_margin_nats:.2f} nats"
    return f"token {difference.index + 1}: {'a near tie' if difference.near_tie else 'clearly'}, {margins}"
