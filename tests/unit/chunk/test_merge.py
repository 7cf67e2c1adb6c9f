# SPDX-License-Identifier: Apache-2.0
"""Merging pieces into one slice: bytes, holes, missing objects, memory (metadata-semantics §7.2, data-path §8)."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from core.chunk.merge import Merger
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockError
from core.meta.records import Slice
from core.meta.slices import flatten
from core.object.memory import MemStore

BLOCK = 1 << 16


def a_store(objects: MemStore, *, memory: int = 8 * BLOCK, retries: int = 0) -> BlockSliceStore:
    numbers = itertools.count(1000 * (len(objects.objects) + 1))

    async def take() -> int:
        return next(numbers)

    return BlockSliceStore(
        objects, block_size=BLOCK, compression="lz4", hash_prefix=False, new_slice_id=take, memory_budget=memory,
        retries=retries,
    )  # fmt: skip


async def written(store: BlockSliceStore, data: bytes) -> tuple[int, int]:
    writer = await store.writer(len(data))
    await writer.write(data)
    piece = await writer.finish()
    return piece.id, piece.size


async def fragments(store: BlockSliceStore, rng: random.Random, number: int) -> tuple[list[Slice], bytes]:
    records, model = [], bytearray()
    for _ in range(number):
        data = rng.randbytes(rng.randrange(1, 5 * BLOCK))
        at = rng.randrange(40 * BLOCK)
        ident, size = await written(store, data)
        off = rng.randrange(size)
        part = data[off:]
        records.append(Slice(at, ident, size, off, len(part)))
        model.extend(bytes(max(0, at + len(part) - len(model))))
        model[at : at + len(part)] = part
    return flatten(records), bytes(model)


async def test_the_new_slice_holds_what_was_visible(rng: random.Random) -> None:
    objects = MemStore()
    store = a_store(objects)
    pieces, content = await fragments(store, rng, 30)
    used = store.budget.used
    peak = 0

    def watch(n: int) -> None:
        nonlocal peak
        peak = max(peak, store.budget.used)

    store.budget.add_reclaimer(watch)
    made = await Merger(store)(pieces)
    assert made is not None and made[1] == len(content)
    assert bytes(await store.read(*made, 0, made[1])) == content
    assert store.budget.used <= used + BLOCK and peak <= store.budget.limit + 2 * BLOCK
    await store.close()


async def test_many_at_once_end_in_little_memory(rng: random.Random) -> None:
    objects = MemStore()
    store = a_store(objects)
    work = [await fragments(store, rng, 6) for _ in range(10)]
    async with asyncio.timeout(60):
        merge = Merger(store)
        made = await asyncio.gather(*(merge(pieces) for pieces, _ in work))
    for one, (_, content) in zip(made, work, strict=True):
        assert one is not None and bytes(await store.read(*one, 0, one[1])) == content
    await store.close()


async def test_a_missing_object_leaves_nothing_behind(rng: random.Random) -> None:
    objects = MemStore()
    store = a_store(objects)
    pieces, _ = await fragments(store, rng, 8)
    last = [piece for piece in pieces if piece.id][-1]
    await store.remove(last.id, last.size)
    before, used = set(objects.objects), store.budget.used
    assert await Merger(store)(pieces) is None
    assert set(objects.objects) == before
    assert store.budget.used <= used + BLOCK
    await store.close()


async def test_a_failing_store_is_an_error_and_leaves_nothing(rng: random.Random) -> None:
    objects = MemStore()
    store = a_store(objects)
    pieces, _ = await fragments(store, rng, 8)
    before = set(objects.objects)

    async def refuse(key: str, data: object) -> None:
        raise OSError(5, "no")

    objects.put = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(BlockError):
        await Merger(store)(pieces)
    assert set(objects.objects) == before
    await store.close()
