# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The queue of a model between API keys: they take turns, and nobody starves or loses a position."""

import gc
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syshaxd.core.placement.claims import Claim
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.queue import Queue
from syshaxd.core.placement.targets import RequestClass

KEYS = st.sampled_from(["alice", "bob", "carol", ""])


def claim(key: str = "", *, batch: bool = False) -> Claim:
    kind = RequestClass.BATCH if batch else RequestClass.INTERACTIVE
    return Claim(InferenceRequest(request_id=key, model="m", stream=True, key=key, request_class=kind))


def test_500_requests_of_a_key_do_not_keep_another_keys_single_request_waiting() -> None:
    queue = Queue()
    for _ in range(500):
        queue.append(claim("alice"))
    single = claim("bob")
    assert queue.ahead_of(single.request) == 1
    queue.append(single)
    assert queue.pop_first().claim.key == "alice"
    assert queue.pop_first().claim is single
    assert queue.ahead_of(claim("alice").request) == 499


@given(st.lists(KEYS, max_size=60), st.integers(1, 20))
def test_while_keys_have_requests_waiting_they_are_served_equally(first: list[str], count: int) -> None:
    queue = Queue()
    for key in [*first, *["alice"] * count, *["bob"] * count]:
        queue.append(claim(key))
    left = Counter(entry.claim.key for entry in queue)
    served: Counter[str] = Counter()
    while len(queue):
        key = queue.pop_first().claim.key
        served[key] += 1
        left[key] -= 1
        waiting = [served[each] for each in left if left[each]]
        assert not waiting or max(waiting) - min(waiting) <= 1


@given(st.lists(st.booleans(), max_size=80))
def test_a_key_that_asks_again_at_once_gets_every_second_turn(events: list[bool]) -> None:
    """It has one request at a time, against a key with many: neither is served twice while the other waits."""
    queue, order = Queue(), []
    for _ in range(200):
        queue.append(claim("many"))
    queue.append(claim("single"))
    for more in events:
        if more:
            queue.append(claim("many"))
        order.append(queue.pop_first().claim.key)
        if order[-1] == "single":
            queue.append(claim("single"))
    assert order == ["many", "single"] * (len(events) // 2) + ["many"] * (len(events) % 2)


class KeysTakeTurns(RuleBasedStateMachine):
    """Requests come, go, are taken out and put back, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue(most_overtaken=3)
        self.arrived: list[Claim] = []

    @rule(key=KEYS, batch=st.booleans(), returns=st.booleans())
    def arrive(self, key: str, batch: bool, returns: bool) -> None:
        new = claim(key, batch=batch)
        ahead = self.queue.ahead_of(new.request)
        self.queue.append(new, "gpu" if returns else "")
        order = [entry.claim for entry in self.queue]
        assert order.index(new) <= ahead or (not batch and any(each.is_batch for each in order))
        assert ahead or order[0] is new or order[0].is_batch
        self.arrived.append(new)

    @precondition(lambda self: len(self.queue))
    @rule(passed_over=st.integers(0, 3))
    def serve(self, passed_over: int) -> None:
        """The first that can run, after some that have to wait for something else."""
        waiting = list(self.queue)
        passed = [self.queue.pop_first() for _ in range(min(passed_over, len(self.queue) - 1))]
        served = self.queue.pop_first().claim
        self.queue.put_back(passed)
        assert list(self.queue) == [entry for entry in waiting if entry.claim is not served]
        self.arrived.remove(served)

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.arrived))
        if not self.queue.remove_waiting(gone):
            self.queue.remove_return(gone)
        self.arrived.remove(gone)

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def go_first(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from(self.arrived))
        self.queue.prepend(chosen)
        assert next(iter(self.queue)).claim is chosen
        assert self.queue.pop_first().claim is chosen
        self.arrived.remove(chosen)

    @invariant()
    def order_within_a_key_and_class_is_that_of_arrival(self) -> None:
        order = [entry.claim for entry in self.queue]
        assert sorted(order, key=self.arrived.index) == self.arrived
        for key in {each.key for each in order}:
            for batch in (True, False):
                mine = [each for each in order if each.key == key and each.is_batch is batch]
                assert mine == [each for each in self.arrived if each in mine]

    @invariant()
    def the_ends_agree_with_the_order(self) -> None:
        order = list(self.queue)
        assert self.queue.waiting == sum(not entry.gpu for entry in order)
        expected = [(at, entry.claim) for at, entry in enumerate(order) if at and not entry.gpu][::-1]
        assert self.queue.last(len(order) + 1) == expected


TestKeysTakeTurns = KeysTakeTurns.TestCase
TestKeysTakeTurns.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_full_queue_still_takes_requests_of_a_key_below_its_share() -> None:
    queue = Queue()
    for _ in range(10):
        queue.append(claim("alice"))
    assert not queue.has_room("alice", 10)
    for _ in range(5):
        assert queue.has_room("bob", 10)
        queue.append(claim("bob"))
    assert not queue.has_room("bob", 10)
    assert queue.has_room("carol", 10)


def test_a_long_queue_costs_no_more_than_a_short_one() -> None:
    def calls(length: int) -> int:
        queue, count = Queue(), 0

        def seen(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in {"call", "c_call"}

        for number in range(length):
            queue.append(claim("alice" if number % 2 else "bob"))
        gc.disable()  # what it finalizes of other tests would count
        sys.setprofile(seen)
        try:
            queue.append(claim("carol"))
            queue.ahead_of(claim("bob").request)
            queue.put_back([queue.pop_first(), queue.pop_first()])
            queue.last(16)
            queue.pop_first()
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    assert calls(20_000) == calls(200)
