# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Continuous batching over a device profile: one task paces the steps of all requests."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from syshax_sim.profile import Profile

_MAX_LAG_S = 1.0
"""A step loop that is later than this does not catch up."""


@dataclass(slots=True, eq=False)
class Generation:
    """One answer that is being made."""

    prompt_tokens: int
    max_tokens: int
    on_token: Callable[["Generation"], None]
    """Called after every token, and after the last one with `finished` set."""
    loaded_tokens: int = 0
    """Prompt tokens whose KV came from another instance."""
    tokens: int = 0
    """Made so far."""
    finished: bool = False
    uncomputed: int = 0
    """Prompt tokens whose KV is still missing."""
    chunk: int = 0
    """Those of them that the present step computes."""
    begun_s: float = 0.0
    """The engine's busy seconds when it was admitted."""
    spoke_s: float = 0.0
    """The same at its last token."""

    @property
    def kv_tokens(self) -> int:
        """KV cache tokens that it needs."""
        return self.prompt_tokens + self.tokens


@dataclass(slots=True)
class Counters:
    """Since the start."""

    prompt_tokens: int = 0
    loaded_tokens: int = 0
    generation_tokens: int = 0
    prefills: int = 0
    """Prompts of which at least a token was computed, up to the first token of the answer."""
    prefill_s: float = 0.0
    prefill_tokens: int = 0
    """Computed in these."""
    token_s: float = 0.0
    """Sum of the times between two tokens of one answer."""
    token_gaps: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0
    steps: int = 0
    busy_s: float = 0.0
    peak_running: int = 0
    peak_waiting: int = 0


@dataclass(slots=True, eq=False)
class Engine:
    """Runs generations. Lives in one event loop."""

    profile: Profile
    counters: Counters = field(default_factory=Counters)
    running: dict[Generation, None] = field(default_factory=dict)
    """In the order of admission."""
    waiting: deque[Generation] = field(default_factory=deque)
    kv_used_tokens: int = 0
    stalled: bool = False
    """A fault: requests are admitted, but no step ends."""
    slowdown: Callable[[], float] = lambda: 0.0
    """Share by which a step that begins now takes longer, as another device is at work."""
    on_busy: Callable[[bool], None] = lambda busy: None
    """Called when it begins to compute, and when it has nothing to do any more."""
    _step_ends_s: float = 0.0
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, generation: Generation) -> None:
        """Queues a generation."""
        generation.uncomputed = generation.prompt_tokens - generation.loaded_tokens
        self.counters.loaded_tokens += generation.loaded_tokens
        self.waiting.append(generation)
        self.counters.peak_waiting = max(self.counters.peak_waiting, len(self.waiting))
        self._work.set()
        self._changed.set()

    def abort(self, generation: Generation) -> None:
        """Ends a generation that nobody wants any more; its place is free at once. Nothing happens if it has ended."""
        if generation in self.running:
            self._leave(generation)
        elif generation in self.waiting:
            self.waiting.remove(generation)
        else:
            return
        self.counters.aborted += 1
        self._changed.set()

    def stall(self, stalled: bool) -> None:
        """Stops ending steps, or continues."""
        self.stalled = stalled
        self._work.set()

    @property
    def step_left_s(self) -> float:
        """Until the present step ends."""
        return max(0.0, self._step_ends_s - asyncio.get_running_loop().time())

    async def until(self, state: Callable[[], bool]) -> None:
        """Returns once `state()` holds. It is looked at after every step, addition and abortion: for tests."""
        while not state():
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Makes steps until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self.stalled:
                self.admit()
                self._changed.set()
            if self.stalled or not (self.running or self.waiting):
                self._work.clear()
                self.on_busy(False)
                await self._work.wait()
                self.on_busy(True)
                due = loop.time()
                continue
            duration_s = self.begin_step() * (1 + self.slowdown())
            due = max(due + duration_s, loop.time() - _MAX_LAG_S)
            self._step_ends_s = due
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.counters.busy_s += duration_s
            self.end_step()
            self.counters.steps += 1

    def begin_step(self) -> float:
        """Chooses what the step computes; returns how long that takes, in seconds."""
        self.admit()
        left = self.profile.max_batched_tokens
        for generation in self.running:
            generation.chunk = min(generation.uncomputed, left)
            left -= generation.chunk
        prefilled = self.profile.max_batched_tokens - left
        return (
            self.profile.step_base_s
            + self.profile.step_per_request_s * len(self.running)
            + prefilled / self.profile.prefill_tokens_per_s
        )

    def admit(self) -> None:
        """Lets waiting requests in as far as there is room."""
        while self.waiting and len(self.running) < self.profile.max_num_seqs:
            needed = self.waiting[0].kv_tokens
            # One token for each request stays free, so that the next step preempts none.
            if self.running and self.kv_used_tokens + needed + len(self.running) + 1 > self.profile.kv_tokens:
                break
            generation = self.waiting.popleft()
            generation.begun_s = self.counters.busy_s
            self.running[generation] = None
            self.kv_used_tokens += needed
        self.counters.peak_running = max(self.counters.peak_running, len(self.running))

    def end_step(self) -> None:
        """Computes what was chosen: prompts grow, and every request whose prompt is complete gets a token."""
        while len(self.running) > 1 and self.kv_used_tokens + len(self.running) > self.profile.kv_tokens:
            self._preempt(next(reversed(self.running)))
        for generation in list(self.running):
            # It may have been aborted by what an earlier token of this step set off.
            if generation not in self.running:
                continue
            if generation.uncomputed:
                self.counters.prompt_tokens += generation.chunk
                generation.uncomputed -= generation.chunk
                if generation.uncomputed:
                    continue
                if not generation.tokens:
                    self.counters.prefills += 1
                    self.counters.prefill_s += self.counters.busy_s - generation.begun_s
                    self.counters.prefill_tokens += generation.prompt_tokens - generation.loaded_tokens
            if generation.tokens:
                self.counters.token_s += self.counters.busy_s - generation.spoke_s
                self.counters.token_gaps += 1
            generation.spoke_s = self.counters.busy_s
            generation.tokens += 1
            self.kv_used_tokens += 1
            self.counters.generation_tokens += 1
            if generation.tokens >= generation.max_tokens:
                generation.finished = True
                self.counters.finished += 1
                self._leave(generation)
            generation.on_token(generation)
        self._changed.set()

    def _preempt(self, generation: Generation) -> None:
        self._leave(generation)
        generation.uncomputed = generation.kv_tokens
        self.waiting.appendleft(generation)
        self.counters.preemptions += 1

    def _leave(self, generation: Generation) -> None:
        del self.running[generation]
        self.kv_used_tokens -= generation.kv_tokens
