# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Continuous batching on one device, by events: steps that are alike are taken together."""

import math
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from syshaxd.core.loads import InstanceLoad
from syshaxd.core.placement.replay.profiles import DeviceProfile


@dataclass(slots=True, eq=False)
class Job:
    """A request, or a part of one, on a device."""

    owner: object
    context: int
    """Tokens before those that it is to make."""
    uncomputed: int
    """Those of them that have no KV yet."""
    wanted: int
    """Tokens to make."""
    made: int = 0
    """Tokens made, without those of the present run; `Device.made` has all."""
    from_step: int = -1
    """The step before its first token in this run; -1: its prompt is being computed, or it waits."""
    leaves: bool = False
    """It leaves with its next token."""
    begun_s: float = 0.0
    """When the engine began to compute its prompt."""
    computes: int = 0
    """Tokens of it that are computed."""


@dataclass(slots=True)
class Progress:
    """What the steps that ended have produced."""

    spoke: list[Job] = field(default_factory=list)
    """Made their first token."""
    finished: list[Job] = field(default_factory=list)
    left: list[Job] = field(default_factory=list)
    """Left with a token."""


@dataclass(slots=True)
class _Read:
    """Counters at the last reading, and sums since."""

    at_s: float = 0.0
    generated: int = 0
    preemptions: int = 0
    gaps: int = 0
    gaps_s: float = 0.0
    prefills: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    prompt_tokens: int = 0


class Device:
    """One engine. Its time is given: `progress` is to be called at `next_s`."""

    def __init__(self, profile: DeviceProfile) -> None:
        """Begins idle."""
        self.profile = profile
        self.waiting: deque[Job] = deque()
        self.running: dict[Job, None] = {}
        """In the order of admission."""
        self.kv_used = 0
        self.generated = 0
        """Tokens, since the start."""
        self.preemptions = 0
        self._prefilling: dict[Job, None] = {}
        self._ends: list[tuple[int, int, Job]] = []
        self._serial = 0
        self._step = 0
        self._chunks: list[tuple[Job, int]] = []
        # The steps that are taken together now.
        self._begun_s = self._step_s = 0.0
        self._steps = 0
        self._leaving = False
        self._slowed = 0.0
        self._read = _Read()

    @property
    def next_s(self) -> float:
        """When `progress` is due."""
        return self._begun_s + self._steps * self._step_s if self._steps else math.inf

    def made(self, job: Job) -> int:
        """Tokens that a job has made."""
        return job.made + (self._step - job.from_step if job.from_step >= 0 else 0)

    def add(self, job: Job, now_s: float) -> None:
        """Queues a job."""
        self.waiting.append(job)
        self._interrupt(now_s)

    def leave(self, job: Job, now_s: float) -> None:
        """Has a job leave with its next token."""
        job.leaves = True
        self._leaving = True
        self._interrupt(now_s)

    def slow(self, share: float, now_s: float) -> None:
        """Each step takes longer by such a share, from the one after that under way."""
        if share != self._slowed:
            self._slowed = share
            if self._steps > 1:
                self._interrupt(now_s)

    def read(self, now_s: float) -> InstanceLoad:
        """What its /metrics would say."""
        self._settle(now_s)
        before, self._read = self._read, _Read(now_s, self.generated, self.preemptions)
        return InstanceLoad(
            read_at_s=now_s,
            running=len(self.running),
            waiting=len(self.waiting),
            kv_usage_ratio=min(1.0, self.kv_used / self.profile.kv_tokens),
            generation_tokens_per_s=(self.generated - before.generated) / (now_s - before.at_s),
            prompt_tokens_per_s=before.prompt_tokens / (now_s - before.at_s),
            token_s=before.gaps_s / before.gaps if before.gaps else 0.0,
            prefill_tokens=before.prefill_tokens / before.prefills if before.prefills else 0.0,
            prefill_s=before.prefill_s / before.prefills if before.prefills else 0.0,
            preemptions=self.preemptions,
            preempted=self.preemptions - before.preemptions,
        )

    def progress(self, now_s: float) -> Progress:
        """Ends the steps that were under way, and begins the next ones."""
        done = Progress()
        self._take(self._steps)
        for job, chunk in self._chunks:
            job.uncomputed -= chunk
            if job.uncomputed == 0:
                del self._prefilling[job]
                job.from_step = self._step - 1
                self.kv_used += 1
                self.generated += 1
                heappush(self._ends, (job.from_step + job.wanted - job.made, self._next_serial(), job))
                if job.made == 0:
                    done.spoke.append(job)
                    self._read.prefills += 1
                    self._read.prefill_tokens += job.computes
                    self._read.prefill_s += now_s - job.begun_s
        self._chunks = []
        while self._ends and self._ends[0][0] <= self._step:
            entry = heappop(self._ends)
            if self._is_current(entry):
                self._remove(entry[2])
                done.finished.append(entry[2])
        if self._leaving:
            leaving = [job for job in self.running if job.leaves]
            done.left = [job for job in leaving if job.from_step >= 0]
            self._leaving = len(done.left) < len(leaving)
            for job in done.left:
                self._remove(job)
        self._begin(now_s)
        return done

    def _is_current(self, entry: tuple[int, int, Job]) -> bool:
        """Whether a job that was to end at a step has not been preempted, and has not left."""
        end, _, job = entry
        return job in self.running and job.from_step >= 0 and end == job.from_step + job.wanted - job.made

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _remove(self, job: Job) -> None:
        del self.running[job]
        self._prefilling.pop(job, None)
        job.made, job.from_step = self.made(job), -1
        self.kv_used -= job.context + job.made

    def _take(self, steps: int) -> None:
        """So many steps have been made, by those whose prompt is complete."""
        self._step += steps
        grown = steps * (len(self.running) - len(self._prefilling))
        self._read.gaps += grown
        self._read.gaps_s += grown * self._step_s
        self.kv_used += grown
        self.generated += grown
        self._steps -= steps
        self._begun_s += steps * self._step_s

    def _settle(self, now_s: float) -> None:
        """Takes the steps that have ended, but for the last of those that were to be taken together."""
        if self._steps > 1:
            whole = min(self._steps - 1, int((now_s - self._begun_s) / self._step_s))
            if whole > 0:
                self._take(whole)

    def _interrupt(self, now_s: float) -> None:
        """Only the step that is under way is to be ended: then there is something new to do."""
        if not self._steps:
            self._begin(now_s)
        elif self._steps > 1:
            self._settle(now_s)
            self._steps = 1

    def _begin(self, now_s: float) -> None:
        profile = self.profile
        while len(self.running) > 1 and self.kv_used + len(self.running) > profile.kv_tokens:
            self._preempt(next(reversed(self.running)))
        self._admit(now_s)
        self._begun_s = now_s
        count = len(self.running)
        if not count:
            self._steps = 0
            return
        left = profile.max_batched_tokens
        for job in self._prefilling:
            chunk = min(job.uncomputed, left)
            if chunk:
                self._chunks.append((job, chunk))
                self._read.prompt_tokens += chunk
                left -= chunk
        self._step_s = profile.step_s(count, profile.max_batched_tokens - left) * (1 + self._slowed)
        if self._prefilling or self._leaving:
            self._steps = 1
        else:
            ends = self._next_end() - self._step
            room = (profile.kv_tokens - self.kv_used) // count
            self._steps = max(1, min(ends, room))

    def _next_end(self) -> int:
        while not self._is_current(self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0]

    def _admit(self, now_s: float) -> None:
        while self.waiting and len(self.running) < self.profile.max_num_seqs:
            job = self.waiting[0]
            needed = job.context + job.made
            if self.running and self.kv_used + needed + len(self.running) + 1 > self.profile.kv_tokens:
                return
            self.waiting.popleft()
            job.computes = job.uncomputed
            job.begun_s = now_s
            self.running[job] = None
            self._prefilling[job] = None
            self.kv_used += needed

    def _preempt(self, job: Job) -> None:
        self._remove(job)
        job.uncomputed = job.context + job.made
        self.waiting.appendleft(job)
        self.preemptions += 1
