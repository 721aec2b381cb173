# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A request that ends instances is known by it also where it went over connections that were kept from before."""

from syshax_sim import Faults
from tests.fakes.handover import duo

POISON = {"model": "m", "messages": [{"role": "user", "content": "poison!"}], "max_tokens": 4}
WELL = POISON | {"messages": [{"role": "user", "content": "hi"}]}


async def test_two_instances_that_end_with_it_make_it_suspect() -> None:
    async with duo() as both:
        for name in ("gpu", "cpu"):
            await both.whole("/v1/chat/completions", WELL, headers={"X-Syshax-Instance": name})
            both.sims[name].set_faults(Faults(poison="poison!"))
        async with both.post("/v1/chat/completions", POISON) as answer:
            assert answer.status == 502
            assert "2 instances broke off while they had this request" in await answer.text()
