# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""While the GPU of a model is away and a CPU answers in its place, that is declared wherever somebody may look."""

from syshaxd.core.types import State
from tests.fakes.handover import Duo, duo

BODY = {"model": "m", "prompt": "hello", "max_tokens": 2}
HEADER = "X-Syshax-Carried-For"


async def header(both: Duo, **headers: str) -> str | None:
    async with both.post("/v1/completions", BODY, headers=headers) as answer:
        assert answer.status == 200
        await answer.read()
        said: str | None = answer.headers.get(HEADER)
        return said


async def metrics(both: Duo) -> list[str]:
    async with both.session.get(f"{both.url}/metrics") as answer:
        return [line for line in (await answer.text()).splitlines() if "carried" in line and not line.startswith("#")]


def events(both: Duo) -> list[str]:
    return [event.text for event in both.engine.events.latest(100) if event.kind == "model"]


async def test_it_is_declared_from_the_first_request_to_the_last() -> None:
    async with duo() as both:
        assert await header(both) is None
        assert 'syshax_model_carried{model="m"} 0.0' in await metrics(both)
        before = events(both)

        both.supervisor.become("gpu", State.FAILED)
        assert await header(both) == "gpu"
        assert await header(both, **{"X-Syshax-Instance": "cpu"}) is None, "its client wants the CPU"
        assert await metrics(both) == [
            'syshax_requests_carried_total{placement="cpu"} 1.0',
            'syshax_model_carried{model="m"} 1.0',
        ]
        assert events(both)[len(before) :] == ["m: answered by cpu alone, as gpu takes no requests"]
        assert both.metrics.records[-2].carried_for == ("gpu",)

        await both.ready("gpu")
        assert await header(both) is None
        assert 'syshax_model_carried{model="m"} 0.0' in await metrics(both)
        assert events(both)[-1] == "m: no longer answered by CPUs alone"
