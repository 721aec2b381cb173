# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""The half in each worker: copies between its KV cache and the arenas.

On a CPU a copy is done in the engine's step, by all of its threads: nothing is quicker, and a copy beside the model's
own threads would slow both. On a GPU it is queued: saves on their own stream, loads on the model's, before the pass.
"""

import logging
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import arena
from .arena import Arena, ArenaError
from .cache import LayerCache, layer_cache
from .folder import Folder
from .header import Header, Part
from .layout import Shape, head_copies
from .messages import Jobs, Loaded, LoadJob, Report, Saved, SaveJob
from .settings import Settings
from .sweeper import Sweeper

_logger = logging.getLogger(f"vllm.{__name__}")


@dataclass(slots=True)
class _Pending:
    """A copy that the GPU has not ended yet."""

    job: SaveJob | LoadJob
    arenas: list[Arena]
    """Kept mapped as long as the GPU copies."""
    size_bytes: int
    began: float
    event: torch.cuda.Event


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
        self._layers: list[LayerCache] = []
        self._block_size = 0
        self._rank = 0
        self._ranks = 1
        self._device = torch.device("cpu")
        self._stream: torch.cuda.Stream | None = None
        self._own: Arena | None = None
        self._attached: dict[str, Arena] = {}
        self._keeper: Sweeper | None = None
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
        self._layers = [layer_cache(layer, cache, block_size) for layer, cache in zip(layers, caches, strict=True)]
        self._block_size, self._rank, self._ranks = block_size, rank, ranks
        self._device = caches[0].device
        if self._device.type == "cuda":
            self._stream = torch.cuda.Stream(self._device)
        self._keeper = Sweeper("syshax arena", self._settings.sweep_s, self._keep_arenas)

    def run(self, jobs: Jobs) -> None:
        """Begins the step's copies; those of a CPU are done when it returns. Raises nothing."""
        for load in jobs.loads:
            began = time.perf_counter()
            try:
                self._load(load, began)
            except Exception as error:  # noqa: BLE001 - whatever it is, the request is computed instead
                _logger.warning("hand-over %s was not loaded: %s", load.header.key, error)
                self._failed_blocks.update(
                    load.blocks[load.start // self._block_size : -(-load.stop // self._block_size)]
                )
                self._ended_load(load, 0, began, str(error) or repr(error))
        for save in jobs.saves:
            began = time.perf_counter()
            try:
                self._save(save, began)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is no hand-over
                _logger.warning("the KV cache of request %s was not saved: %s", save.request_id, error)
                self._ended_save(save, None, began, str(error) or repr(error))

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
        if self._own is not None:
            self._own.remove()
            self._own = None

    def _save(self, job: SaveJob, began: float) -> None:
        own = self._own
        if own is None:
            raise ArenaError("the arena is not there yet")
        own.check()
        size = self._shape.rank_bytes(job.tokens, self._ranks)
        rows = self._rows(own, job.offset, size, job.tokens, self._shape.rank_heads(self._ranks))
        if self._stream is None:
            for layer, out in zip(self._layers, rows, strict=True):
                layer.read(job.blocks, out)
            self._ended_save(job, self._part(own, job.offset, size), began)
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for layer, out in zip(self._layers, rows, strict=True):
                layer.read(job.blocks, out)
            self._wait_later(job, [own], size, began)

    def _load(self, job: LoadJob, began: float) -> None:
        header = job.header
        copies = head_copies(self._shape.kv_heads, len(header.parts), self._ranks, self._rank)
        arenas = []
        size = 0
        for copy in copies:
            source = self._attach(header, header.parts[copy.producer_rank])
            arenas.append(source)
            heads = self._shape.rank_heads(len(header.parts))
            rows = self._rows(source, header.offset, header.size, job.tokens, heads)
            wanted = rows[:, job.start : job.stop, copy.source : copy.source + copy.count]
            for layer, part in zip(self._layers, wanted, strict=True):
                layer.write(job.blocks, job.start, part, copy.target)
            size += wanted.numel() * wanted.element_size()
        if self._stream is None:
            self._ended_load(job, size, began)
        else:
            self._wait_later(job, arenas, size, began)

    def _wait_later(self, job: SaveJob | LoadJob, arenas: list[Arena], size_bytes: int, began: float) -> None:
        event = torch.cuda.Event()
        event.record()
        self._pending.append(_Pending(job, arenas, size_bytes, began, event))

    def _poll(self) -> None:
        for pending in [pending for pending in self._pending if pending.event.query()]:
            self._pending.remove(pending)
            if isinstance(job := pending.job, SaveJob):
                part = self._part(pending.arenas[0], job.offset, pending.size_bytes)
                self._ended_save(job, part, pending.began)
            else:
                self._ended_load(job, pending.size_bytes, pending.began)

    def _ended_save(self, job: SaveJob, part: Part | None, began: float, error: str = "") -> None:
        self._sent.add(job.request_id)
        self._report.saved.append(Saved(job.request_id, self._rank, part, time.perf_counter() - began, error))

    def _ended_load(self, job: LoadJob, size_bytes: int, began: float, error: str = "") -> None:
        seconds = time.perf_counter() - began
        self._report.loaded.append(Loaded(job.request_id, self._rank, size_bytes, seconds, error))

    def _part(self, source: Arena, offset: int, size: int) -> Part:
        crc32 = (
            zlib.crc32(memoryview(source.memory)[offset : offset + size]) if self._settings.payload_checksum else None
        )
        return Part(source.path.name, source.id, crc32)

    def _rows(self, source: Arena, offset: int, size: int, tokens: int, heads: int) -> torch.Tensor:
        """A hand-over's bytes as `[layers, tokens, kv_heads, 2, head_size]`."""
        whole = torch.frombuffer(source.memory, dtype=torch.uint8, count=size, offset=offset)
        return whole.view(self._dtype).view(self._shape.layers, tokens, heads, 2, self._shape.head_size)

    def _attach(self, header: Header, part: Part) -> Arena:
        """Another engine's arena, checked.

        Raises:
            ArenaError: It is gone, cut off, another one, or its bytes are not those that were saved.
        """
        found = self._attached.get(part.arena)
        if found is None or found.id != part.arena_id:
            found = self._attached[part.arena] = arena.attach(self._folder.path / part.arena, part.arena_id)
            threading.Thread(target=self._make_ready, args=(found,), name="syshax attach", daemon=True).start()
        found.check()
        if header.offset + header.size > len(found.memory):
            raise ArenaError(
                f"{found.path}: {len(found.memory)} bytes, the hand-over ends at {header.offset + header.size}"
            )
        if part.crc32 is not None:
            bytes_ = memoryview(found.memory)[header.offset : header.offset + header.size]
            if zlib.crc32(bytes_) != part.crc32:
                raise ArenaError(f"{found.path}: the bytes of hand-over {header.key} have another checksum")
        return found

    def _keep_arenas(self) -> None:
        """Lets go of arenas that are gone, else their memory would stay; makes the own one, and anew if it is gone."""
        for name, found in list(self._attached.items()):
            if found.is_removed() and not any(found in pending.arenas for pending in self._pending):
                del self._attached[name]
                self._unpin(found)
                found.close()
        if not self._saves:
            return
        if self._own is not None and self._own.is_removed():
            _logger.warning("%s was removed by somebody; making it anew", self._own.path)
            self._own = None
        if self._own is None:
            path = self._folder.arena_path(self._owner, self._rank)
            began = time.perf_counter()
            made = arena.create(path, self._settings.arena_bytes)
            self._pin(made)
            self._own = made
            _logger.info("%s: %d bytes made in %.1f s", path, self._settings.arena_bytes, time.perf_counter() - began)

    def _make_ready(self, found: Arena) -> None:
        """Page table and registration of another engine's arena, while the first loads do without."""
        found.populate(write=False)
        self._pin(found)

    def _pin(self, mapped: Arena) -> None:
        """Registers memory with CUDA, once: copies then go at the bus's speed, and beside the engine's thread."""
        if self._stream is None:
            return
        torch.cuda.set_device(self._device)
        code = torch.cuda.cudart().cudaHostRegister(mapped.address, len(mapped.memory), 0)
        if int(code):
            _logger.warning("%s: cudaHostRegister says %s; copies to and from the GPU will be slow", mapped.path, code)

    def _unpin(self, mapped: Arena) -> None:
        if self._stream is not None:
            torch.cuda.cudart().cudaHostUnregister(mapped.address)
