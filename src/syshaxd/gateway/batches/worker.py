# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs the lines of batches through the same path as clients' requests, in the class `batch`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from syshaxd.core.backoff import backoff_s
from syshaxd.core.errors import (
    BadRequestError,
    InstanceFailedError,
    InstanceTimeoutError,
    RetryableError,
    SyshaxError,
    UnavailableError,
)
from syshaxd.core.wire.batches import ENDED, Batch, BatchStatus, Line, answered_line, unanswered_line
from syshaxd.system.batch_store import BatchStore

_log = logging.getLogger(__name__)
_AT_ONCE = 64
"""Lines that are read of a file at a time."""
_MAX_FAILURES = 3
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_SWEEP_INTERVAL_S = 30.0

P = ParamSpec("P")
T = TypeVar("T")
AnswerLine = Callable[[str, bytes, str], Awaitable[tuple[int, bytes]]]
"""Has a request answered: route, body and id; returns status and body. Raises SyshaxError."""


class BatchWorker:
    """Carries batches out, each line once. Lives in one event loop; the store has a thread of its own."""

    def __init__(self, store: Callable[[], BatchStore], answer: AnswerLine, *, max_concurrency: int) -> None:
        """Opens nothing yet.

        Args:
            store: Opens the store; called in its thread.
            answer: Has a line answered.
            max_concurrency: Lines that run or wait for a slot at a time, of all batches.
        """
        self._thread = ThreadPoolExecutor(1, "batches")
        self._open_store = store
        self._store: BatchStore | None = None
        self._answer = answer
        self._slots = asyncio.Semaphore(max_concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ready = asyncio.Event()
        self._stopping = False

    @property
    def is_ready(self) -> bool:
        """It has opened what an earlier daemon left."""
        return self._ready.is_set()

    async def run(self) -> None:
        """Continues the batches of an earlier daemon, then removes what has expired, until cancelled."""
        try:
            if self._store is None:
                self._store = await self._in_thread(self._open_store)
            for batch in await self.call(BatchStore.unfinished):
                self._begin(batch.id)
            self._ready.set()
            while True:
                for its_id in await self.call(BatchStore.expire):
                    await self._end(its_id, BatchStatus.EXPIRED)
                await asyncio.sleep(_SWEEP_INTERVAL_S)
        finally:
            self._ready.clear()
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Begins no more lines; those that run may end."""
        self._stopping = True

    async def close(self) -> None:
        """Closes the store."""
        store, self._store = self._store, None
        if store is not None:
            await self._in_thread(store.close)
        self._thread.shutdown(wait=False)

    async def call(self, method: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """Calls a method of the store. Raises what it raises, or UnavailableError: it is not open yet."""
        if self._store is None:
            raise UnavailableError("batches are not ready yet; try again", retry_after_s=1.0)
        return await self._in_thread(partial(method, self._store, *args, **options))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def begin(self, batch: Batch) -> None:
        """Begins a batch that has just been created."""
        if self._ready.is_set():
            self._begin(batch.id)

    def _begin(self, its_id: str) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(its_id), name=its_id)
        self._tasks[its_id] = task
        task.add_done_callback(partial(self._ended, its_id))

    def _ended(self, its_id: str, task: "asyncio.Task[None]") -> None:
        self._tasks.pop(its_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s stands still until syshaxd restarts: %s", its_id, error, exc_info=error)

    async def every(self) -> list[Batch]:
        """Those of all owners, the latest first."""
        return await self.call(BatchStore.batches)

    async def cancel(self, its_id: str, owner: str | None) -> Batch:
        """Cancels a batch; what has been answered stays. Raises NotFoundError."""
        await self.call(BatchStore.cancel, its_id, owner)
        return await self._end(its_id, BatchStatus.CANCELLED)

    async def _end(self, its_id: str, status: BatchStatus) -> Batch:
        task = self._tasks.get(its_id)
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))
        batch = await self.call(BatchStore.batch, its_id)
        return batch if batch.status in ENDED else await self.call(BatchStore.finish, its_id, status)

    async def _carry_out(self, its_id: str) -> None:
        batch = await self.call(BatchStore.batch, its_id)
        if batch.status is BatchStatus.VALIDATING:
            batch = await self.call(BatchStore.validate, its_id)
        if batch.status is BatchStatus.CANCELLING:
            await self.call(BatchStore.finish, its_id, BatchStatus.CANCELLED)
        if batch.status is not BatchStatus.IN_PROGRESS:
            return
        async with asyncio.TaskGroup() as group:
            after = 0
            while lines := await self.call(BatchStore.waiting, its_id, after, _AT_ONCE):
                for line in lines:
                    await self._slots.acquire()
                    if self._stopping:
                        return  # once the lines that run have ended
                    task = group.create_task(self._run_line(batch, line))
                    task.add_done_callback(lambda _: self._slots.release())
                after = lines[-1].number
        if not self._stopping:
            await self.call(BatchStore.finish, its_id, BatchStatus.COMPLETED)

    async def _run_line(self, batch: Batch, line: Line) -> None:
        result, good = await self._result(batch, line)
        # Once it is answered, a cancel must not make it be asked again.
        await asyncio.shield(self.call(BatchStore.finish_line, batch.id, line.number, result, good=good))

    async def _result(self, batch: Batch, line: Line) -> tuple[bytes, bool]:
        """The line for the output file, or the error file, and whether it is for the output file."""
        request_id = f"{batch.id}-{line.number}"
        failures = 0
        while True:
            try:
                status, body = await self._answer(batch.endpoint, line.body, request_id)
            except RetryableError as error:
                await asyncio.sleep(min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, error.retry_after_s)))
                continue
            except SyshaxError as error:
                failures += 1
                tries_again = isinstance(error, InstanceFailedError | InstanceTimeoutError) and failures < _MAX_FAILURES
                if not tries_again:
                    code = error.code if isinstance(error, BadRequestError) and error.code else "request_failed"
                    return unanswered_line(batch.id, line.number, line.custom_id, code, str(error)), False
                await asyncio.sleep(backoff_s(failures, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S))
                continue
            return answered_line(batch.id, line, status, request_id, body), status < 300
