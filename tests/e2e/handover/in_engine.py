# Copyright (c) 2026 sysHAX contributors
# SPDX-License-Identifier: MulanPSL-2.0
"""Runs in vLLM's environment: what vLLM writes into a cache is what the connector reads, and the other way round.

Also: which engines are refused, by vLLM's own types. Prints what it tried.
"""

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from vllm import _custom_ops as ops
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)

from syshax_connector.cache import PackedCache, RowCache
from syshax_connector.identity import UnsupportedError, check_supported, rope_of

LAYERS, BLOCKS = 2, 9
_chance = random.Random(0)


def plain_of(tokens: int, heads: int, head_size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(LAYERS, heads, 2, tokens, head_size).to(dtype)


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

    def caches() -> list[torch.Tensor]:
        torch.manual_seed(1)
        return [torch.randn(BLOCKS, heads, block_size, 2 * head_size).to(dtype) for _ in range(LAYERS)]

    for _ in range(6):
        blocks = _chance.choice([_chance.sample(range(BLOCKS), 5), [2, 3, 4, 5, 6]])
        tokens = _chance.randint(1, 5 * block_size)
        plain = plain_of(tokens, heads, head_size, dtype)
        theirs, ours = caches(), caches()
        written_by_vllm(theirs, plain, blocks, 0, tokens, isa)
        out = torch.empty_like(plain)
        PackedCache(theirs, isa).read(blocks, out)
        assert torch.equal(out, plain), "read"

        start = _chance.randint(0, tokens - 1)
        theirs = caches()
        written_by_vllm(theirs, plain, blocks, start, tokens, isa)
        cache = PackedCache(ours, isa)
        for first, count in ((0, 1), (1, 3)):  # as from two ranks of a producer
            cache.write(blocks, start, tokens, plain[:, first : first + count], first)
        assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True)), "write"


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
    cache.write(blocks, 0, 70, plain[:, :2], 0)
    cache.write(blocks, 70, tokens, plain[:, :2], 0)
    cache.write(blocks, 0, tokens, plain[:, 2:], 2)
    out = torch.empty_like(plain)
    cache.read(blocks, out)
    assert torch.equal(out, plain)
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


def main() -> None:
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
