# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""JSON of others may be nested so deeply that Python cannot read it: that is one more way of not being valid."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from syshaxd.core import jsontext
from syshaxd.core.config.keys import parse_text
from syshaxd.core.errors import SyshaxError
from syshaxd.core.handover.held_back import _parsed
from syshaxd.core.placement.replay.trace import parse
from syshaxd.core.report.error_detail import restored
from syshaxd.core.weights.tensors import parse_header
from syshaxd.core.wire.batches import Line, answered_line
from syshaxd.instances.catalog import _adapters

DEEP = "[" * 100_000
READERS: dict[str, Callable[[], Any]] = {
    "a list of the configuration": lambda: parse_text("gateway.cors_origins", DEEP),
    "an entry of the configuration": lambda: parse_text("services.gpu.args.x", DEEP),
    "an event of an instance": lambda: _parsed(f"data: {DEEP}".encode()),
    "a trace": lambda: parse('{"a": ' + DEEP),
    "an error of the control plane": lambda: restored(DEEP, "it failed"),
    "a header of safetensors": lambda: parse_header("x", DEEP.encode(), 1 << 20),
    "an answer to a batch's line": lambda: answered_line(
        "b", Line(number=1, custom_id="c", body=b""), 200, "id", DEEP.encode()
    ),
    "a flag of the engine": lambda: list(_adapters(["--lora-modules", '{"name": ' + DEEP])),
}


@pytest.mark.parametrize("text", [DEEP, DEEP.encode(), '{"a":' * 100_000, "", "nonsense"])
def test_what_cannot_be_read_is_one_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own errors have other texts
        jsontext.loads(text)


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_it_copes(reader: str) -> None:
    with suppress(SyshaxError, ValueError):
        READERS[reader]()
