# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The admission queues, one for each model. Only `first_pinned` costs more in a longer queue."""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from syshaxd.core.errors import NotFoundError
from syshaxd.core.placement.claims import Claim, Fleet
from syshaxd.core.placement.decision import InferenceRequest
from syshaxd.core.placement.turns import Entry, Turns
from syshaxd.core.types import InstanceSpec

MOST_OVERTAKEN = 256
"""A batch request is overtaken by at most this many interactive ones that arrived later."""
_SCANNED = 4
"""Entries that are examined for each one that is offered the CPU."""


class Queue:
    """The claims of one model: batch behind interactive ones, and in each class API keys take turns (`Turns`).

    No batch request starves: once `most_overtaken` interactive requests that arrived later are before the first of
    them, it keeps its position. So without keys, what arrives with `n` entries in the queue waits for at most
    `n + most_overtaken` of them.
    """

    def __init__(self, most_overtaken: int = MOST_OVERTAKEN) -> None:
        """Begins empty."""
        self._most_overtaken = most_overtaken
        self._settled = Turns()
        self._batch = Turns()
        """Batch claims that interactive ones may still overtake."""
        self._overtaking = 0
        self._size = 0
        self._returns = 0
        self._pinned: Counter[str | None] = Counter()
        """Entries by the instance that the client insists on."""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        return chain(self._settled, self._batch)

    @property
    def waiting(self) -> int:
        """Requests that wait; those that a CPU answers meanwhile do not count."""
        return len(self) - self._returns

    @property
    def before_batch(self) -> int:
        """Entries before the batch requests that may still be overtaken."""
        return len(self._settled)

    def claims(self) -> Iterator[Claim]:
        """The claims that wait, in order."""
        return (entry.claim for entry in self if not entry.gpu)

    def has_room(self, key: str, size: int) -> bool:
        """Whether one more request of a key may wait: in a queue of this size, or else in the key's equal share."""
        if self.waiting < size:
            return True
        keys = self._settled.keys | self._batch.keys | {key}
        return self._settled.count(key) + self._batch.count(key) < size // len(keys)

    def ahead_of(self, request: InferenceRequest) -> int:
        """At most this many entries come before a request that arrives now; 0 only if none does."""
        if request.is_batch:
            return len(self._settled) + self._batch.ahead_of(request.key)
        return self._settled.ahead_of(request.key)

    def waits_for(self, instance: str, *, is_gpu: bool) -> bool:
        """Whether a claim here may get the next slot of an instance: all that insist on none wait for the GPUs."""
        return self._pinned[instance] > 0 or (is_gpu and self._pinned[None] > 0)

    @property
    def pinned(self) -> list[str]:
        """The instances that claims here insist on."""
        return [name for name, count in self._pinned.items() if name is not None and count]

    def first_pinned(self, instance: str) -> Claim | None:
        """The first claim that insists on an instance."""
        return next((claim for claim in self.claims() if claim.request.pinned == instance), None)

    def append(self, claim: Claim, gpu: str = "") -> None:
        """Adds a claim that has arrived."""
        self._discard(claim)
        self._count(claim, gpu, 1)
        if claim.is_batch:
            self._batch.append(Entry(claim, gpu, self._overtaking))
            return
        self._overtaking += 1
        while (first := self._batch.first) is not None:
            if self._overtaking - (first.overtaking or 0) <= self._most_overtaken:
                break
            self._batch.remove(first.claim)
            first.overtaking = None
            self._settled.append(first)
        self._settled.append(Entry(claim, gpu))

    def prepend(self, claim: Claim, gpu: str = "") -> None:
        """Adds a claim before all others, or moves it there."""
        self._discard(claim)
        self._count(claim, gpu, 1)
        self._settled.prepend(Entry(claim, gpu))

    def replace(self, claim: Claim, gpu: str) -> None:
        """A CPU answers a claim that waits; its position stays."""
        entry = self._find(claim)
        assert entry is not None
        self._returns += 1
        entry.gpu = gpu

    def pop_first(self) -> Entry:
        """Takes the first entry out of the queue, which is not empty."""
        first = self._settled.first or self._batch.first
        assert first is not None
        self._discard(first.claim)
        return first

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Returns entries that were taken out to their former positions."""
        for entry in reversed(entries):
            (self._settled if entry.overtaking is None else self._batch).put_back(entry)
            self._count(entry.claim, entry.gpu, 1)

    def last(self, count: int) -> list[tuple[int, Claim]]:
        """The last entries that wait, each with the number of entries before it; never the first entry.

        Entries that are held out do not count: they must not keep others from the CPU.
        """
        size, found, seen = len(self), list[tuple[int, Claim]](), 0
        ends = islice(chain(reversed(self._batch), reversed(self._settled)), max(0, size - 1))
        for at, entry in enumerate(islice(ends, _SCANNED * count)):
            if seen == count:
                break
            if entry.gpu or not entry.claim.held_out:
                seen += 1
                if not entry.gpu:
                    found.append((size - 1 - at, entry.claim))
        return found

    def remove_waiting(self, claim: Claim) -> bool:
        """Removes a claim if it waits; false: it does not."""
        entry = self._find(claim)
        if entry is None or entry.gpu:
            return False
        self._discard(claim)
        return True

    def remove_return(self, claim: Claim) -> None:
        """Removes a claim if a CPU answers it meanwhile."""
        if not self._returns:
            return
        entry = self._find(claim)
        if entry is not None and entry.gpu:
            self._discard(claim)

    def _find(self, claim: Claim) -> Entry | None:
        return self._settled.find(claim) or self._batch.find(claim)

    def _discard(self, claim: Claim) -> None:
        entry = self._settled.remove(claim) or self._batch.remove(claim)
        if entry is not None:
            self._count(claim, entry.gpu, -1)

    def _count(self, claim: Claim, gpu: str, change: int) -> None:
        self._size += change
        self._returns += change * bool(gpu)
        self._pinned[claim.request.pinned] += change


class Queues:
    """The queue of each model."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, Queue] = OrderedDict()  # least recently served model first

    @property
    def waiting(self) -> int:
        """Requests that wait, of all models."""
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def entries(self) -> int:
        """Entries of all queues."""
        return sum(map(len, self._queues.values()))

    def claims(self) -> Iterator[Claim]:
        """The claims that wait, model by model."""
        return (claim for queue in self._queues.values() for claim in queue.claims())

    def get(self, model: str) -> Queue:
        """A model's queue; an empty one if it never had any."""
        queue = self._queues.get(model)
        return Queue() if queue is None else queue

    def of(self, claim: Claim, fleet: Fleet) -> Queue:
        """The queue of the model that a claim's instances serve; a claim that none serves is in no queue."""
        if not claim.queue:
            try:
                claim.queue = _model_of(fleet.candidates(claim.request, ()) or fleet.waited_for(claim.request, ()))
            except NotFoundError:
                return Queue()  # the decision refuses it
        queue = self._queues.get(claim.queue)
        if queue is None:
            queue = Queue()
            if claim.queue:
                self._queues[claim.queue] = queue
        return queue

    def of_instances(self, candidates: Sequence[InstanceSpec]) -> Queue:
        """The queue of the model that these instances serve."""
        return self.get(_model_of(candidates))

    def in_turn(self) -> list[str]:
        """The models with entries, the least recently served first."""
        return [model for model, queue in self._queues.items() if len(queue)]

    def has_had_turn(self, model: str) -> None:
        """A request for a model has got a slot."""
        self._queues.move_to_end(model)


def _model_of(candidates: Sequence[InstanceSpec]) -> str:
    """The model that instances serve; of several models, the first one's."""
    return candidates[0].served_model if candidates else ""
