# SPDX-License-Identifier: Apache-2.0
"""Open files: flags, reading what was written here and elsewhere, truncating, files that lose their name.

Source: data-path §7.6, §9; metadata-semantics §5.2, §6.4, §11.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from core.errors import FsError
from core.meta.caller import Caller
from core.meta.records import CHUNK_SIZE, ROOT, Slice
from core.meta.stores.memory import MemoryStore
from core.vfs.handles import Handle
from tests.conformance.volume.base import Ticking
from tests.conformance.volume.invariants import check_invariants
from tests.unit.chunk.doubles import BLOCK, FaultyStore, noise, settle
from tests.unit.vfs.volume import Client, make_client, new_volume

USER = Caller(1000, (1000,))


class Two(NamedTuple):
    a: Client
    b: Client
    objects: FaultyStore


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    store, objects, clock = await new_volume(MemoryStore()), FaultyStore(), Ticking()
    a = await make_client(store, objects, clock_ns=clock)
    b = await make_client(store, objects, clock_ns=clock)
    yield Two(a, b, objects)
    await b.vfs.close()
    await b.idle()
    await a.close(check=True)
    await b.close()
    assert not a.meta.open_files
    assert not b.meta.open_files


async def fresh(client: Client, data: bytes = b"", name: bytes = b"f") -> Handle:
    handle = await client.vfs.create(ROOT, name)
    await handle.write(0, data)
    await handle.flush()
    return handle


async def refused(code: int, call: object) -> None:
    with pytest.raises(FsError) as e:
        await call  # type: ignore[misc]
    assert e.value.errno == code, e.value


# -- opening --------------------------------------------------------------------------------------------------------


async def test_handles_do_only_what_they_were_opened_for(two: Two) -> None:
    h = await fresh(two.a, b"x")
    r = await two.a.vfs.open(h.ino, os.O_RDONLY)
    w = await two.a.vfs.open(h.ino, os.O_WRONLY)
    await refused(errno.EBADF, r.write(0, b"y"))
    await refused(errno.EACCES, r.truncate(0))
    await refused(errno.EBADF, w.read(0, 1))
    await refused(errno.EINVAL, h.read(-1, 1))
    await refused(errno.EINVAL, h.write(-1, b"x"))
    await refused(errno.EINVAL, h.truncate(-1))
    await refused(errno.EFBIG, h.write((1 << 57) - 1, b"x"))
    await refused(errno.EFBIG, h.truncate(1 << 57))
    for handle in (h, r, w):
        await handle.release()
        await handle.release()
    await refused(errno.EBADF, h.write(0, b"y"))
    await refused(errno.EBADF, h.read(0, 1))
    await refused(errno.EBADF, h.truncate(0))
    assert not two.a.vfs.is_open(h.ino)


async def test_open_checks(two: Two) -> None:
    a = two.a
    d, _ = await a.meta.mkdir(ROOT, b"d")
    link, _ = await a.meta.symlink(ROOT, b"l", b"d")
    h = await a.vfs.create(ROOT, b"f", os.O_RDWR, 0o600)
    await refused(errno.EISDIR, a.vfs.open(d))
    await refused(errno.EPERM, a.vfs.open(link))
    await refused(errno.ENOENT, a.vfs.open(424242))
    await refused(errno.EACCES, a.vfs.open(h.ino, os.O_RDONLY, USER))
    await refused(errno.EEXIST, a.vfs.create(ROOT, b"f", os.O_RDWR | os.O_EXCL))
    await refused(errno.EACCES, a.vfs.create(ROOT, b"f", os.O_RDWR, caller=USER))
    await a.meta.setattr(h.ino, {"flags": 2})  # append only
    await refused(errno.EPERM, a.vfs.open(h.ino, os.O_WRONLY))
    await refused(errno.EPERM, a.vfs.open(h.ino, os.O_WRONLY | os.O_APPEND | os.O_TRUNC))
    async with await a.vfs.open(h.ino, os.O_WRONLY | os.O_APPEND) as w:
        await w.write(0, b"log")
    await a.meta.setattr(h.ino, {"flags": 0})
    await h.release()


async def test_the_creator_may_write_whatever_the_mode_says(two: Two) -> None:
    await two.a.meta.setattr(ROOT, {"mode": 0o777})
    h = await two.a.vfs.create(ROOT, b"f", os.O_RDWR, 0o400, caller=USER)
    await h.write(0, b"x")
    await h.flush()
    await h.release()
    await refused(errno.EACCES, two.a.vfs.open(h.ino, os.O_WRONLY, USER))


async def test_truncating_open_and_create_of_an_existing_file(two: Two) -> None:
    h = await fresh(two.a, b"old content")
    again = await two.b.vfs.create(ROOT, b"f", os.O_WRONLY | os.O_TRUNC)
    assert (again.ino, again.length) == (h.ino, 0)
    assert (await two.a.vfs.getattr(h.ino)).length == 0
    await again.release()
    await h.release()


async def test_appends_go_to_the_end_others_included(two: Two) -> None:
    h = await fresh(two.a, b"one ")
    a = await two.a.vfs.open(h.ino, os.O_WRONLY | os.O_APPEND)
    b = await two.b.vfs.open(h.ino, os.O_WRONLY | os.O_APPEND)
    for handle, text in ((a, b"two "), (b, b"three "), (a, b"four")):
        await handle.write(0, text)
        await handle.flush()
    await two.a.vfs.getattr(h.ino)
    assert bytes(await h.read(0, 100)) == b"one two three four"
    await asyncio.gather(*(a.write(0, b"+%d" % n) for n in range(10)))
    assert bytes(await h.read(18, 100)) == b"".join(b"+%d" % n for n in range(10))
    for handle in (a, b, h):
        await handle.release()


# -- reading --------------------------------------------------------------------------------------------------------


async def test_all_handles_of_a_process_see_a_write_at_once(two: Two) -> None:
    h = await fresh(two.a, b"a" * 10)
    r = await two.a.vfs.open(h.ino)
    assert bytes(await r.read(0, 100)) == b"a" * 10
    await h.write(5, b"b" * 10)
    assert r.length == 15
    assert bytes(await r.read(0, 100)) == b"a" * 5 + b"b" * 10
    assert await r.read(15, 1) == b""
    assert await r.read(0, 0) == b""
    await r.release()
    await h.release()


async def test_another_clients_flush_is_seen_at_open_and_after_fresh_attributes(two: Two) -> None:
    h = await fresh(two.a, b"a" * 10)
    r = await two.b.vfs.open(h.ino)
    assert bytes(await r.read(0, 100)) == b"a" * 10
    await h.write(0, b"b" * 20)
    await h.flush()
    assert bytes(await r.read(0, 100)) == b"a" * 10  # nothing told it yet
    async with await two.b.vfs.open(h.ino) as again:
        assert bytes(await again.read(0, 100)) == b"b" * 20
        assert bytes(await r.read(0, 100)) == b"b" * 20
    await h.truncate(3)
    assert (await two.b.vfs.getattr(h.ino)).length == 3
    assert bytes(await r.read(0, 100)) == b"bbb"
    await r.release()
    await h.release()


async def test_chunk_lists_are_read_once_while_nothing_changes(two: Two) -> None:
    h = await fresh(two.a, noise(5 * BLOCK))
    with two.b.meta.store.round_trips() as n:
        r = await two.b.vfs.open(h.ino)  # the first chunk's comes along
        for at in range(0, 5 * BLOCK, 1000):
            await r.read(at, 1000)
    assert n.count == 1
    await two.b.vfs.getattr(h.ino)
    with two.b.meta.store.round_trips() as n:
        await r.read(17, 1000)
    assert n.count == 0
    await r.release()
    await h.release()


async def test_a_list_that_was_on_its_way_during_a_commit_is_not_kept(two: Two) -> None:
    h = await fresh(two.a, b"a" * 10)
    gate, real = asyncio.Event(), two.a.meta.read_chunk

    async def read_chunk(ino: int, index: int) -> list[Slice]:
        found = await real(ino, index)
        await gate.wait()
        return found

    two.a.meta.read_chunk = read_chunk  # type: ignore[method-assign]
    reading = asyncio.ensure_future(h.read(0, 100))
    await settle()
    w = await two.a.vfs.open(h.ino, os.O_WRONLY)
    await w.write(0, b"b" * 10)
    await w.flush()
    gate.set()
    await reading
    assert bytes(await h.read(0, 100)) == b"b" * 10
    await w.release()
    await h.release()


async def test_blocks_that_a_compaction_replaced_are_looked_up_again(two: Two) -> None:
    data = noise(3 * BLOCK)
    h = await fresh(two.a, data)
    r = await two.b.vfs.open(h.ino)
    assert bytes(await r.read(0, 10)) == data[:10]
    (old,) = await two.a.meta.read_chunk(h.ino, 0)
    # What a compaction by another client does: same bytes, new slice; the mtime stays.
    store = two.a.meta.store
    raw = store._records[("c", h.ino, 0)]  # type: ignore[attr-defined]
    writer = await two.a.slices.writer()
    await writer.write(data)
    piece = await writer.finish()
    before = await two.a.meta.getattr(h.ino)
    await two.a.meta.write_slices(h.ino, 0, [Slice(0, piece.id, piece.size, 0, piece.length)], before.mtime_ns)
    store._records[("c", h.ino, 0)] = store._records[("c", h.ino, 0)][len(raw) :]  # type: ignore[attr-defined]
    del store._records[("K", old.id, old.size)]  # type: ignore[attr-defined]
    await two.a.slices.remove(old.id, old.size)
    assert bytes(await r.read(BLOCK + 5, BLOCK)) == data[BLOCK + 5 : 2 * BLOCK + 5]
    assert bytes(await r.read(0, len(data))) == data
    await r.release()
    await h.release()


async def test_a_block_that_is_really_gone_is_an_error(two: Two) -> None:
    h = await fresh(two.a, noise(3 * BLOCK))
    two.objects.objects.clear()
    with pytest.raises(FsError, match="missing") as e:
        await h.read(BLOCK, 100)
    assert e.value.errno == errno.EIO
    await h.truncate(0)
    await h.release()


async def test_many_reads_of_one_handle_at_a_time(two: Two) -> None:
    data = noise(30 * BLOCK)
    h = await fresh(two.a, data)
    async with await two.b.vfs.open(h.ino) as r:
        parts = await asyncio.gather(*(r.read(at, 50_000) for at in range(0, len(data), 50_000)))
        assert b"".join(map(bytes, parts)) == data
    await h.release()


async def test_read_ahead_is_given_back_when_the_reader_pauses(two: Two) -> None:
    h = await fresh(two.a, noise(30 * BLOCK))
    r = await two.b.vfs.open(h.ino)
    for at in range(0, 4 * BLOCK, BLOCK // 2):
        await r.read(at, BLOCK // 2)
    await settle(50)
    await two.b.clock.advance(10)
    assert r._streams
    await two.b.clock.advance(31)
    assert not r._streams
    assert two.b.vfs._ticker is not None and two.b.vfs._ticker.done()
    assert bytes(await r.read(5 * BLOCK, 10)) == noise(30 * BLOCK)[5 * BLOCK : 5 * BLOCK + 10]
    await r.release()
    await h.release()


async def test_holes_read_as_zeros(two: Two) -> None:
    h = await fresh(two.a, b"a")
    await h.write(3 * CHUNK_SIZE, b"z")
    assert bytes(await h.read(3 * CHUNK_SIZE - 5, 100)) == bytes(5) + b"z"
    assert bytes(await h.read(CHUNK_SIZE - 5, 10)) == bytes(10)
    assert bytes(await h.read(0, 5)) == b"a" + bytes(4)
    await h.release()


# -- truncating -----------------------------------------------------------------------------------------------------


async def test_truncate_comes_after_what_was_written_before_it(two: Two) -> None:
    h = await fresh(two.a)
    await h.write(0, b"x" * 1000)
    await h.truncate(10)
    await h.truncate(100)
    await h.write(200, b"y")
    assert bytes(await h.read(0, 1000)) == b"x" * 10 + bytes(190) + b"y"
    await two.a.vfs.truncate(h.ino, 5)
    assert bytes(await h.read(0, 1000)) == b"x" * 5
    await refused(errno.EACCES, two.a.vfs.truncate(h.ino, 0, USER))
    await h.release()
    assert (await two.a.vfs.truncate(h.ino, 7)).length == 7


async def test_a_write_during_a_truncate_comes_after_it(two: Two) -> None:
    h = await fresh(two.a)
    gate = two.objects.gates["put"] = asyncio.Event()
    await h.write(0, b"x" * 1000)
    cutting = asyncio.ensure_future(h.truncate(10))
    await settle()
    writing = asyncio.ensure_future(h.write(20, b"y"))
    await settle()
    assert not writing.done()
    gate.set()
    await cutting
    await writing
    assert bytes(await h.read(0, 1000)) == b"x" * 10 + bytes(10) + b"y"
    await h.release()


async def test_times_that_are_set_survive_bytes_written_before(two: Two) -> None:
    """cp -p: write, utimens, close."""
    h = await fresh(two.a)
    await h.write(0, b"x")
    await two.a.vfs.setattr(h.ino, {"mtime_ns": 5})
    await h.flush()
    await h.release()
    assert (await two.b.vfs.getattr(h.ino)).mtime_ns == 5


# -- files without a name -------------------------------------------------------------------------------------------


async def test_a_file_that_was_unlinked_while_open_lives_until_released(two: Two) -> None:
    d, _ = await two.a.meta.mkdir(ROOT, b"d")
    h = await two.a.vfs.create(d, b"f")
    await h.write(0, noise(BLOCK))
    await h.flush()
    await two.a.meta.unlink(d, b"f")
    await h.write(BLOCK, noise(10 * BLOCK))
    await h.flush()
    await check_invariants(two.a.meta)  # its directory doesn't count it any more
    await two.a.meta.rmdir(ROOT, b"d")
    await h.truncate(2 * BLOCK)
    assert len(await h.read(0, 1 << 20)) == 2 * BLOCK
    await h.release()
    await two.a.idle()
    assert not two.objects.objects
    await refused(errno.ENOENT, two.a.vfs.open(h.ino))


async def test_everything_is_released_at_the_end(two: Two) -> None:
    h = await fresh(two.b)
    await h.write(0, b"unflushed")
    await two.b.vfs.open(h.ino)
    await two.b.vfs.close()
    assert h.released
    assert (await two.a.meta.getattr(h.ino)).length == 9
