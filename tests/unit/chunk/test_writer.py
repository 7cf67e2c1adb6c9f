# SPDX-License-Identifier: Apache-2.0
"""Writing slices: blocks leave when they are full, failures are told, memory comes back (data-path §7)."""

from __future__ import annotations

import asyncio
import errno

import pytest

from core.chunk.encoding import codec_for
from core.chunk.store import BlockSliceStore
from core.chunk.writer import EMPTY
from core.errors import FsError, ObjectError
from core.meta.records import CHUNK_SIZE

from .doubles import BLOCK, FaultyStore, NoWait, always, make_store, noise, nth, settle


async def write(store: BlockSliceStore, data: bytes, step: int = 10_000, hint: int | None = None) -> object:
    writer = await store.writer(hint)
    for at in range(0, len(data), step):
        await writer.write(data[at : at + step])
    return await writer.finish()


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 777])
@pytest.mark.parametrize("hint", [None, 1, 5000, 1 << 30])
async def test_objects_hold_the_blocks_of_the_slice(compression: str, size: int, hint: int | None) -> None:
    store = make_store(compression=compression)
    data = noise(size)
    piece = await write(store, data, hint=hint)
    assert piece == (1, size, 0, size, 1)
    objects = store.objects.objects
    expected = {
        f"chunks/0/0/1_{i}_{min(BLOCK, size - i * BLOCK)}": data[i * BLOCK : (i + 1) * BLOCK]
        for i in range(-(-size // BLOCK))
    }
    assert objects.keys() == expected.keys()
    for key, plain in expected.items():
        assert codec_for(compression).decode(objects[key][0], len(plain)) == plain
    await store.close()
    store.reader._hot._shrink(1 << 40)
    assert store.budget.used == 0


async def test_buffers_are_filled_in_place() -> None:
    store = make_store()
    writer = await store.writer()
    total = 0
    while total < 2 * BLOCK:
        view = writer.buffer()
        assert 0 < len(view) <= BLOCK
        n = min(len(view), 30_000)
        view[:n] = noise(2 * BLOCK)[total : total + n]
        await writer.advance(n)
        total += n
        assert writer.length == total
    await writer.finish()
    assert store.objects.objects["chunks/0/0/1_1_65536"][0] == noise(2 * BLOCK)[BLOCK:]


async def test_full_blocks_leave_before_the_end() -> None:
    store = make_store()
    writer = await store.writer()
    await writer.write(noise(BLOCK + 1))
    await settle()
    assert list(store.objects.objects) == ["chunks/0/0/1_0_65536"]
    await writer.abort()
    assert store.objects.objects == {}


async def test_an_empty_slice_costs_nothing() -> None:
    store = make_store()
    assert await (await store.writer()).finish() == EMPTY
    assert store.objects.calls == {} and store.budget.used == 0


async def test_a_slice_ends_at_64_mib() -> None:
    store = make_store(block_size=4 << 20, memory_budget=64 << 20)
    writer = await store.writer()
    for _ in range(16):
        await writer.write(bytes(4 << 20))
    with pytest.raises(ValueError, match="at most"):
        await writer.write(b"x")
    with pytest.raises(FsError, match="64 MiB"):
        writer.buffer()
    assert (await writer.finish()).size == CHUNK_SIZE


async def test_memory_is_bounded_while_uploads_are_slow() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects, memory_budget=8 * BLOCK)
    task = asyncio.create_task(write(store, noise(40 * BLOCK), step=BLOCK))
    await settle(200)
    assert not task.done() and store.budget.used <= store.budget.limit
    objects.gates.pop("put").set()
    await task
    assert store.budget.used <= 2 * BLOCK


async def test_many_writers_share_a_small_budget_and_all_finish() -> None:
    store = make_store(memory_budget=8 * BLOCK, compression="lz4")
    pieces = await asyncio.wait_for(asyncio.gather(*(write(store, noise(5 * BLOCK + i)) for i in range(30))), 60)
    for i, piece in enumerate(pieces):
        assert await store.read(piece.id, piece.size, 0, piece.size) == noise(5 * BLOCK + i)


async def test_uploads_are_limited() -> None:
    store = make_store(max_uploads=3)
    await write(store, noise(20 * BLOCK))
    assert store.objects.most["put"] == 3


async def test_a_writer_does_not_run_far_ahead_of_a_local_disk() -> None:
    objects = FaultyStore()
    objects.features = objects.features._replace(local_path=True)
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects)
    task = asyncio.create_task(write(store, noise(20 * BLOCK), step=BLOCK))
    await settle(200)
    assert objects.running["put"] == 4 and store.budget.used <= 5 * BLOCK
    objects.gates.pop("put").set()
    await task


async def test_a_failed_put_is_tried_again_with_growing_pauses() -> None:
    clock = NoWait()
    store = make_store(clock=clock)
    store.objects.fail["put"] = nth(1, 2, 3)
    await write(store, b"hello")
    assert clock.slept == [1, 4, 9]


@pytest.mark.parametrize("failure", [ObjectError("the disk is on fire"), OSError(errno.EIO, "the disk is on fire")])
async def test_a_lasting_failure_is_eio_with_its_cause(failure: Exception) -> None:
    store = make_store()
    store.objects.fail["put"] = always(failure)
    writer = await store.writer()
    await writer.write(b"hello")
    with pytest.raises(FsError, match=r"slice 1 block 0 \(chunks/0/0/1_0_5\): .* 4 attempts: .*disk is on fire") as e:
        await writer.finish()
    assert e.value.errno == errno.EIO
    await writer.abort()
    assert store.objects.objects == {} and store.budget.used == 0


async def test_errors_that_cannot_heal_are_not_retried() -> None:
    store = make_store()
    store.objects.fail["put"] = always(ObjectError("access denied", retryable=False))
    with pytest.raises(FsError, match="access denied"):
        await write(store, b"hello")
    assert store.objects.calls["put"] == 1


async def test_the_first_failure_stops_the_writer_and_its_siblings() -> None:
    clock = NoWait()
    store = make_store(clock=clock, retries=100)
    store.objects.fail["put"] = lambda n: ObjectError("denied", retryable=n != 2)
    writer = await store.writer()
    with pytest.raises(FsError, match=r"slice 1 block \d .*denied"):
        for _ in range(50):
            await writer.write(noise(BLOCK))
            await settle()
        await writer.finish()
    await writer.abort()
    assert store.objects.calls["put"] < 10
    assert store.budget.used == 0


async def test_a_put_that_hangs_is_abandoned_and_its_buffer_never_written_again() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects, put_timeout_s=0.01, retries=0, memory_budget=64 * BLOCK)
    writer = await store.writer()
    await writer.write(noise(BLOCK))
    with pytest.raises(FsError, match=r"no answer from .* within"):
        await writer.finish()
    assert len(store.pool._idle) <= 1  # only the untouched second buffer
    await writer.abort()
    assert store.budget.used == 0


async def test_giving_up_frees_memory_and_deletes_what_was_uploaded() -> None:
    objects = FaultyStore()
    store = make_store(objects)
    writer = await store.writer()
    await writer.write(noise(3 * BLOCK))
    await settle()
    objects.gates["put"] = asyncio.Event()
    await writer.write(noise(BLOCK + 5))
    await writer.abort()
    await writer.abort()
    assert objects.objects == {} and store.budget.used == 0
    with pytest.raises(FsError):
        writer.buffer()


async def test_giving_up_before_an_upload_started_leaks_nothing() -> None:
    store = make_store()
    writer = await store.writer()
    await writer.write(noise(BLOCK))  # the task was made but hasn't run
    await writer.abort()
    assert store.budget.used == 0 and store.objects.objects == {}


async def test_a_failing_id_counter_is_reported_and_leaks_nothing() -> None:
    async def no_id() -> int:
        raise FsError(errno.EIO, "no more ids")

    store = make_store(new_slice_id=no_id)
    writer = await store.writer()
    with pytest.raises(FsError, match="no more ids"):
        await writer.write(noise(BLOCK))
    await writer.abort()
    assert store.budget.used == 0
    with pytest.raises(FsError, match="no more ids"):
        await store.pack(b"x")
    assert store.budget.used == 0


async def test_the_nth_put_failing_never_yields_a_wrong_slice() -> None:
    data = noise(6 * BLOCK + 9)
    for n in range(1, 8):
        store = make_store(retries=0)
        store.objects.fail["put"] = nth(n)
        writer = await store.writer()
        with pytest.raises(FsError, match="disk is on fire"):
            await writer.write(data)
            await writer.finish()
        await writer.abort()
        assert store.objects.objects == {} and store.budget.used == 0
