# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""instances.py JSON: simulated instances in one process, which can hand KV caches over to each other.

JSON holds a list of three: ports, profiles (see syshax_sim.Profile), and how many times as fast they are as they say.
"""

import asyncio
import json
import sys
from contextlib import AsyncExitStack

from syshax_sim import KvStore, Profile, SimInstance

TIMES = ("step_base_s", "step_per_request_s")
RATES = ("prefill_tokens_per_s", "handover_bytes_per_s")


async def main(ports, profiles, speed):
    store = KvStore()
    async with AsyncExitStack() as stack:
        for port, values in zip(ports, profiles, strict=True):
            faster = {name: values[name] / speed for name in TIMES}
            for name in RATES:
                if name in values:
                    faster[name] = values[name] * speed
            await stack.enter_async_context(SimInstance(Profile(**values | faster), port=port, kv_store=store))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*json.loads(sys.argv[1])))
