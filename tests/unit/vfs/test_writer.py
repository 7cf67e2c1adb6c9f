# SPDX-License-Identifier: Apache-2.0
"""Writing in place: what is recorded when, in which order, and what a failure means. Source: data-path §7."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

import pytest

from core.chunk.api import Piece
from core.errors import FsError, ObjectError
from core.meta.records import CHUNK_SIZE, ROOT, Slice
from core.meta.stores.memory import MemoryStore
from core.vfs.handles import Handle
from tests.unit.chunk.doubles import BLOCK, FaultyStore, always, noise, settle
from tests.unit.vfs.volume import Client, make_client, new_volume


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    store = await new_volume(MemoryStore())
    client = await make_client(store, FaultyStore())
    yield client
    client.slices.objects.fail.clear()  # type: ignore[attr-defined]
    client.slices.objects.gates.clear()  # type: ignore[attr-defined]
    await client.close(check=True)
    assert client.slices.budget.used <= 4 << 20  # what caches keep


def objects(client: Client) -> FaultyStore:
    assert isinstance(client.slices.objects, FaultyStore)
    return client.slices.objects


async def new_file(client: Client, name: bytes = b"f", flags: int = os.O_RDWR) -> Handle:
    return await client.vfs.create(ROOT, name, flags)


async def recorded(client: Client, handle: Handle, index: int = 0) -> list[Slice]:
    return await client.meta.read_chunk(handle.ino, index)


# -- slices ---------------------------------------------------------------------------------------------------------


async def test_sequential_writes_become_one_slice(client: Client) -> None:
    h = await new_file(client)
    data = noise(10 * BLOCK + 17)
    for at in range(0, len(data), 5000):
        assert await h.write(at, data[at : at + 5000]) == len(data[at : at + 5000])
    assert await recorded(client, h) == []
    await h.flush()
    (s,) = await recorded(client, h)
    assert (s.pos, s.size, s.off, s.length) == (0, len(data), 0, len(data))
    assert bytes(await h.read(0, 1 << 30)) == data
    await h.release()


async def test_full_blocks_leave_before_anybody_flushes(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, noise(4 * BLOCK))
    await settle(50)
    assert objects(client).calls["put"] >= 3
    await h.release()


async def test_a_chunk_border_splits_a_write(client: Client) -> None:
    h = await new_file(client)
    await h.write(CHUNK_SIZE - 3, b"abcdef")
    await h.flush()
    assert [(s.pos, s.length) for s in await recorded(client, h)] == [(CHUNK_SIZE - 3, 3)]
    assert [(s.pos, s.length) for s in await recorded(client, h, 1)] == [(0, 3)]
    assert bytes(await h.read(CHUNK_SIZE - 4, 100)) == b"\0abcdef"
    await h.release()


async def test_a_slice_ends_at_64_mib(client: Client) -> None:
    h = await new_file(client)
    part = bytes(4 << 20)
    for n in range(17):
        await h.write(n * len(part), part)
    for _ in range(2000):
        if await recorded(client, h):
            break
        await asyncio.sleep(0)
    (s,) = await recorded(client, h)  # without a flush
    assert s.length == CHUNK_SIZE
    await h.release()


async def test_small_bytes_are_changed_in_place_while_nothing_has_left(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, b"hello world")
    await h.write(6, b"there, friend")
    await h.write(0, b"J")
    await h.flush()
    (s,) = await recorded(client, h)
    assert s.length == 19
    assert bytes(await h.read(0, 100)) == b"Jello there, friend"
    await h.release()


async def test_random_writes_are_recorded_in_the_order_they_were_made(client: Client) -> None:
    h = await new_file(client)
    want = bytearray(8 * BLOCK)
    for n, at in enumerate((5, 3, 5, 0, 7, 3, 2, 5)):
        data = noise(BLOCK // 2 + n * 1000, n)
        await h.write(at * BLOCK - at * 7, data)
        want[at * BLOCK - at * 7 : at * BLOCK - at * 7 + len(data)] = data
    await h.flush()
    assert bytes(await h.read(0, len(want))) == bytes(want[: h.length])
    await h.release()


async def test_four_interleaved_streams_make_four_slices(client: Client) -> None:
    h = await new_file(client)
    for n in range(20):
        for stream in range(4):
            await h.write(stream * 4 * BLOCK + n * 1000, bytes([65 + stream]) * 1000)
    await h.flush()
    assert len(await recorded(client, h)) == 4
    await h.release()


async def test_a_continued_slice_never_hides_a_newer_one(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, b"a" * 1000)
    await h.write(1500, b"b" * 1000)
    await h.write(1000, b"c" * 1000)  # continues the first, over the second
    await h.flush()
    assert bytes(await h.read(0, 5000)) == b"a" * 1000 + b"c" * 1000 + b"b" * 500
    await h.release()


async def test_small_slices_of_many_files_share_objects(client: Client) -> None:
    handles = [await new_file(client, b"f%d" % n) for n in range(30)]
    for n, h in enumerate(handles):
        await h.write(0, b"%d" % n * 100)
    await asyncio.gather(*(h.flush() for h in handles))
    assert objects(client).calls["put"] <= 4
    for n, h in enumerate(handles):
        assert bytes(await h.read(0, 1000)) == b"%d" % n * 100
        await h.release()


async def test_ready_slices_of_a_chunk_are_recorded_together(client: Client) -> None:
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()
    for n in reversed(range(20)):
        await h.write(n * 100_000, b"x" * 100)
    flushing = asyncio.ensure_future(h.flush())
    await settle()
    with client.meta.store.round_trips() as n:
        gate.set()
        await flushing
    assert n.count <= 8
    assert len(await recorded(client, h)) == 20
    await h.release()


# -- time -----------------------------------------------------------------------------------------------------------


async def test_idle_bytes_leave_after_a_second(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, b"x")
    await client.clock.advance(0.9)
    assert await recorded(client, h) == []
    await client.clock.advance(0.5)
    await settle()
    assert len(await recorded(client, h)) == 1
    await h.release()


async def test_busy_bytes_leave_after_five_seconds(client: Client) -> None:
    h = await new_file(client)
    for n in range(54):
        await h.write(n, b"x")
        await client.clock.advance(0.1)
    await settle()
    assert 45 <= sum(s.length for s in await recorded(client, h)) < 54
    await h.release()


# -- order ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_recorded_before_it_is_stored(client: Client) -> None:
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()
    await h.write(0, noise(BLOCK * 2))
    flushing = asyncio.ensure_future(h.flush())
    await settle(50)
    assert await recorded(client, h) == []
    assert (await client.meta.getattr(h.ino)).length == 0
    assert (await client.vfs.getattr(h.ino)).length == 2 * BLOCK
    gate.set()
    await flushing
    assert (await client.meta.getattr(h.ino)).length == 2 * BLOCK
    await h.release()


async def test_slices_of_a_chunk_wait_for_older_ones(client: Client) -> None:
    """The second slice is stored at once, the first one hangs."""
    h = await new_file(client)
    slow = asyncio.Event()
    real = client.slices.pack

    async def pack(data: bytes) -> Piece:
        if data[:1] == b"1":
            await slow.wait()
        return await real(data)

    client.slices.begin_pack = lambda data, durability=None: asyncio.ensure_future(pack(data))  # type: ignore[method-assign, assignment, arg-type]
    await h.write(0, b"1" * 100)
    await h.write(50_000, b"2" * 100)
    flushing = asyncio.ensure_future(h.flush())
    await settle(50)
    assert await recorded(client, h) == []
    slow.set()
    await flushing
    assert [s.pos for s in await recorded(client, h)] == [0, 50_000]
    await h.release()


async def test_the_length_does_not_jump_over_a_lower_chunk(client: Client) -> None:
    h = await new_file(client)
    slow = asyncio.Event()
    real = client.slices.pack

    async def pack(data: bytes) -> Piece:
        if data[:1] == b"1":
            await slow.wait()
        return await real(data)

    client.slices.begin_pack = lambda data, durability=None: asyncio.ensure_future(pack(data))  # type: ignore[method-assign, assignment, arg-type]
    await h.write(0, b"1" * 100)
    await h.write(CHUNK_SIZE + 5, b"2" * 100)
    flushing = asyncio.ensure_future(h.flush())
    await settle(50)
    assert (await client.meta.getattr(h.ino)).length == 0
    slow.set()
    await flushing
    assert (await client.meta.getattr(h.ino)).length == CHUNK_SIZE + 105
    await h.release()


async def test_every_commit_has_an_mtime_of_its_own(client: Client) -> None:
    """Other clients notice changes by unequal times; the clock may stand still."""
    client.meta.clock_ns = lambda: 1_800_000_000_000_000_000
    h = await new_file(client)
    seen = set()
    for n in range(3):
        await h.write(n * 10, b"x")
        await h.flush()
        seen.add((await client.meta.getattr(h.ino)).mtime_ns)
    assert len(seen) == 3
    await h.release()


# -- failures -------------------------------------------------------------------------------------------------------


async def test_a_failed_upload_is_told_until_the_last_writer_is_gone(client: Client) -> None:
    h = await new_file(client)
    other = await client.vfs.open(h.ino, os.O_WRONLY)
    objects(client).fail["put"] = always()
    await h.write(0, b"lost")
    with pytest.raises(FsError, match=r"written data was lost.*disk is on fire") as e:
        await h.flush()
    assert e.value.errno == errno.EIO
    del objects(client).fail["put"]
    for call in (h.write(0, b"x"), h.flush(), other.write(9, b"x"), other.fsync()):
        with pytest.raises(FsError):
            await call
    await h.release()
    with pytest.raises(FsError):
        await other.write(0, b"x")
    await other.release()
    async with await client.vfs.open(h.ino, os.O_RDWR) as again:
        await again.write(0, b"fine")
        await again.flush()
        assert bytes(await again.read(0, 10)) == b"fine"


async def test_the_length_never_grows_over_lost_bytes(client: Client) -> None:
    h = await new_file(client)
    store = objects(client)
    await h.write(0, noise(BLOCK + 1))  # its first block is on its way
    await h.write(4 * BLOCK, noise(BLOCK + 1))
    real = store.put

    async def put(key: str, data: object) -> None:
        if "/1_" in key:
            raise ObjectError("the disk is on fire")
        await real(key, data)  # type: ignore[arg-type]

    store.put = put  # type: ignore[method-assign, assignment]
    with pytest.raises(FsError):
        await h.flush()
    assert (await client.meta.getattr(h.ino)).length == 0
    await client.idle()
    assert not objects(client).objects  # what was stored behind it is deleted
    await h.release()


async def test_bytes_before_the_lost_ones_stay(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, b"a" * 100)
    await h.flush()
    objects(client).fail["put"] = always()
    await h.write(100, b"b" * 100)
    with pytest.raises(FsError):
        await h.flush()
    objects(client).fail.clear()
    assert bytes(await h.read(0, 1000)) == b"a" * 100
    await h.release()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ENOENT])
async def test_errors_that_say_what_is_wrong_are_kept_and_the_objects_deleted(client: Client, code: int) -> None:
    h = await new_file(client)

    async def refuse(*args: object, **options: object) -> object:
        raise FsError(code, "no")

    real, client.meta.record_slices = client.meta.record_slices, refuse  # type: ignore[method-assign, assignment]
    await h.write(0, noise(3 * BLOCK))
    with pytest.raises(FsError) as e:
        await h.flush()
    assert e.value.errno == code
    client.meta.record_slices = real  # type: ignore[method-assign]
    await client.idle()
    assert not objects(client).objects
    await h.release()


async def test_a_commit_that_may_have_happened_keeps_its_objects(client: Client) -> None:
    h = await new_file(client)

    async def lost_answer(*args: object, **options: object) -> object:
        await real(*args, **options)  # type: ignore[arg-type]
        raise ObjectError("connection reset")

    real, client.meta.record_slices = client.meta.record_slices, lost_answer  # type: ignore[method-assign, assignment]
    await h.write(0, b"x" * 100)
    with pytest.raises(FsError) as e:
        await h.flush()
    assert e.value.errno == errno.EIO
    client.meta.record_slices = real  # type: ignore[method-assign]
    await h.release()
    await client.idle()
    async with await client.vfs.open(h.ino) as again:
        assert bytes(await again.read(0, 1000)) == b"x" * 100


async def test_capacity_is_reported(client: Client) -> None:
    h = await new_file(client)
    await h.write(0, noise(BLOCK))
    client.meta.capacity = 4096
    with pytest.raises(FsError) as e:
        await h.write(BLOCK, b"more")  # early: before anything is uploaded
    assert e.value.errno == errno.ENOSPC
    with pytest.raises(FsError) as e:
        await h.flush()
    assert e.value.errno == errno.ENOSPC
    client.meta.capacity = 0
    await h.release()


async def test_a_file_deleted_by_another_client_tells_its_writer(client: Client) -> None:
    other = await make_client(client.meta.store, objects(client))
    h = await new_file(client)
    await other.meta.unlink(ROOT, b"f")
    await h.write(0, noise(BLOCK))
    with pytest.raises(FsError, match="deleted") as e:
        await h.flush()
    assert e.value.errno == errno.ENOENT
    await h.release()
    await client.idle()
    assert not objects(client).objects
    await other.close()


async def test_a_flush_that_takes_too_long_says_so_and_the_work_goes_on(client: Client) -> None:
    client.vfs._flush_timeout_s = 0.02
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()
    await h.write(0, b"slow")
    with pytest.raises(FsError, match="aren't stored after") as e:
        await h.flush()
    assert e.value.errno == errno.EIO
    gate.set()
    await h.flush()
    assert len(await recorded(client, h)) == 1
    await h.release()


async def test_a_write_that_finds_no_memory_does_not_hang_for_ever(client: Client) -> None:
    client.vfs._flush_timeout_s = 0.05
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()
    data = noise(client.vfs.slices.budget.limit + 60 * BLOCK)
    with pytest.raises(FsError, match=r"found no room for 0.05 s.*store can be reached") as e:
        await h.write(0, data)
    assert e.value.errno == errno.EIO
    gate.set()
    client.vfs._flush_timeout_s = h.file.writer._flush_timeout_s = 60
    await h.flush()  # not an error of the data: what was taken is stored, and the file goes on
    await h.write(0, b"again")
    await h.flush()
    assert await h.read(0, 5) == b"again"
    await h.release()


async def test_a_cancelled_write_leaves_a_usable_file(client: Client) -> None:
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()
    data = noise(60 * BLOCK)
    writing = asyncio.ensure_future(h.write(0, data))
    await settle(50)
    assert not writing.done()  # four or sixteen blocks under way, the rest waits
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    gate.set()
    await h.flush()
    done = h.length
    assert 0 < done < len(data)
    assert bytes(await h.read(0, len(data))) == data[:done]
    await h.write(done, data[done:])
    assert bytes(await h.read(0, len(data))) == data
    await h.release()


# -- memory ---------------------------------------------------------------------------------------------------------


async def test_memory_stays_within_the_budget_with_many_open_writers() -> None:
    store = await new_volume(MemoryStore())
    client = await make_client(store, FaultyStore(), memory_budget=2 << 20)
    handles = [await new_file(client, b"f%d" % n) for n in range(200)]
    budget = client.slices.budget
    most = 0

    async def write(n: int, h: Handle) -> None:
        nonlocal most
        for at in range(0, 3 * BLOCK, 9000):
            await h.write(at, noise(9000, n))
            most = max(most, budget.used)

    # Nobody advances the clock: room must come from freezing, not from waiting.
    await asyncio.wait_for(asyncio.gather(*(write(n, h) for n, h in enumerate(handles))), 20)
    assert most <= budget.limit + 8 * BLOCK  # eight packs under way may overdraw
    for n, h in enumerate(handles):
        assert bytes(await h.read(9000, 9000)) == noise(9000, n)
        await h.release()
    await client.close(check=True)
    assert len(client.vfs._table) == 0


async def test_a_thousand_pending_slices_are_the_limit(client: Client) -> None:
    h = await new_file(client)
    gate = objects(client).gates["put"] = asyncio.Event()

    async def write() -> None:
        for n in range(1100):
            await h.write((1100 - n) * 10, b"abc")

    writing = asyncio.ensure_future(write())
    await settle(3000)
    assert h.file.writer is not None and h.file.writer.pending == 1000
    gate.set()
    await writing
    await h.flush()
    assert sum(s.length for s in await recorded(client, h)) == 3300
    await h.release()
