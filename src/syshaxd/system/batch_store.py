# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Batches and their files in the state folder: SQLite for what is known of them, one file each for the contents.

A line's result is committed before the line counts as done, so a batch continues after a restart where it stopped: a
line whose result is stored is never asked again. All methods block, and belong to one thread.
"""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from syshaxd.core import jsontext
from syshaxd.core.errors import BadRequestError, ConflictError, NotFoundError, SyshaxError, TooLargeError
from syshaxd.core.wire.batches import (
    ENDED,
    MAX_FAULTS,
    MAX_LINES,
    Batch,
    BatchStatus,
    Line,
    StoredFile,
    read_line,
    unanswered_line,
    window_s,
)

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, endpoint TEXT NOT NULL, input_file_id TEXT NOT NULL, window TEXT NOT NULL,
    status TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, in_progress_at INTEGER,
    ended_at INTEGER, cancelling_at INTEGER, output_file_id TEXT, error_file_id TEXT, total INTEGER NOT NULL,
    completed INTEGER NOT NULL, failed INTEGER NOT NULL, metadata TEXT NOT NULL, faults TEXT NOT NULL,
    models TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lines (
    batch_id TEXT NOT NULL REFERENCES batches(id) ON DELETE CASCADE, number INTEGER NOT NULL, custom_id TEXT NOT NULL,
    start INTEGER NOT NULL, size INTEGER NOT NULL, good INTEGER, result BLOB, PRIMARY KEY (batch_id, number));
CREATE INDEX IF NOT EXISTS waiting ON lines (batch_id, number) WHERE result IS NULL;
"""
_JSON = frozenset(("metadata", "faults", "models"))
_FILE_COLUMNS = tuple(item.name for item in fields(StoredFile))
_BATCH_COLUMNS = tuple(item.name for item in fields(Batch))
_UNFINISHED = "status NOT IN ('failed', 'completed', 'expired', 'cancelled')"


class BatchStore:
    """Keeps batches and files."""

    def __init__(
        self, folder: Path, *, max_bytes: int, file_ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        """Opens what an earlier daemon has left.

        Args:
            folder: Where; it is created.
            max_bytes: Of all files together.
            file_ttl_s: Seconds after which a file is removed.
            clock: Unix time.

        Raises:
            SyshaxError: The folder or the database cannot be used.
        """
        self._files = folder / "files"
        self._max_bytes = max_bytes
        self._file_ttl_s = file_ttl_s
        self._clock = clock
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)  # it may be there already
            self._files.mkdir(exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(folder / "batches.sqlite", isolation_level=None, check_same_thread=False)
            os.chmod(folder / "batches.sqlite", 0o600)  # noqa: PTH101
            self._db.executescript(_SCHEMA)
            self._sweep_files()
        except (OSError, sqlite3.Error) as error:
            text = f"batches cannot be kept in {folder}: {error}; let this user write there, or set XDG_STATE_HOME"
            raise SyshaxError(text) from error

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    # Files.

    def add_file(self, owner: str, filename: str, purpose: str, data: bytes) -> StoredFile:
        """Stores a file. Raises TooLargeError: there is no room for it."""
        if self.used_bytes() + len(data) > self._max_bytes:
            raise TooLargeError(
                f"the files of all batches would take more than {self._max_bytes} bytes (batches.max_bytes); "
                "delete some"
            )
        its_id = f"file-{secrets.token_hex(12)}"
        with self._written_or_not(its_id):
            self.path(its_id).write_bytes(data)
            return self._insert_file(its_id, owner, filename, purpose, len(data))

    @contextmanager
    def _written_or_not(self, its_id: str) -> Iterator[None]:
        """Removes the contents of a file if an error ends the block: the disk is full, say."""
        try:
            yield
        except BaseException:
            self.path(its_id).unlink(missing_ok=True)
            raise

    def _insert_file(self, its_id: str, owner: str, filename: str, purpose: str, size_bytes: int) -> StoredFile:
        now = int(self._clock())
        stored = StoredFile(
            id=its_id,
            owner=owner,
            filename=filename,
            purpose=purpose,
            size_bytes=size_bytes,
            created_at=now,
            expires_at=now + int(self._file_ttl_s),
        )
        marks = ", ".join("?" * len(_FILE_COLUMNS))
        self._db.execute(f"INSERT INTO files VALUES ({marks})", [getattr(stored, name) for name in _FILE_COLUMNS])  # noqa: S608
        return stored

    def used_bytes(self) -> int:
        """Of all files together."""
        (used,) = self._db.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM files").fetchone()
        return int(used)

    def files(self, owner: str) -> list[StoredFile]:
        """Those of an owner, the latest first."""
        rows = self._db.execute("SELECT * FROM files WHERE owner = ? ORDER BY created_at DESC, rowid DESC", (owner,))
        return [StoredFile(**dict(zip(_FILE_COLUMNS, row, strict=True))) for row in rows]

    def file(self, owner: str, its_id: str) -> StoredFile:
        """One of an owner. Raises NotFoundError."""
        row = self._db.execute("SELECT * FROM files WHERE id = ? AND owner = ?", (its_id, owner)).fetchone()
        if row is None:
            raise NotFoundError(f"no file {its_id!r}", code="file_not_found")
        return StoredFile(**dict(zip(_FILE_COLUMNS, row, strict=True)))

    def remove_file(self, owner: str, its_id: str) -> None:
        """Removes a file. Raises NotFoundError, or ConflictError: a batch needs it."""
        self.file(owner, its_id)
        query = f"SELECT id FROM batches WHERE input_file_id = ? AND {_UNFINISHED}"  # noqa: S608
        if (row := self._db.execute(query, (its_id,)).fetchone()) is not None:
            raise ConflictError(f"{its_id} is the input of {row[0]}, which has not ended; cancel that first")
        self._db.execute("DELETE FROM files WHERE id = ?", (its_id,))
        self.path(its_id).unlink(missing_ok=True)

    def path(self, its_id: str) -> Path:
        """Where a file's contents are."""
        return self._files / its_id

    def expire(self) -> list[str]:
        """Removes files whose time is over; returns the batches whose time is over and that have not ended."""
        now = int(self._clock())
        rows = self._db.execute("SELECT id, owner FROM files WHERE expires_at <= ?", (now,)).fetchall()
        for its_id, owner in rows:
            with suppress(ConflictError):
                self.remove_file(owner, its_id)
        query = f"SELECT id FROM batches WHERE expires_at <= ? AND {_UNFINISHED}"  # noqa: S608
        return [row[0] for row in self._db.execute(query, (now,))]

    def _sweep_files(self) -> None:
        """Removes contents of which the database knows nothing: the daemon ended while it wrote them."""
        known = {row[0] for row in self._db.execute("SELECT id FROM files")}
        for path in self._files.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)

    # Batches.

    def create(
        self,
        owner: str,
        endpoint: str,
        input_file_id: str,
        *,
        window: str,
        metadata: dict[str, str],
        models: Sequence[str] = (),
    ) -> Batch:
        """Creates a batch, which is to be validated.

        Raises:
            BadRequestError: The window is none.
            NotFoundError: There is no such file.
        """
        length_s = window_s(window)
        self.file(owner, input_file_id)
        now = int(self._clock())
        batch = Batch(
            id=f"batch_{secrets.token_hex(12)}",
            owner=owner,
            endpoint=endpoint,
            input_file_id=input_file_id,
            window=window,
            status=BatchStatus.VALIDATING,
            created_at=now,
            expires_at=now + length_s,
            metadata=metadata,
            models=list(models),
        )
        marks = ", ".join("?" * len(_BATCH_COLUMNS))
        values = [_stored(name, getattr(batch, name)) for name in _BATCH_COLUMNS]
        self._db.execute(f"INSERT INTO batches VALUES ({marks})", values)  # noqa: S608
        return batch

    def batch(self, its_id: str, owner: str | None = None) -> Batch:
        """A batch; of an owner, unless None. Raises NotFoundError."""
        row = self._db.execute("SELECT * FROM batches WHERE id = ?", (its_id,)).fetchone()
        batch = None if row is None else _batch(row)
        if batch is None or owner not in {None, batch.owner}:
            raise NotFoundError(f"no batch {its_id!r}", code="batch_not_found")
        return batch

    def batches(self, owner: str | None = None) -> list[Batch]:
        """Those of an owner, or all, the latest first."""
        rows = self._db.execute("SELECT * FROM batches ORDER BY created_at DESC, rowid DESC").fetchall()
        return [batch for batch in map(_batch, rows) if owner in {None, batch.owner}]

    def unfinished(self) -> list[Batch]:
        """Those that have not ended, the oldest first."""
        return [batch for batch in reversed(self.batches()) if batch.status not in ENDED]

    def validate(self, its_id: str) -> Batch:
        """Reads a batch's input: it is in progress then, or has failed."""
        batch = self.batch(its_id)
        faults: list[dict[str, Any]] = []
        rows: list[tuple[str, int, str, int, int]] = []
        seen: set[str] = set()
        for number, start, data in self._input(batch.input_file_id):
            try:
                line = read_line(data, number, batch, seen)
            except BadRequestError as error:
                faults.append({"line": number, "code": error.code, "param": error.param, "message": str(error)})
            else:
                rows.append((its_id, number, line.custom_id, start, len(data)))
            if len(rows) > MAX_LINES:
                text = f"the file has more than {MAX_LINES} requests"
                faults.append({"line": None, "code": "too_many_tasks", "param": None, "message": text})
            if len(faults) >= MAX_FAULTS or len(rows) > MAX_LINES:
                break
        if not rows and not faults:
            faults.append({"line": None, "code": "empty_file", "param": None, "message": "the file has no request"})
        now = int(self._clock())
        if faults:
            self._update(its_id, status=BatchStatus.FAILED, faults=faults, ended_at=now)
            return self.batch(its_id)
        with self._transaction():
            self._db.executemany("INSERT INTO lines VALUES (?, ?, ?, ?, ?, NULL, NULL)", rows)
            self._update(its_id, status=BatchStatus.IN_PROGRESS, total=len(rows), in_progress_at=now)
        return self.batch(its_id)

    def _input(self, file_id: str) -> Iterator[tuple[int, int, bytes]]:
        """Number, offset and contents of each line that is not empty."""
        start = 0
        with self.path(file_id).open("rb") as file:
            for number, data in enumerate(file, start=1):
                if data.strip():
                    yield number, start, data
                start += len(data)

    def waiting(self, its_id: str, after: int, count: int) -> list[Line]:
        """The next lines without a result, after that number."""
        batch = self.batch(its_id)
        query = (
            "SELECT number, start, size FROM lines WHERE batch_id = ? AND number > ? AND result IS NULL "
            "ORDER BY number LIMIT ?"
        )
        found = []
        with self.path(batch.input_file_id).open("rb") as file:
            for number, start, size in self._db.execute(query, (its_id, after, count)).fetchall():
                file.seek(start)
                found.append(read_line(file.read(size), number, batch, set()))
        return found

    def finish_line(self, its_id: str, number: int, result: bytes, *, good: bool) -> Batch:
        """Stores a line's result; one that has a result keeps it."""
        with self._transaction():
            query = "UPDATE lines SET good = ?, result = ? WHERE batch_id = ? AND number = ? AND result IS NULL"
            if self._db.execute(query, (good, result, its_id, number)).rowcount:
                column = "completed" if good else "failed"
                self._db.execute(f"UPDATE batches SET {column} = {column} + 1 WHERE id = ?", (its_id,))  # noqa: S608
        return self.batch(its_id)

    def cancel(self, its_id: str, owner: str | None) -> Batch:
        """Begins to cancel a batch; one that has ended stays as it is. Raises NotFoundError."""
        batch = self.batch(its_id, owner)
        if batch.status not in ENDED and batch.status is not BatchStatus.CANCELLING:
            self._update(its_id, status=BatchStatus.CANCELLING, cancelling_at=int(self._clock()))
        return self.batch(its_id)

    def finish(self, its_id: str, status: BatchStatus, refusal: str = "") -> Batch:
        """Ends a batch: writes the files of its results, and forgets its lines. `refusal`: why its key ended it."""
        batch = self.batch(its_id)
        left = self._db.execute("SELECT number, custom_id FROM lines WHERE batch_id = ? AND result IS NULL", (its_id,))
        text = {BatchStatus.EXPIRED: "the completion window is over", BatchStatus.CANCELLED: "the batch was cancelled"}
        unanswered = [
            unanswered_line(
                its_id, number, custom_id, f"batch_{status}", refusal or text.get(status, "it was not answered")
            )
            for number, custom_id in left.fetchall()
        ]
        output = self._write_results(batch, good=True, more=())
        error = self._write_results(batch, good=False, more=unanswered)
        with self._transaction():
            ids = {}
            for kind, written in (("output", output), ("error", error)):
                if written is not None:
                    its_file, size_bytes = written
                    self._insert_file(its_file, batch.owner, f"{its_id}_{kind}.jsonl", "batch_output", size_bytes)
                    ids[f"{kind}_file_id"] = its_file
            faults = [{"line": None, "code": "invalid_api_key", "param": None, "message": refusal}] if refusal else []
            self._update(its_id, status=status, ended_at=int(self._clock()), faults=faults, **ids)
            self._db.execute("DELETE FROM lines WHERE batch_id = ?", (its_id,))
        return self.batch(its_id)

    def _write_results(self, batch: Batch, *, good: bool, more: Sequence[bytes]) -> tuple[str, int] | None:
        """Id and size of a file with the results in the order of the input; None: there are none."""
        query = "SELECT result FROM lines WHERE batch_id = ? AND good = ? ORDER BY number"
        its_id = f"file-{secrets.token_hex(12)}"
        with self._written_or_not(its_id), self.path(its_id).open("wb") as file:
            for (result,) in self._db.execute(query, (batch.id, good)):
                file.write(result)
            file.writelines(more)
            size_bytes = file.tell()
            file.flush()
            os.fsync(file.fileno())
        if not size_bytes:
            self.path(its_id).unlink()
            return None
        return its_id, size_bytes

    def _update(self, its_id: str, **values: Any) -> None:
        assignments = ", ".join(f"{name} = ?" for name in values)
        stored = [_stored(name, value) for name, value in values.items()]
        self._db.execute(f"UPDATE batches SET {assignments} WHERE id = ?", (*stored, its_id))  # noqa: S608

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)


class _Transaction:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            if not kind:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _stored(name: str, value: Any) -> Any:
    return json.dumps(value) if name in _JSON else value


def _batch(row: Sequence[Any]) -> Batch:
    values = dict(zip(_BATCH_COLUMNS, row, strict=True))
    values |= {name: jsontext.loads(values[name]) for name in _JSON} | {"status": BatchStatus(values["status"])}
    return Batch(**values)
