# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Sends the prompts of a comparison to one instance."""

import asyncio

import aiohttp

from syshaxd.core.errors import InstanceFailedError, InstanceTimeoutError
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.parity import PROMPTS, PromptAnswer, parse_answer, request_body
from syshaxd.core.types import InstanceSpec
from syshaxd.system.connecting import NO_ANSWER, read_json, read_whole, why_no_answer

PATH = "/v1/completions"
_SHOWN_CHARACTERS = 300


async def ask(session: aiohttp.ClientSession, spec: InstanceSpec, *, timeout_s: float) -> tuple[PromptAnswer, ...]:
    """Returns an answer to each prompt, with one request at a time to keep the load low.

    Raises:
        InstanceFailedError: It can't be reached, refuses, or its answer has no log-probabilities.
        InstanceTimeoutError: It took over `timeout_s` for all of them.
    """
    answers: list[PromptAnswer] = []
    try:
        async with asyncio.timeout(timeout_s):
            for prompt in PROMPTS:
                answers.append(await _ask_one(session, spec, prompt))  # noqa: PERF401 - one at a time is the point
    except TimeoutError:
        raise InstanceTimeoutError(
            f"{spec.name}: {len(answers)} of {len(PROMPTS)} prompts were answered within {timeout_s:g} s "
            "(parity.timeout_s)"
        ) from None
    return tuple(answers)


async def _ask_one(session: aiohttp.ClientSession, spec: InstanceSpec, prompt: str) -> PromptAnswer:
    what = f"{spec.name}: POST {PATH}"
    try:
        async with session.post(
            spec.address.url(PATH),
            json=request_body(spec.served_model, prompt),
            headers=own_headers(spec),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as response:
            if response.status != 200:
                text = (await read_whole(response)).decode("utf-8", "replace")[:_SHOWN_CHARACTERS]
                raise InstanceFailedError(f"{what}: status {response.status} {text}")
            body = await read_json(response)
            return parse_answer(body)
    except NO_ANSWER as error:
        raise InstanceFailedError(f"{what}: {why_no_answer(error, spec.host)}") from error
