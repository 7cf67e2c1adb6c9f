# SPDX-License-Identifier: Apache-2.0
"""Read-ahead: sequential readers wait less, random readers fetch nothing extra, memory stays bounded (§9.3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from core.chunk.api import FileRange
from core.chunk.link import LinkMeter
from core.chunk.readahead import ReadStream
from core.chunk.readpool import USUAL_BLOCKS
from core.chunk.store import BlockSliceStore
from core.chunk.window import Window
from core.errors import FsError
from core.meta.records import CHUNK_SIZE, Slice
from core.meta.slices import pieces_for
from core.object.file import FileStore

from .doubles import FaultyStore, always, make_store, noise, settle

BLOCK = 256 << 10


async def file_of(store: BlockSliceStore, sizes: Sequence[int], holes: Sequence[int] = ()) -> tuple[list[Slice], bytes]:
    """A chunk of slices one after another, with a hole of the given length before each."""
    records, content, pos = [], bytearray(), 0
    for i, size in enumerate(sizes):
        hole = holes[i] if i < len(holes) else 0
        content += bytes(hole) + noise(size, i)
        writer = await store.writer()
        await writer.write(noise(size, i))
        p = await writer.finish()
        records.append(Slice(pos + hole, p.id, p.size, 0, size))
        pos += hole + size
    store.reader._hot._shrink(1 << 40)
    if isinstance(store.objects, FaultyStore):
        store.objects.calls.clear()
    return records, bytes(content)


def stream_of(store: BlockSliceStore, records: list[Slice], length: int, **options: int) -> ReadStream:
    async def pieces_of(index: int, start: int, end: int) -> list[Slice]:
        assert index == 0
        return pieces_for(records, start, end)

    return ReadStream(store, pieces_of, length, **options)


async def test_a_sequential_reader_finds_its_blocks_under_way() -> None:
    store = make_store(block_size=BLOCK)
    records, content = await file_of(store, [20 * BLOCK])
    stream = stream_of(store, records, len(content))
    got = bytearray()
    most = 0
    while part := await stream.read_some(len(got), 100_000):
        got += part
        most = max(most, store.objects.running["get"] + len(stream._parts))
    assert got == content
    assert store.objects.calls == {"get": 20}  # every block once, none in parts
    assert 4 <= most <= 2 * USUAL_BLOCKS
    stream.close()
    await settle()
    assert store.budget.used == 0


async def test_a_random_reader_fetches_nothing_ahead() -> None:
    store = make_store(block_size=BLOCK)
    records, content = await file_of(store, [16 * BLOCK])
    stream = stream_of(store, records, len(content))
    rng = random.Random(7)
    for _ in range(30):
        off = rng.randrange(1, len(content) - 5000)
        off = off if off % BLOCK < BLOCK - 5000 else off - 5000
        assert await stream.read(off, 4096) == content[off : off + 4096]
    assert store.objects.calls["get"] <= 6  # two neighbours by chance look like a sequence
    stream.close()
    await settle()
    assert store.budget.used == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
async def test_any_sequence_of_reads_gives_the_files_bytes(draw: st.DataObject) -> None:
    store = make_store(block_size=64 << 10, compression=draw.draw(st.sampled_from(["none", "lz4"])))
    sizes = draw.draw(st.lists(st.integers(1, 200_000), min_size=1, max_size=5))
    holes = draw.draw(st.lists(st.integers(0, 100_000), min_size=0, max_size=5))
    records, content = await file_of(store, sizes, holes)
    tail = draw.draw(st.integers(0, 50_000))
    content += bytes(tail)
    stream = stream_of(store, records, len(content))
    at = 0
    for _ in range(draw.draw(st.integers(1, 12))):
        if draw.draw(st.booleans()):
            at = draw.draw(st.integers(0, len(content) + 10))
        length = draw.draw(st.integers(0, 150_000))
        assert await stream.read(at, length) == content[at : at + length]
        at += length
    whole = b"".join([bytes(part) async for part in stream.iter_range(0, 1 << 40)])  # type: ignore[arg-type]
    assert whole == content
    stream.close()
    await settle()
    store.reader._hot._shrink(1 << 40)
    assert store.budget.used == 0
    await store.close()


async def test_nothing_is_fetched_behind_the_end_or_without_memory() -> None:
    store = make_store(block_size=BLOCK, memory_budget=8 * BLOCK)
    records, content = await file_of(store, [3 * BLOCK])
    stream = stream_of(store, records, BLOCK + 10)
    await stream.read(0, 10)
    await settle()
    # The bytes asked for, their block, and of the next one what lies before the end.
    assert store.objects.calls == {"get": 1, "range": 2}
    stream.close()
    writers = []
    while store.budget.used + BLOCK <= store.budget.limit:
        writers.append(await store.writer())
    store.objects.calls.clear()
    stream = stream_of(store, records, len(content))
    assert await asyncio.wait_for(stream.read(0, len(content)), 10) == content
    assert not stream._parts
    stream.close()
    for writer in writers:
        await writer.abort()


async def test_a_failed_read_ahead_is_no_error_until_its_bytes_are_wanted() -> None:
    store = make_store(block_size=BLOCK, retries=0)
    records, content = await file_of(store, [4 * BLOCK])
    stream = stream_of(store, records, len(content))
    store.objects.fail["get"] = lambda n: None if n == 1 else always()(n)
    assert await stream.read(0, BLOCK // 2) == content[: BLOCK // 2]
    await settle()
    with pytest.raises(FsError, match="block 1"):
        await stream.read(BLOCK, BLOCK)
    store.objects.fail.clear()
    assert await stream.read(BLOCK, 2 * BLOCK) == content[BLOCK : 3 * BLOCK]
    stream.close()
    await settle()
    assert store.budget.used == 0


async def test_closing_stops_downloads_and_returns_memory() -> None:
    objects = FaultyStore()
    store = make_store(objects, block_size=BLOCK)
    records, content = await file_of(store, [8 * BLOCK])
    stream = stream_of(store, records, len(content))
    await stream.read(0, BLOCK)
    await settle()
    objects.gates["get"] = asyncio.Event()
    await stream.read(BLOCK, BLOCK)
    await settle()
    assert objects.running["get"] > 0
    stream.close()
    stream.close()
    await settle()
    assert objects.running["get"] == 0 and store.budget.used == 0


async def test_local_files_are_handed_out_as_ranges(tmp_path: Path) -> None:
    store = make_store(FileStore(str(tmp_path)), block_size=BLOCK)
    records, content = await file_of(store, [2 * BLOCK + 100], [5000])
    stream = stream_of(store, records, len(content) + 300)
    got = bytearray()
    kinds = []
    async for part in stream.iter_range(100, 1 << 30, local_files=True):
        kinds.append(type(part))
        if isinstance(part, FileRange):
            with open(part.path, "rb") as f:
                f.seek(part.offset)
                got += f.read(part.length)
        else:
            got += part
    assert got == content[100:] + bytes(300)
    assert kinds == [memoryview, FileRange, FileRange, FileRange, memoryview]
    await store.close()


async def test_an_invalidated_stream_looks_again() -> None:
    store = make_store(block_size=BLOCK)
    records, content = await file_of(store, [2 * BLOCK])
    stream = stream_of(store, records, len(content))
    await stream.read(0, 10)
    records.append(Slice(0, 0, 0, 0, 5))
    assert await stream.read(0, 10) == content[:10]
    stream.invalidate(len(content) + 5)
    assert await stream.read(0, 10) == bytes(5) + content[5:10]
    assert await stream.read(len(content), 100) == bytes(5)
    stream.close()


async def test_streams_cross_chunks() -> None:
    store = make_store(block_size=BLOCK)
    asked = []

    async def pieces_of(index: int, start: int, end: int) -> list[Slice]:
        asked.append((index, start, end))
        return pieces_for([], start, end)

    stream = ReadStream(store, pieces_of, CHUNK_SIZE + 10)
    assert await stream.read(CHUNK_SIZE - 5, 100) == bytes(15)
    assert asked == [(0, 0, CHUNK_SIZE), (1, 0, 10)]


def test_windows_grow_and_shrink() -> None:
    w = Window(10, 80)
    assert [w.seen(i * 10, 10) for i in range(10)] == [10, 20, 80, 80, 80, 80, 80, 80, 80, 80]
    assert w.seen(100, 10, short_of_memory=True) == 40
    assert w.seen(1000, 10) == 0  # a jump
    assert w.seen(1010, 10) == 10  # and on from there
    assert w.seen(0, 10) == 10  # back to the start
    assert Window(10, 5).seen(0, 10) == 0  # less than a block allowed: no read-ahead
    assert Window(10, 80).seen(500, 10) == 0  # a first read in the middle says nothing yet


async def test_a_backward_reader_fetches_each_block_once() -> None:
    store = make_store(block_size=BLOCK)
    records, content = await file_of(store, [12 * BLOCK])
    stream = stream_of(store, records, len(content))
    step = BLOCK // 8
    for at in range(len(content) - step, -1, -step):
        assert await stream.read(at, step) == content[at : at + step]
    fetched = store.objects.calls["get"] * BLOCK + store.objects.calls["range"] * BLOCK
    assert fetched <= 1.5 * len(content), store.objects.calls
    stream.close()
    await settle()
    assert store.budget.used == 0 and store.streams.held == 0


async def test_a_reader_with_gaps_gets_what_it_asks_for() -> None:
    store = make_store(block_size=BLOCK)
    records, content = await file_of(store, [24 * BLOCK])
    stream = stream_of(store, records, len(content))
    step = BLOCK // 8
    asked = 0
    for at in range(0, len(content), BLOCK // 2):
        assert await stream.read(at, step) == content[at : at + step]
        asked += step
    await settle()
    # The begin of a file looks like a sequence: two blocks, and then it is known better.
    assert store.objects.calls["get"] <= 2
    stream.close()
    await settle()
    assert store.budget.used == 0


async def test_a_first_request_does_not_wait_for_its_block() -> None:
    objects = FaultyStore()
    store = make_store(objects, block_size=BLOCK)
    records, content = await file_of(store, [4 * BLOCK])
    stream = stream_of(store, records, len(content))
    objects.gates["get"] = asyncio.Event()  # whole blocks take for ever
    assert await asyncio.wait_for(stream.read(0, BLOCK // 16), 5) == content[: BLOCK // 16]
    assert objects.calls["range"] == 1
    stream.close()
    await settle()
    assert store.budget.used == 0


async def test_many_streams_share_the_memory_and_all_get_on() -> None:
    for compression in ("none", "lz4"):
        store = make_store(block_size=BLOCK, memory_budget=16 * BLOCK, compression=compression)
        records, content = await file_of(store, [6 * BLOCK])
        most = 0

        async def reader(
            store: BlockSliceStore = store, records: list[Slice] = records, content: bytes = content
        ) -> None:
            nonlocal most
            stream = stream_of(store, records, len(content))
            for at in range(0, len(content), BLOCK // 4):
                assert await stream.read(at, BLOCK // 4) == content[at : at + BLOCK // 4]
                most = max(most, store.budget.used)
            stream.close()

        await asyncio.wait_for(asyncio.gather(*(reader() for _ in range(40))), 60)
        await settle()
        assert most <= store.budget.limit + store.budget.read_reserve
        assert store.budget.used == store.streams.held == len(store.streams) == 0


async def test_who_stopped_reading_gives_its_blocks_to_who_needs_memory() -> None:
    store = make_store(block_size=BLOCK, memory_budget=16 * BLOCK)
    now = [1000.0]
    store.streams._clock = lambda: now[0]
    records, content = await file_of(store, [12 * BLOCK])
    stream = stream_of(store, records, len(content))
    for at in range(0, 3 * BLOCK, BLOCK // 2):
        await stream.read(at, BLOCK // 2)
    await settle()
    assert store.streams.held > 2 * BLOCK
    now[0] += 10
    writers = [await asyncio.wait_for(store.writer(), 5) for _ in range(store.budget.limit // BLOCK - 1)]
    assert store.streams.held <= BLOCK  # what is in its hands
    for writer in writers:
        await writer.abort()
    assert await stream.read(3 * BLOCK, BLOCK) == content[3 * BLOCK : 4 * BLOCK]
    stream.close()
    await settle()
    assert store.budget.used == 0


async def test_the_pieces_of_the_next_chunk_are_known_in_time() -> None:
    store = make_store(block_size=4 << 20, memory_budget=256 << 20)
    asked: list[int] = []

    async def pieces_of(index: int, start: int, end: int) -> list[Slice]:
        asked.append(index)
        return pieces_for(records if not index else [], start, end)

    writer = await store.writer()
    for _ in range(3):
        await writer.write(bytes(4 << 20))
    piece = await writer.finish()
    records = [Slice(0, piece.id, piece.size, 0, piece.size)]
    stream = ReadStream(store, pieces_of, CHUNK_SIZE + 10)
    for at in range(0, 8 << 20, 1 << 20):
        await stream.read(at, 1 << 20)
        await settle()
    assert asked == [0, 1]
    stream.close()


def test_a_window_follows_a_reader_that_turns_round() -> None:
    w = Window(10, 80)
    assert [w.seen(at, 10) for at in (100, 90, 80)] == [0, 0, 10]
    assert w.direction == -1
    assert w.seen(70, 10) == 20
    assert w.seen(80, 10) == 0 and w.direction == 1  # forward again: a new sequence


def test_a_window_grows_only_for_who_waits_and_stays_below_its_cap() -> None:
    w = Window(10, 80)
    assert [w.seen(i * 10, 10, waited=False) for i in range(4)] == [10, 10, 10, 10]
    assert [w.seen(40 + i * 10, 10, cap=30) for i in range(3)] == [20, 30, 30]
    assert w.seen(70, 10, cap=10) == 15  # others came: what is too much goes step by step
    assert w.seen(80, 10, cap=10) == 10
    w.open(60)
    assert w.size == 60


def test_the_link_shows_its_rate_and_its_latency() -> None:
    now = [0.0]
    link = LinkMeter(lambda: now[0])
    assert link.window() == 0
    for _ in range(50):  # two at a time, each 50 ms and then 4 MB/s
        link.begin()
        link.begin()
        now[0] += 0.1
        link.end(200_000, 0.1)
        link.end(200_000, 0.1)
    assert link.rate == pytest.approx(4_000_000, rel=0.05)
    assert link.base_s == pytest.approx(0.1, rel=0.05)
    assert link.window() == pytest.approx(3 * 400_000, rel=0.1)
    now[0] += 60  # nothing was under way: that is no measurement
    link.begin()
    now[0] += 0.1
    link.end(200_000, 0.1)
    assert link.rate >= 1_900_000
    link.begin()
    link.end(0, 5.0)  # a failure says nothing of the time
    assert link.base_s < 0.2
