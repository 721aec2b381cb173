# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""A handed-over request is answered as if one engine had done it all, and computes one token of its prompt."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.handover.client import loading, new_key, prompt, saving
from tests.e2e.handover.conftest import Engine, Engines

pytestmark = pytest.mark.timeout(300)

_seeds = itertools.count(1000)
# Engines run between the examples, and differ in speed.
_few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
_PAIRS = ["ab", "ba", "ac", "ca", "cb", "bc"]
_LENGTHS = [1, 2, 31, 32, 33, 127, 128, 129, 256, 1000, 3000]


def pair_of(engines: Engines, names: str) -> tuple[Engine, Engine]:
    return getattr(engines, names[0]), getattr(engines, names[1])


def hand_over(producer: Engine, consumer: Engine, token_ids: list[int], tokens: int) -> list[int]:
    """Prefill here, the rest there: what the daemon does to offload."""
    key = new_key()
    first = producer.complete(token_ids, 1, **saving(key))
    assert first.transfer["state"] == "saving", first.transfer
    assert (first.transfer["key"], first.transfer["tokens"]) == (key, len(token_ids))
    computed = consumer.prompt_tokens("local_compute")
    rest = consumer.complete(token_ids + first.token_ids, tokens - 1, **loading(key))
    assert consumer.prompt_tokens("local_compute") - computed == 1
    assert rest.cached_tokens == len(token_ids)
    return first.token_ids + rest.token_ids


@pytest.mark.parametrize("names", _PAIRS)
def test_lengths_around_the_blocks_edges(engines: Engines, names: str) -> None:
    producer, consumer = pair_of(engines, names)
    for length in _LENGTHS:
        token_ids = prompt(length, next(_seeds))
        assert hand_over(producer, consumer, token_ids, 12) == engines.b.complete(token_ids, 12).token_ids, length


@given(length=st.integers(1, 3000), names=st.sampled_from(_PAIRS))
@_few
def test_any_length(engines: Engines, length: int, names: str) -> None:
    producer, consumer = pair_of(engines, names)
    token_ids = prompt(length, next(_seeds))
    assert hand_over(producer, consumer, token_ids, 8) == producer.complete(token_ids, 8).token_ids


@given(length=st.integers(1, 1500), cut=st.integers(1, 60), names=st.sampled_from(_PAIRS))
@_few
def test_a_stream_moves_in_the_middle(engines: Engines, length: int, cut: int, names: str) -> None:
    """The client has left after `cut` tokens; the producer had computed those, and perhaps some more."""
    producer, consumer = pair_of(engines, names)
    token_ids, key = prompt(length, next(_seeds)), new_key()
    got = producer.stream_and_close(token_ids, cut, **saving(key, "abort"))
    computed = consumer.prompt_tokens("local_compute")
    rest = consumer.complete(token_ids + got, 80 - len(got), **loading(key))
    assert consumer.prompt_tokens("local_compute") - computed == 1
    assert got + rest.token_ids == producer.complete(token_ids, 80).token_ids


@given(length=st.integers(200, 1200), known=st.integers(1, 1200), names=st.sampled_from(_PAIRS))
@_few
def test_what_the_consumer_has_in_its_own_cache_is_not_loaded_again(
    engines: Engines, length: int, known: int, names: str
) -> None:
    producer, consumer = pair_of(engines, names)
    token_ids = prompt(length, next(_seeds))
    consumer.complete(token_ids[:known], 1)
    hit, loaded = consumer.prompt_tokens("local_cache_hit"), consumer.prompt_tokens("external_kv_transfer")
    answer = hand_over(producer, consumer, token_ids, 8)
    hit, loaded = (
        consumer.prompt_tokens("local_cache_hit") - hit,
        consumer.prompt_tokens("external_kv_transfer") - loaded,
    )
    assert hit + loaded == length
    assert answer == producer.complete(token_ids, 8).token_ids


def test_what_the_producer_had_in_its_cache_is_saved_too(engines: Engines) -> None:
    token_ids = prompt(700)
    whole = engines.a.complete(token_ids, 8).token_ids
    assert hand_over(engines.a, engines.b, token_ids, 8) == whole
    assert hand_over(engines.a, engines.c, token_ids, 8) == whole


def test_a_stream_moves_twice(engines: Engines) -> None:
    token_ids, one, two = prompt(333), new_key(), new_key()
    whole = engines.b.complete(token_ids, 90).token_ids
    got = engines.a.stream_and_close(token_ids, 20, **saving(one, "abort"))
    got += engines.c.stream_and_close(token_ids + got, 20, **loading(one), **saving(two, "abort"))
    got += engines.b.complete(token_ids + got, 90 - len(got), **loading(two)).token_ids
    assert got == whole


def test_a_continuation_with_fewer_tokens_than_were_saved(engines: Engines) -> None:
    token_ids, key = prompt(150), new_key()
    whole = engines.b.complete(token_ids, 60).token_ids
    got = engines.a.stream_and_close(token_ids, 40, **saving(key, "abort"))
    answer = engines.b.complete(token_ids + got[:10], 50, **loading(key))
    assert got[:10] + answer.token_ids == whole
    assert answer.cached_tokens >= len(token_ids) - 1


def test_the_prompt_alone_is_continued(engines: Engines) -> None:
    """All of it was saved; one token is computed again, for its logits."""
    token_ids, key = prompt(260, 5), new_key()
    engines.a.complete(token_ids, 1, **saving(key))
    computed = engines.b.prompt_tokens("local_compute")
    assert engines.b.complete(token_ids, 9, **loading(key)).token_ids == engines.a.complete(token_ids, 9).token_ids
    assert engines.b.prompt_tokens("local_compute") - computed == 1


def test_only_the_asked_for_end_saves(engines: Engines) -> None:
    """A request that is to be saved on abort and finishes, and the other way round."""
    finished, aborted = new_key(), new_key()
    assert engines.a.complete(prompt(50), 3, **saving(finished, "abort")).transfer == {}
    engines.a.stream_and_close(prompt(60), 3, **saving(aborted, "finish"))
    engines.a.complete(prompt(70), 1)
    assert not engines.handovers()


REGEX = "([a-c]{7}[0-9]{5}-){100}"


def test_a_grammar_goes_on_where_the_answer_is(engines: Engines) -> None:
    token_ids, key = prompt(150, 2), new_key()
    whole = engines.b.complete(token_ids, 80, regex=REGEX).token_ids
    got = engines.a.stream_and_close(token_ids, 30, regex=REGEX, **saving(key, "abort"))
    for late in (key, new_key()):  # the second is asked for again and again, and never there
        answer = engines.b.complete(token_ids + got, 80 - len(got), regex=REGEX, continued=len(got), **loading(late))
        assert got + answer.token_ids == whole
    again = engines.b.complete(token_ids + got, 80 - len(got), regex=REGEX)
    assert got + again.token_ids != whole  # else this would show nothing
