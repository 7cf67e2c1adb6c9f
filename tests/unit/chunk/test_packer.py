# SPDX-License-Identifier: Apache-2.0
"""Packing: who shares an object with whom, who is told what, and what cancellation does (design §4)."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence

import pytest

from core.chunk.api import Piece
from core.errors import FsError
from core.object.api import Buffer

from .doubles import BLOCK, FaultyStore, always, make_store, noise, settle


async def test_a_lone_writer_has_its_own_object_at_once() -> None:
    store = make_store()
    assert await store.pack(b"hello") == Piece(1, 5, 0, 5, 1)
    assert store.objects.objects["chunks/0/0/1_0_5"][0] == b"hello"


async def test_callers_of_the_same_moment_share_one_object() -> None:
    store = make_store()
    pieces = await asyncio.gather(*(store.pack(bytes([65 + i]) * (i + 1)) for i in range(10)))
    assert store.objects.calls["put"] == 1
    assert {p.id for p in pieces} == {1} and {p.size for p in pieces} == {55} and {p.refs for p in pieces} == {10}
    for i, p in enumerate(pieces):
        assert await store.read(p.id, p.size, p.off, p.length) == bytes([65 + i]) * (i + 1)


async def test_who_comes_during_an_upload_gathers_in_the_next_pack() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects, max_packs=1)
    first = asyncio.create_task(store.pack(b"first"))
    await settle()
    rest = [asyncio.create_task(store.pack(b"rest %d" % i)) for i in range(20)]
    await settle()
    assert objects.calls["put"] == 1
    objects.gates["put"].set()
    assert (await first).refs == 1
    assert {p.refs for p in await asyncio.gather(*rest)} == {20}
    assert objects.calls["put"] == 2


async def test_several_packs_are_under_way_but_not_more() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects, max_packs=3)
    tasks = []
    for i in range(10):
        tasks.append(asyncio.create_task(store.pack(b"%d" % i)))
        await settle()
    assert objects.running["put"] == 3
    objects.gates.pop("put").set()
    assert sorted(p.refs for p in await asyncio.gather(*tasks)) == [1, 1, 1] + [7] * 7


class Far(FaultyStore):
    """Puts take a while; `slow` of them, by number, take longer."""

    def __init__(self, seconds: float, slow: dict[int, float] | None = None) -> None:
        super().__init__()
        self.seconds = seconds
        self.slow = slow or {}
        self.begun = 0

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        self.begun += 1
        await asyncio.sleep(self.slow.get(self.begun, self.seconds))
        await super().put(key, data)


async def test_a_crowd_needs_few_objects_also_if_it_does_not_march_in_step() -> None:
    store = make_store(Far(0.02))
    rng = random.Random(5)

    async def writer() -> None:
        for _ in range(15):
            await asyncio.sleep(rng.random() * 0.006)
            await store.pack(b"x" * 100)

    await asyncio.gather(*(writer() for _ in range(32)))
    assert store.objects.calls["put"] <= 0.06 * 32 * 15, store.objects.calls  # 0.05 and the stragglers at the end


async def test_who_writes_alone_never_waits_for_company() -> None:
    store = make_store(Far(0.02))
    await asyncio.gather(*(store.pack(b"crowd") for _ in range(32)))
    assert store._packer._expected() > 20
    while store._packer._expected():
        await asyncio.sleep(0.01)
    for i in range(6):
        alone = asyncio.create_task(store.pack(b"alone"))
        await settle()
        # On its way already; unless it is the crowd's last member, who can't know that yet.
        assert store.objects.begun == store.objects.calls["put"] + 1 or i in (1, 2)
        assert (await alone).refs == 1


async def test_a_pack_that_is_late_holds_up_nobody() -> None:
    store = make_store(Far(0.005, slow={3: 5.0}))
    await store.pack(b"one")
    await store.pack(b"two")
    late = asyncio.create_task(store.pack(b"late"))
    await settle()
    assert (await asyncio.wait_for(store.pack(b"next"), 2)).length == 4
    assert not late.done()
    late.cancel()


async def test_large_pieces_do_not_wait_for_a_crowd() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects)
    tasks = []
    for _ in range(4):
        tasks.append(asyncio.create_task(store.pack(noise(BLOCK // 4))))
        await settle()
    assert objects.running["put"] == 4
    objects.gates["put"].set()
    await asyncio.gather(*tasks)


async def test_a_pack_is_never_longer_than_a_block() -> None:
    store = make_store()
    sizes = [30_000, 30_000, 30_000, BLOCK, 1, BLOCK - 1, 1]
    pieces = await asyncio.gather(*(store.pack(noise(n, i)) for i, n in enumerate(sizes)))
    assert all(p.size <= BLOCK for p in pieces)
    assert len({p.id for p in pieces}) == 5
    for i, p in enumerate(pieces):
        assert await store.read(p.id, p.size, p.off, p.length) == noise(sizes[i], i)


@pytest.mark.parametrize("n", [0, BLOCK + 1])
async def test_sizes_out_of_bounds_are_a_mistake_of_the_caller(n: int) -> None:
    with pytest.raises(ValueError, match="pack takes"):
        await make_store().pack(bytes(n))


async def test_when_the_put_fails_every_member_is_told_and_the_next_pack_goes_on() -> None:
    store = make_store(retries=0)
    store.objects.fail["put"] = always()
    results = await asyncio.gather(*(store.pack(b"x%d" % i) for i in range(5)), return_exceptions=True)
    assert all(isinstance(r, FsError) and r.errno == errno.EIO and "disk is on fire" in str(r) for r in results)
    assert len({id(r) for r in results}) == 5
    del store.objects.fail["put"]
    assert (await store.pack(b"again")).refs == 1
    store.reader._hot._shrink(1 << 40)
    assert store.budget.used == 0


async def test_a_cancelled_member_hurts_nobody() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects, max_packs=1)
    flying = [asyncio.create_task(store.pack(b"flying %d" % i)) for i in range(3)]
    await settle()
    waiting = [asyncio.create_task(store.pack(b"waiting %d" % i)) for i in range(3)]
    await settle()
    flying[0].cancel()
    waiting[1].cancel()
    await settle()
    objects.gates["put"].set()
    done = await asyncio.gather(*flying, *waiting, return_exceptions=True)
    assert [isinstance(r, asyncio.CancelledError) for r in done] == [True, False, False, False, True, False]
    # The count is right: who left isn't in it; who left in time isn't in the object either.
    assert [r.refs for r in done if isinstance(r, Piece)] == [2, 2, 2, 2]
    for text, r in zip([b"flying 1", b"flying 2", b"waiting 0", b"waiting 2"],
                       [r for r in done if isinstance(r, Piece)], strict=True):  # fmt: skip
        assert await store.read(r.id, r.size, r.off, r.length) == text
    assert done[3].size == len(b"waiting 0waiting 2")


async def test_a_pack_that_everybody_left_is_deleted() -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    store = make_store(objects)
    tasks = [asyncio.create_task(store.pack(b"x")) for _ in range(3)]
    await settle()
    for task in tasks:
        task.cancel()
    await settle()
    objects.gates["put"].set()
    await store.close()
    assert objects.objects == {} and objects.calls["delete"] == 1


async def test_the_callers_buffer_is_free_after_the_pack_even_if_an_attempt_hangs() -> None:
    # The first attempt hangs holding the data and writes it late; the caller has changed its buffer by then.
    late: list[tuple[str, object]] = []

    class Hanging(FaultyStore):
        async def put(self, key: str, data: object) -> None:  # type: ignore[override]
            if not late:
                late.append((key, data))
                await asyncio.Event().wait()
            await super().put(key, data)  # type: ignore[arg-type]

    store = make_store(Hanging(), put_timeout_s=0.01)
    buffer = bytearray(b"precious")
    piece = await store.pack(buffer)
    buffer[:] = b"rubbish!"
    key, data = late[0]
    await FaultyStore.put(store.objects, key, data)  # type: ignore[arg-type]
    store.reader.forget((piece.id, 0, piece.size))
    assert await store.read(piece.id, piece.size, 0, piece.size) == b"precious"


async def test_forgetting_deletes_only_what_nobody_else_can_use() -> None:
    store = make_store()
    alone = await store.pack(b"alone")
    await store.forget(alone)
    assert store.objects.objects == {}
    one, two = await asyncio.gather(store.pack(b"one"), store.pack(b"two"))
    await store.forget(one)
    assert await store.read(two.id, two.size, two.off, two.length) == b"two"
    store.objects.fail["delete"] = always()
    await store.forget(await store.pack(b"kept"))  # best effort: no error


async def test_a_closed_store_takes_no_more_packs_and_finishes_the_others() -> None:
    store = make_store()
    task = asyncio.create_task(store.pack(b"last"))
    await asyncio.sleep(0)
    await store.close()
    assert (await task).length == 4
    with pytest.raises(FsError, match="closed"):
        await store.pack(b"late")


async def test_compressed_packs_read_back() -> None:
    store = make_store(compression="zstd")
    pieces = await asyncio.gather(*(store.pack(b"text %d " % i * 50) for i in range(50)))
    store.reader._hot._shrink(1 << 40)
    for i, p in enumerate(pieces):
        assert await store.read(p.id, p.size, p.off, p.length) == b"text %d " % i * 50


async def test_without_sharing_every_piece_has_an_object_of_its_own() -> None:
    store = make_store(share_slices=False)
    pieces = await asyncio.gather(*(store.pack(b"%d" % i * 100) for i in range(50)))
    assert {p.refs for p in pieces} == {1}
    assert len({p.id for p in pieces}) == store.objects.calls["put"] == 50
    for i, p in enumerate(pieces):
        assert await store.read(p.id, p.size, p.off, p.length) == b"%d" % i * 100
