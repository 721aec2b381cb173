# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The half in each worker: copies between its KV cache and the arenas.

On a CPU a copy is done in the engine's step, by all of its threads: nothing is quicker, and a copy beside the model's
own threads would slow both. On a GPU it is queued: saves on their own stream, loads on the model's, before the pass.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .arena import Arena, ArenaError
from .arenas import Arenas
from .cache import RankCache, rank_cache
from .folder import Folder
from .header import Header, Part
from .layout import Packed, Shape, head_copies
from .messages import Jobs, Loaded, LoadJob, Report, Saved, SaveJob
from .settings import Settings
from .stored import Stored, checksum
from .sweeper import Sweeper

_logger = logging.getLogger(f"vllm.{__name__}")


@dataclass(slots=True)
class _Pending:
    """A copy that the GPU has not ended yet."""

    job: SaveJob | LoadJob
    arenas: list[Arena]
    """Kept mapped as long as the GPU copies."""
    size_bytes: int
    began: torch.cuda.Event
    ended: torch.cuda.Event


class Worker:
    """One tensor-parallel rank's part."""

    def __init__(
        self, folder: Folder, settings: Settings, *, owner: str, shape: Shape, dtype: torch.dtype, saves: bool
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._owner = owner
        self._shape = shape
        self._dtype = dtype
        self._saves = saves
        self._runs = False
        """The engine is up: CUDA allows no registration while it captures graphs. Set once, read by the keeper."""
        self._cache: RankCache
        self._block_size = 0
        self._rank = 0
        self._ranks = 1
        self._device = torch.device("cpu")
        self._stream: torch.cuda.Stream | None = None
        self._arenas: Arenas
        self._keeper: Sweeper | None = None
        # From here on the engine's thread alone.
        self._pending: list[_Pending] = []
        self._report = Report()
        self._failed_blocks: set[int] = set()
        self._sent: set[str] = set()

    def register(
        self, layers: Sequence[object], caches: Sequence[torch.Tensor], *, block_size: int, rank: int, ranks: int
    ) -> None:
        """Takes the KV cache, and begins to make the arena.

        Args:
            layers: vLLM's attention layers, in the model's order.
            caches: Each layer's cache.
            block_size: Of the scheduler's blocks.
            rank: Tensor-parallel.
            ranks: Tensor-parallel size.

        Raises:
            ValueError: The caches are not as the connector knows them.
        """
        wanted = self._shape.rank_heads(ranks), 2 * self._shape.head_size
        for cache in caches:
            if cache.dim() != 4 or (cache.shape[1], cache.shape[3]) != wanted or block_size % cache.shape[2]:
                raise ValueError(
                    f"SyshaxConnector knows KV caches [blocks, {wanted[0]}, {block_size}, {wanted[1]}], this one is "
                    f"{list(cache.shape)}: this attention backend is not supported, start without --kv-transfer-config"
                )
        self._cache = rank_cache(layers, caches, block_size)
        self._block_size, self._rank, self._ranks = block_size, rank, ranks
        self._device = caches[0].device
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)
        own = self._folder.arena_path(self._owner, rank) if self._saves else None
        self._arenas = Arenas(self._folder, own, self._settings.arena_bytes, pin=self._pin, unpin=self._unpin)
        self._keeper = Sweeper("syshax arena", self._settings.sweep_s, lambda: self._arenas.keep(pins=self._runs))

    def run(self, jobs: Jobs) -> None:
        """Begins the step's copies; those of a CPU are done when it returns. Raises nothing."""
        if not self._runs:
            self._runs = True
            self._hurry()
        for load in jobs.loads:
            try:
                self._load(load)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request is computed instead
                _logger.warning("hand-over %s was not loaded: %s", load.header.key, error)
                first, last = load.start // self._block_size, -(-load.stop // self._block_size)
                self._failed_blocks.update(load.blocks[first:last])
                self._report.loaded.append(Loaded(load.request_id, self._rank, 0, 0.0, str(error) or repr(error)))
        for save in jobs.saves:
            try:
                self._save(save)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is no hand-over
                _logger.warning("the KV cache of request %s was not saved: %s", save.request_id, error)
                self._sent.add(save.request_id)
                self._report.saved.append(Saved(save.request_id, self._rank, None, 0.0, str(error) or repr(error)))

    def sent(self) -> set[str]:
        """Requests whose blocks may be freed, since the last call."""
        self._poll()
        sent, self._sent = self._sent, set()
        return sent

    def failed_blocks(self) -> set[int]:
        """Blocks that could not be loaded, since the last call."""
        failed, self._failed_blocks = self._failed_blocks, set()
        return failed

    def report(self) -> Report | None:
        """What ended since the last call."""
        report, self._report = self._report, Report()
        return report if report.saved or report.loaded else None

    def close(self) -> None:
        """Removes the arena."""
        if self._keeper is not None:
            self._keeper.stop()
            self._arenas.close()

    def _save(self, job: SaveJob) -> None:
        taken = [own := self._arenas.take_own()]
        try:
            stored = self._stored(own, job.offset, job.tokens, self._ranks, self._cache.packed)
            if self._stream is not None:
                self._stream.wait_stream(torch.cuda.current_stream(self._device))
            self._copy(job, taken, stored.size_bytes, self._stream, lambda: self._cache.read(job.blocks, stored))
        finally:
            self._give_back(taken)

    def _load(self, job: LoadJob) -> None:
        header = job.header
        ranks = len(header.parts)
        sources: list[tuple[int, Stored]] = []
        taken: list[Arena] = []

        def copy() -> None:
            for target, stored in sources:
                self._cache.write(job.blocks, job.start, job.stop, stored, target)

        try:
            for copied in head_copies(self._shape.kv_heads, ranks, self._ranks, self._rank):
                part = header.parts[copied.producer_rank]
                found, is_new = self._arenas.take(part.arena, part.arena_id)
                taken.append(found)
                if is_new:
                    self._hurry()
                _check_bytes(header, part, found)
                stored = self._stored(found, header.offset, job.tokens, ranks, part.packed)
                sources.append((copied.target, stored.of_heads(copied.source, copied.count)))
            size = self._shape.rank_bytes(job.stop - job.start, self._ranks)
            stream = None if self._stream is None else torch.cuda.current_stream(self._device)
            self._copy(job, taken, size, stream, copy)
        finally:
            self._give_back(taken)

    def _copy(
        self,
        job: SaveJob | LoadJob,
        arenas: list[Arena],
        size_bytes: int,
        stream: torch.cuda.Stream | None,
        copy: Callable[[], None],
    ) -> None:
        """Copies. What a GPU still copies from or to is taken out of `arenas`, and given back when it has ended."""
        if stream is None:
            began = time.perf_counter()
            copy()
            self._ended(job, arenas[0], size_bytes, time.perf_counter() - began)
            return
        with torch.cuda.stream(stream):
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            try:
                copy()
            except BaseException:
                # What was queued before it failed still uses the arenas.
                stream.synchronize()
                raise
            ended.record()
        self._pending.append(_Pending(job, arenas.copy(), size_bytes, began, ended))
        arenas.clear()

    def _poll(self) -> None:
        for pending in [pending for pending in self._pending if pending.ended.query()]:
            self._pending.remove(pending)
            seconds = pending.began.elapsed_time(pending.ended) / 1000
            try:
                self._ended(pending.job, pending.arenas[0], pending.size_bytes, seconds)
            finally:
                self._give_back(pending.arenas)

    def _give_back(self, arenas: list[Arena]) -> None:
        for taken in arenas:
            self._arenas.give_back(taken)

    def _ended(self, job: SaveJob | LoadJob, source: Arena, size_bytes: int, seconds: float) -> None:
        if isinstance(job, LoadJob):
            self._report.loaded.append(Loaded(job.request_id, self._rank, size_bytes, seconds))
            return
        part = self._part(source, job.offset, size_bytes)
        self._sent.add(job.request_id)
        self._report.saved.append(Saved(job.request_id, self._rank, part, seconds))

    def _part(self, source: Arena, offset: int, size: int) -> Part:
        sum_ = checksum(source.memory, offset, size) if self._settings.payload_checksum else None
        return Part(source.path.name, source.id, sum_, self._cache.packed)

    def _stored(self, source: Arena, offset: int, tokens: int, ranks: int, packed: Packed | None) -> Stored:
        """A hand-over's bytes in the arena of one of this many ranks."""
        size = self._shape.rank_bytes(tokens if packed is None else packed.room(tokens), ranks)
        whole = torch.frombuffer(source.memory, dtype=torch.uint8, count=size, offset=offset).view(self._dtype)
        layers, heads, head_size = self._shape.layers, self._shape.rank_heads(ranks), self._shape.head_size
        if packed is None:
            return Stored(whole.view(layers, heads, 2, tokens, head_size), tokens, None, slice(0, heads))
        blocks = whole.view(layers, -1, heads, packed.block_size, 2 * head_size)
        return Stored(blocks, tokens, packed, slice(0, heads))

    def _pin(self, mapped: Arena) -> None:
        """Registers memory with CUDA, once: copies then go at the bus's speed, and beside the engine's thread."""
        if self._stream is None:
            return
        torch.cuda.set_device(self._device)
        code = torch.cuda.cudart().cudaHostRegister(mapped.address, len(mapped.memory), 0)
        if int(code):
            _logger.warning("%s: cudaHostRegister says %s; copies to and from the GPU will be slow", mapped.path, code)

    def _hurry(self) -> None:
        if self._keeper is not None:
            self._keeper.hurry()

    def _unpin(self, mapped: Arena) -> None:
        if self._stream is not None and mapped.is_ready:
            torch.cuda.cudart().cudaHostUnregister(mapped.address)


def _check_bytes(header: Header, part: Part, found: Arena) -> None:
    """Makes sure that the hand-over's bytes are there, and, if it has a checksum of them, that they are the same.

    Raises:
        ArenaError: They are not.
    """
    if header.offset + header.size > len(found.memory):
        raise ArenaError(
            f"{found.path}: {len(found.memory)} bytes, the hand-over ends at {header.offset + header.size}"
        )
    if part.checksum is not None and checksum(found.memory, header.offset, header.size) != part.checksum:
        raise ArenaError(f"{found.path}: the bytes of hand-over {header.key} have another checksum")
