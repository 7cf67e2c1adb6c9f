# SPDX-License-Identifier: Apache-2.0
"""Directory pages from unsorted hashes: one round trip per page, never a stale one (listing.py; format §1.11)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta import keys as k
from core.meta.records import FILE, Entry, NodePatch
from core.meta.store import DELETE, PATCH, PUT, Write
from core.meta.stores.redis import RedisStore, store as store_module
from core.meta.stores.redis.listing import Listing, Listings
from tests.conformance.recordstore.helpers import attr, directory
from tests.servers.redis import RedisServer

NS = 1_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url(2))
    await store.open()
    await store.wipe()
    yield store
    await store.close()


@pytest.fixture
async def peer(server: RedisServer) -> AsyncIterator[RedisStore]:
    peer = RedisStore(server.url(2))
    await peer.open()
    yield peer
    await peer.close()


def ago(seconds: float) -> int:
    return time.time_ns() - int(seconds * NS)


async def fill(store: RedisStore, count: int, mtime_ns: int) -> None:
    writes: list[Write] = [(PUT, k.node(1), directory(mtime_ns=mtime_ns))]
    for i in range(count):
        writes += [(PUT, k.entry(1, b"%05d" % i), Entry(FILE, 10 + i)), (PUT, k.node(10 + i), attr(length=i))]
    for at in range(0, len(writes), 1000):
        await store.commit([], writes[at : at + 1000])


async def names(store: RedisStore, after: bytes = b"", limit: int = 10) -> list[bytes]:
    return [e.name for e in await store.list_entries(1, after, limit)]


@pytest.mark.parametrize("attrs", [False, True])
async def test_pages_of_a_quiet_directory_cost_one_trip_and_one_listing(store: RedisStore, attrs: bool) -> None:
    await fill(store, 500, ago(5))
    await store.list_entries(1, b"", 100, attrs=attrs)
    for page in range(1, 6):
        with store.round_trips() as n:
            found = await store.list_entries(1, b"%05d" % (page * 100 - 1), 100, attrs=attrs)
        assert n.count == 1
        assert [e.name for e in found] == [b"%05d" % i for i in range(page * 100, min(page * 100 + 100, 500))]
        assert all((e.attr is not None and e.attr.length == int(e.name)) if attrs else e.attr is None for e in found)
    assert store._listings.find(1) is not None


async def test_a_directory_that_just_changed_is_read_each_time(store: RedisStore, peer: RedisStore) -> None:
    """Other clients may leave the mtime alone for 100 ms after a change."""
    await fill(store, 20, time.time_ns())
    assert (await names(store))[0] == b"00000"
    assert store._listings.find(1) is None
    await peer.commit([], [(PUT, k.entry(1, b"0"), Entry(FILE, 5)), (DELETE, k.entry(1, b"00000"), None)])
    assert (await names(store))[:2] == [b"0", b"00001"]


async def test_changes_of_others_end_a_kept_listing(store: RedisStore, peer: RedisStore) -> None:
    await fill(store, 20, ago(5))
    await names(store)
    now = time.time_ns()
    swap: list[Write] = [(PUT, k.entry(1, b"0"), Entry(FILE, 5)), (DELETE, k.entry(1, b"00000"), None)]
    await peer.commit([], [*swap, (PATCH, k.node(1), NodePatch(0, now, now))])
    assert (await names(store))[:2] == [b"0", b"00001"]


async def test_even_a_change_without_mtime_is_noticed_by_its_count(store: RedisStore, peer: RedisStore) -> None:
    await fill(store, 20, ago(5))
    await names(store)
    await peer.commit([], [(PUT, k.entry(1, b"0"), Entry(FILE, 5))])
    assert (await names(store))[0] == b"0"


async def test_own_changes_end_a_kept_listing(store: RedisStore) -> None:
    await fill(store, 20, ago(5))
    await names(store)
    await store.commit([], [(PUT, k.entry(1, b"0"), Entry(FILE, 5)), (DELETE, k.entry(1, b"00000"), None)])
    assert (await names(store))[:2] == [b"0", b"00001"]


async def test_a_removed_directory_is_empty(store: RedisStore, peer: RedisStore) -> None:
    await fill(store, 20, ago(5))
    await names(store)
    await peer.wipe()
    assert await names(store) == []


async def test_large_directories_come_in_pieces(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LIST_AT_ONCE", 1000)
    monkeypatch.setattr(store_module, "HSCAN_PAGE", 300)
    await fill(store, 3000, ago(5))
    with store.round_trips() as n:
        assert await names(store) == [b"%05d" % i for i in range(10)]
    assert n.count > 5
    with store.round_trips() as n:
        found = await store.list_entries(1, b"01499", 1500, attrs=True)
    assert n.count == 1
    assert [e.name for e in found] == [b"%05d" % i for i in range(1500, 3000)]


def test_listings_stay_within_their_budget() -> None:
    def listing(count: int) -> Listing:
        return Listing({b"%04d" % i: bytes(9) for i in range(count)}, None)

    one = listing(10).cost
    kept = Listings(one * 3)
    for ino in range(1, 6):
        kept.keep(ino, listing(10))
    assert [ino for ino in range(1, 6) if kept.find(ino)] == [3, 4, 5]
    kept.find(3)
    kept.keep(6, listing(10))
    assert [ino for ino in range(1, 7) if kept.find(ino)] == [3, 5, 6]
    kept.keep(7, listing(100))  # larger than everything
    assert kept.find(7) is None
    kept.drop(3)
    kept.keep(8, listing(10))
    assert [ino for ino in range(1, 9) if kept.find(ino)] == [5, 6, 8]
