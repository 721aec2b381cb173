# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A batch on a daemon that is killed in the middle of it."""

import json
from collections import Counter

import openai
import pytest

from tests.fakes.waiting import until
from tests.faults.bed import READY_S, Bed
from tests.faults.report import Row, sized

pytestmark = pytest.mark.timeout(600)

LINES = sized(100, 1000)
TOKENS = 20
_LIMIT_S = sized(120.0, 600.0)


def test_the_daemon_is_killed_within_a_batch(bed: Bed, row: Row) -> None:
    row.done = f"SIGKILL of the daemon within a batch of {LINES} lines; the next one continues it"
    rows = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "m", "prompt": f"line {number}", "max_tokens": TOKENS, "ignore_eos": True},
        }
        for number in range(LINES)
    ]
    data = b"".join(json.dumps(each).encode() + b"\n" for each in rows)
    with openai.OpenAI(base_url=f"{bed.url}/v1", api_key="none", max_retries=5) as client:
        given = client.files.create(file=("in.jsonl", data), purpose="batch")
        its_id = client.batches.create(input_file_id=given.id, endpoint="/v1/completions", completion_window="24h").id

        def answered() -> int:
            return client.batches.retrieve(its_id).request_counts.completed

        until(lambda: answered() >= LINES // 4, _LIMIT_S, "a quarter is answered")
        bed.kill("daemon")
        bed.start()
        bed.wait_ready()
        assert answered() >= LINES // 4, "what was answered is kept"
        until(lambda: client.batches.retrieve(its_id).status == "completed", _LIMIT_S, "the batch is completed")
        batch = client.batches.retrieve(its_id)
        assert batch.output_file_id is not None
        assert batch.error_file_id is None
        found = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
        listed = bed.ctl("batches", "list", "-o", "json")
        assert [each["status"] for each in json.loads(listed.stdout) if each["id"] == its_id] == ["completed"]
        for file_id in (given.id, batch.output_file_id):
            client.files.delete(file_id)
    assert Counter(each["custom_id"] for each in found) == Counter(str(number) for number in range(LINES))
    for each in found:
        assert each["response"]["body"]["usage"]["completion_tokens"] == TOKENS
    row.counts.verdicts["ok"] += LINES
    until(lambda: not bed.metric("syshax_requests_inflight{"), READY_S, "nothing runs")
