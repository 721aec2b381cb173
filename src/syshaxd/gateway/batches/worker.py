# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs the lines of batches through the same path as clients' requests, in the class `batch`."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from syshaxd.core.backoff import backoff_s
from syshaxd.core.errors import (
    BadRequestError,
    DaemonUnavailableError,
    InstanceFailedError,
    InstanceTimeoutError,
    RateLimitedError,
    RetryableError,
    SyshaxError,
    UnauthorizedError,
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


class StoreFailedError(DaemonUnavailableError):
    """The store could not do what it should: the disk is full, say."""


class RunningLine(Protocol):
    """A line that may run."""

    @property
    def request_id(self) -> str:
        """For records and logs."""

    async def answer(self) -> tuple[int, bytes]:
        """Status and body; may be called again. Raises SyshaxError: it was not answered."""

    def end(self) -> None:
        """It is over."""


BeginLine = Callable[[Batch, Line], RunningLine]
"""Begins a line. Raises UnauthorizedError: its batch has to end; RateLimitedError: it has to wait; BadRequestError."""


class BatchWorker:
    """Carries batches out, each line once. Lives in one event loop; the store has a thread of its own."""

    def __init__(self, store: Callable[[], BatchStore], begin: BeginLine, *, max_concurrency: int) -> None:
        """Opens nothing yet.

        Args:
            store: Opens the store; called in its thread.
            begin: Begins a line.
            max_concurrency: Lines that run or wait for a slot at a time, of all batches.
        """
        self._thread = ThreadPoolExecutor(1, "batches")
        self._open_store = store
        self._store: BatchStore | None = None
        self._begin_line = begin
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
            for batch in await self._insist(BatchStore.unfinished):
                self._begin(batch.id)
            self._ready.set()
            while True:
                for its_id in await self._insist(BatchStore.expire):
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
        """Calls a method of the store.

        Raises:
            SyshaxError: As the method does.
            StoreFailedError: The disk did not take or give what it should.
            DaemonUnavailableError: The store is not open yet.
        """
        if self._store is None:
            raise DaemonUnavailableError("batches are not ready yet; try again", retry_after_s=1.0)
        try:
            return await self._in_thread(partial(method, self._store, *args, **options))
        except (OSError, sqlite3.Error) as error:
            text = f"batches cannot be stored: {error}; check the disk of the state folder"
            raise StoreFailedError(text, retry_after_s=_LONGEST_PAUSE_S) from error

    async def _insist(self, method: Callable[..., T], /, *args: Any, **options: Any) -> T:
        """As `call`, again and again while the store fails: what has been answered must not be lost."""
        failures = 0
        while True:
            try:
                return await self.call(method, *args, **options)
            except StoreFailedError as error:
                failures += 1
                if failures == 1:
                    _log.warning("%s; trying again", error)
                await asyncio.sleep(backoff_s(failures, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S))

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
        batch = await self._insist(BatchStore.batch, its_id)
        return batch if batch.status in ENDED else await self._insist(BatchStore.finish, its_id, status)

    async def _carry_out(self, its_id: str) -> None:
        batch = await self._insist(BatchStore.batch, its_id)
        if batch.status is BatchStatus.VALIDATING:
            batch = await self._insist(BatchStore.validate, its_id)
        if batch.status is BatchStatus.CANCELLING:
            await self._insist(BatchStore.finish, its_id, BatchStatus.CANCELLED)
        if batch.status is not BatchStatus.IN_PROGRESS:
            return
        refusal = ""
        async with asyncio.TaskGroup() as group:
            try:
                await self._run_lines(batch, group)
            except UnauthorizedError as error:
                refusal = str(error)  # lines that run may end
        if refusal:
            _log.warning("%s ends: %s", its_id, refusal)
            await self._insist(BatchStore.finish, its_id, BatchStatus.CANCELLED, refusal)
        elif not self._stopping:
            await self._insist(BatchStore.finish, its_id, BatchStatus.COMPLETED)

    async def _run_lines(self, batch: Batch, group: asyncio.TaskGroup) -> None:
        """Begins the lines without a result. Raises UnauthorizedError: the batch's API key is not valid any more."""
        after = 0
        while lines := await self._insist(BatchStore.waiting, batch.id, after, _AT_ONCE):
            for line in lines:
                running = await self._permitted(batch, line)
                if self._stopping:
                    return
                if running is None:
                    continue
                task = group.create_task(self._run_line(batch, line, running))
                task.add_done_callback(lambda _: self._slots.release())
            after = lines[-1].number

    async def _permitted(self, batch: Batch, line: Line) -> RunningLine | None:
        """The line, which has a slot and may begin; None: it is over, or the daemon stops."""
        while True:
            await self._slots.acquire()
            if self._stopping:
                return None
            try:
                return self._begin_line(batch, line)
            except RateLimitedError as error:
                self._slots.release()  # for batches of other keys
                await asyncio.sleep(min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, error.retry_after_s)))
            except UnauthorizedError:
                self._slots.release()
                raise
            except BadRequestError as error:
                self._slots.release()
                await self._insist(
                    BatchStore.finish_line, batch.id, line.number, _refused(batch, line, error), good=False
                )
                return None

    async def _run_line(self, batch: Batch, line: Line, running: RunningLine) -> None:
        try:
            result, good = await self._result(batch, line, running)
        finally:
            running.end()
        # Once it is answered, a cancel must not make it be asked again.
        await asyncio.shield(self._insist(BatchStore.finish_line, batch.id, line.number, result, good=good))

    async def _result(self, batch: Batch, line: Line, running: RunningLine) -> tuple[bytes, bool]:
        """The line for the output file, or the error file, and whether it is for the output file."""
        failures = 0
        while True:
            try:
                status, body = await running.answer()
            except RetryableError as error:
                await asyncio.sleep(min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, error.retry_after_s)))
                continue
            except SyshaxError as error:
                failures += 1
                tries_again = isinstance(error, InstanceFailedError | InstanceTimeoutError) and failures < _MAX_FAILURES
                if not tries_again:
                    return _refused(batch, line, error), False
                await asyncio.sleep(backoff_s(failures, first_s=_FIRST_PAUSE_S, cap_s=_LONGEST_PAUSE_S))
                continue
            return answered_line(batch.id, line, status, running.request_id, body), status < 300


def _refused(batch: Batch, line: Line, error: SyshaxError) -> bytes:
    """The line for the error file."""
    code = error.code if isinstance(error, BadRequestError) and error.code else "request_failed"
    return unanswered_line(batch.id, line.number, line.custom_id, code, str(error))
