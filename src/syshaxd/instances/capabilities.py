# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""What an instance says of itself that decides about hand-overs."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from syshaxd.core.errors import InstanceFailedError
from syshaxd.core.handover.pairs import InstanceFacts
from syshaxd.core.launch.instance_key import own_headers
from syshaxd.core.types import InstanceSpec
from syshaxd.system.connecting import NO_ANSWER, read_json, why_no_answer

_TIMEOUT = aiohttp.ClientTimeout(total=30)
# Letters of several scripts, numbers and code: tokenizers that agree on these are the same.
_PROBE = "Hello, Wörld! 你好世界 1234567 def f(x): return x**2\n"


async def read_facts(session: aiohttp.ClientSession, spec: InstanceSpec) -> InstanceFacts:
    """Asks a ready instance.

    Raises:
        InstanceFailedError: It cannot be asked.
    """
    base, headers = spec.address.url(), own_headers(spec)
    try:
        version = await _json(session.get(f"{base}/version", headers=headers, timeout=_TIMEOUT))
        models = await _json(session.get(f"{base}/v1/models", headers=headers, timeout=_TIMEOUT))
        cards: Mapping[str, Mapping[str, Any]] = {model["id"]: model for model in models["data"]}
        ask: dict[str, Any] = {"model": spec.served_model, "prompt": _PROBE}
        ids = await _json(session.post(f"{base}/tokenize", json=ask, headers=headers, timeout=_TIMEOUT))
        ask = {"model": spec.served_model, "messages": [{"role": "user", "content": _PROBE}]}
        async with session.post(f"{base}/tokenize", json=ask, headers=headers, timeout=_TIMEOUT) as answer:
            # A model without a chat template refuses this.
            chat_ids = (await read_json(answer))["tokens"] if answer.status == 200 else []
        return InstanceFacts(
            version=str(version["version"]),
            max_model_len=cards[spec.served_model].get("max_model_len"),
            probe_ids=(*ids["tokens"], *chat_ids),
        )
    except NO_ANSWER as error:
        why = why_no_answer(error, spec.host)
        raise InstanceFailedError(f"{spec.name} does not report its version and tokens: {why}") from error


async def _json(request: Any) -> Mapping[str, Any]:
    async with request as answer:
        answer.raise_for_status()
        answered: Mapping[str, Any] = await read_json(answer)
        return answered
