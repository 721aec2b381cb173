# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs in vLLM's environment: what vLLM writes into a cache is what the connector reads, and the other way round.

Also: which engines are refused, by vLLM's own types. Prints what it tried.
"""

import random
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.distributed.kv_transfer.kv_connector.v1.multi_connector import MultiConnector
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

import syshax_connector.connector  # noqa: F401 - it registers itself
from syshax_connector.cache import PackedCache, RowCache
from syshax_connector.folder import Folder
from syshax_connector.identity import UnsupportedError, check_supported, rope_of
from syshax_connector.layout import Packed
from syshax_connector.scheduler import Scheduler
from syshax_connector.settings import Settings
from syshax_connector.stored import Stored, checksum, unpacked

LAYERS, BLOCKS = 2, 9
_chance = random.Random(0)


def plain_of(tokens: int, heads: int, head_size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(LAYERS, heads, 2, tokens, head_size).to(dtype)


def whole(data: torch.Tensor, tokens: int, packed: Packed | None) -> Stored:
    return Stored(data, tokens, packed, slice(0, data.shape[1 if packed is None else 2]))


def room_in(cache: PackedCache, like: torch.Tensor, block_size: int) -> Stored:
    """Where a cache can be read to, filled with what was there before."""
    _, heads, _, tokens, head_size = like.shape
    shape = (LAYERS, cache.packed.room(tokens) // block_size, heads, block_size, 2 * head_size)
    return whole(torch.full(shape, 7.0, dtype=like.dtype), tokens, cache.packed)


def slots_of(blocks: list[int], block_size: int, start: int, stop: int) -> torch.Tensor:
    return torch.tensor([blocks[token // block_size] * block_size + token % block_size for token in range(start, stop)])


def written_by_vllm(
    caches: list[torch.Tensor], plain: torch.Tensor, blocks: list[int], start: int, stop: int, isa: str
) -> None:
    for cache, layer in zip(caches, plain, strict=True):
        count, heads, block_size, width = cache.shape
        keys, values = cache.view(count, heads, 2 * block_size, width // 2).chunk(2, dim=2)
        k, v = (layer[:, kind, start:stop].transpose(0, 1).contiguous() for kind in range(2))
        ops.cpu_attn_reshape_and_cache(k, v, keys, values, slots_of(blocks, block_size, start, stop), isa)


def check_packed(dtype: torch.dtype, block_size: int, head_size: int, isa: str) -> None:
    heads = 4
    cpu = torch.device("cpu")

    def caches(block_size: int = block_size) -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [torch.randn(BLOCKS, heads, block_size, 2 * head_size).to(dtype) for _ in range(LAYERS)]

    for _ in range(6):
        blocks = _chance.choice([_chance.sample(range(BLOCKS), 5), [2, 3, 4, 5, 6]])
        tokens = _chance.randint(1, 5 * block_size)
        plain = plain_of(tokens, heads, head_size, dtype)
        theirs, ours = caches(), caches()
        written_by_vllm(theirs, plain, blocks, 0, tokens, isa)
        saved = room_in(PackedCache(theirs, isa), plain, block_size)
        PackedCache(theirs, isa).read(blocks, saved)
        assert torch.equal(torch.stack(list(saved.plain(cpu))), plain), "read"
        assert torch.equal(unpacked(saved.data, PackedCache(theirs, isa).packed, tokens), plain), "all layers at once"
        beside = torch.stack(theirs, dim=1)  # as vLLM lays them out where a block of all layers is to be in one piece
        saved.data.zero_()
        PackedCache(list(beside.unbind(1)), isa).read(blocks, saved)
        assert torch.equal(torch.stack(list(saved.plain(cpu))), plain), "read from layers that stand side by side"

        start = _chance.randint(0, tokens - 1)
        theirs = caches()
        written_by_vllm(theirs, plain, blocks, start, tokens, isa)
        cache = PackedCache(ours, isa)
        for first, count in ((0, 1), (1, 3)):  # as from two ranks of a producer
            cache.write(blocks, start, tokens, whole(plain, tokens, None).of_heads(first, count), first)
        assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True)), "write"

        # Blocks of its own kind are copied as they are; from a token within a block on, and into others, they are not.
        others = [(isa, block_size, 0), (isa, block_size, start), ("vec", block_size, 0), (isa, block_size // 2, 0)]
        for other_isa, other_size, begin in others:
            if other_size % 32:
                continue
            other = PackedCache(caches(other_size), other_isa)
            numbers = _chance.sample(range(BLOCKS), -(-tokens // other_size)) if tokens <= BLOCKS * other_size else []
            if not numbers:
                continue
            other.write(numbers, 0, tokens, whole(plain * 0, tokens, None), 0)
            for first, count in ((0, 1), (1, 3)):
                other.write(numbers, begin, tokens, saved.of_heads(first, count), first)
            out = room_in(other, plain, other_size)
            other.read(numbers, out)
            wanted = plain.clone()
            wanted[:, :, :, :begin] = 0
            assert torch.equal(torch.stack(list(out.plain(cpu))), wanted), (other_isa, other_size, begin)

        rows = RowCache([torch.zeros(BLOCKS, heads, block_size, 2 * head_size, dtype=dtype)], block_size)
        first_layer = Stored(saved.data[:1], tokens, saved.packed, saved.heads)
        for first, count in ((0, 1), (1, 3)):
            rows.write(blocks, 0, tokens, first_layer.of_heads(first, count), first)
        on_gpu = whole(torch.empty_like(plain[:1]), tokens, None)
        rows.read(blocks, on_gpu)
        assert torch.equal(on_gpu.data, plain[:1]), "packed to rows"


def check_rows(heads_first: bool, own_block_size: int) -> None:
    """Both physical orders of a GPU's cache, and blocks of the kernel that are smaller than the scheduler's."""
    heads, head_size, block_size = 3, 32, 64
    count = BLOCKS * block_size // own_block_size
    shape = (
        (count, heads, own_block_size, 2 * head_size) if heads_first else (count, own_block_size, heads, 2 * head_size)
    )
    caches = [torch.zeros(shape) if heads_first else torch.zeros(shape).transpose(1, 2) for _ in range(LAYERS)]
    blocks, tokens = _chance.sample(range(BLOCKS), 4), 200
    plain = plain_of(tokens, heads, head_size, torch.float32)
    cache = RowCache(caches, block_size)
    stored = whole(plain, tokens, None)
    cache.write(blocks, 0, 70, stored.of_heads(0, 2), 0)
    cache.write(blocks, 70, tokens, stored.of_heads(0, 2), 0)
    cache.write(blocks, 0, tokens, stored.of_heads(2, 1), 2)
    out = whole(torch.empty_like(plain), tokens, None)
    cache.read(blocks, out)
    assert torch.equal(out.data, plain)
    token = 133
    slot = blocks[token // block_size] * block_size + token % block_size
    row = caches[1][slot // own_block_size, 2, slot % own_block_size]
    assert torch.equal(row, torch.cat([plain[1, 2, 0, token], plain[1, 2, 1, token]]))


def check_refusals() -> None:
    good = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.bfloat16)
    mla = MLAAttentionSpec(block_size=32, num_kv_heads=1, head_size=576, dtype=torch.bfloat16)
    window = SlidingWindowSpec(block_size=32, num_kv_heads=2, head_size=32, dtype=torch.bfloat16, sliding_window=128)
    plain = SimpleNamespace(pipeline_parallel_size=1, decode_context_parallel_size=1)

    def supported(*specs: Any, parallel: Any = plain) -> None:
        groups = [KVCacheGroupSpec([f"layer.{index}"], spec) for index, spec in enumerate(specs)]
        config = KVCacheConfig(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=groups)
        check_supported(SimpleNamespace(parallel_config=parallel), config)  # type: ignore[arg-type]

    supported(good)
    refused: list[tuple[str, Any]] = [
        ("MLAAttentionSpec", lambda: supported(mla)),
        ("SlidingWindowSpec", lambda: supported(window)),
        ("2 KV cache groups", lambda: supported(good, window)),
        ("float8", lambda: supported(replace(good, dtype=torch.float8_e4m3fn))),
        ("pipeline", lambda: supported(good, parallel=SimpleNamespace(pipeline_parallel_size=2))),
        (
            "context_parallel",
            lambda: supported(good, parallel=SimpleNamespace(pipeline_parallel_size=1, decode_context_parallel_size=2)),
        ),
    ]
    for named, attempt in refused:
        said = ""
        try:
            attempt()
        except UnsupportedError as error:
            said = str(error)
        assert named in said, f"{named} is not refused: {said}"


def check_rope() -> None:
    """The same model, as older and newer versions of transformers describe it."""
    old = SimpleNamespace(rope_theta=500000.0, rope_scaling=None)
    new = SimpleNamespace(rope_parameters={"rope_theta": 500000, "rope_type": "default"})
    assert rope_of(old) == rope_of(new)
    old.rope_scaling = {"type": "linear", "factor": 2.0}
    new.rope_parameters = {"rope_theta": 500000, "rope_type": "linear", "factor": 2.0}
    assert rope_of(old) == rope_of(new)
    assert rope_of(old) != rope_of(SimpleNamespace(rope_theta=10000.0, rope_scaling=old.rope_scaling))


def check_multi_connector() -> None:
    """vLLM's MultiConnector knows our statistics by our name."""
    event = {"op": "save", "result": "saved", "reason": "", "tokens": 5}
    for _ in range(2):
        stats = MultiConnector.build_kv_connector_stats(
            {"SyshaxConnector": {"events": [event], "reaped": 1, "state": {"waiting": 1}}}
        )
    assert stats.aggregate(stats).reduce()["SyshaxConnector"]["files reaped"] == 2
    assert not stats.is_empty()


def check_counts_of_two_threads() -> None:
    """What the sweeper counts while the engine's thread takes the counts is counted once, and never lost."""
    rounds, told = 2000, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        folder = Folder(Path(path))
        folder.reap = lambda ttl_s, grace_s: 1
        scheduler = Scheduler(folder, Settings(sweep_s=86400), None, None, ranks=1, block_size=16)
        interval_s = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        sweeper = threading.Thread(target=lambda: [scheduler._sweep() for _ in range(rounds)])
        sweeper.start()
        while sweeper.is_alive():
            told += (stats := scheduler.stats()) is not None and stats.data["reaped"]
        sweeper.join()
        sys.setswitchinterval(interval_s)
        scheduler.close()
        told += (stats := scheduler.stats()) is not None and stats.data["reaped"]
    assert told in (rounds, rounds + 1), told  # the scheduler's own sweeper may have swept once


def check_checksum() -> None:
    """It differs for each bit that is changed, each row that is moved, and each size."""
    memory = bytearray(_chance.randbytes(100_003))
    begin, size, row_bytes = 8, 99_987, 4096
    first = checksum(memory, begin, size)
    assert first == checksum(memory, begin, size)
    assert first != checksum(memory, begin, size - 1)
    rows = range(begin, begin + size - row_bytes, row_bytes)
    for place in (*(row + byte for row in rows for byte in (0, 1, 7, 1663)), begin + size - 1):
        for bit in range(8):
            memory[place] ^= 1 << bit
            assert checksum(memory, begin, size) != first, (place, bit)
            memory[place] ^= 1 << bit
    for here, there, length in ((8, 4104, row_bytes), (8, 8200, 8192), (8, 4104, 8), (98_000, 99_000, 8)):
        pieces = memory[here : here + length], memory[there : there + length]
        memory[there : there + length], memory[here : here + length] = pieces
        assert checksum(memory, begin, size) != first, (here, there)
        memory[here : here + length], memory[there : there + length] = pieces
    assert checksum(memory, begin, size) == first


def main() -> None:
    check_multi_connector()
    check_counts_of_two_threads()
    check_checksum()
    # vLLM packs for AMX without using it.
    isas = ["vec", "vec16", *(["amx"] if torch.cpu._is_avx512_supported() else [])]
    for isa in isas:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            if isa == "amx" and dtype != torch.bfloat16:
                continue
            for block_size, head_size in ((32, 32), (64, 128), (128, 64), (128, 80)):
                if head_size % 32 and isa != "vec16":
                    continue
                check_packed(dtype, block_size, head_size, isa)
                print("read and written:", isa, dtype, block_size, head_size)
    for heads_first in (False, True):
        for own_block_size in (16, 64):
            check_rows(heads_first, own_block_size)
            print("rows: heads first" if heads_first else "rows: tokens first", own_block_size)
    check_refusals()
    check_rope()
    print("all is well")


if __name__ == "__main__":
    main()
