# SPDX-License-Identifier: Apache-2.0
"""Record-store suite, part three: walking paths, listing directories, scanning a whole volume.

Contract: `core/meta/store.py`. Byte order of names and pages: every engine, whatever its collation.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, strategies as st

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import CHUNK_SIZE, DIRECTORY, FILE, TRASH, DirStat, Entry
from core.meta.store import ADD, DELETE, EXACT, LOG, PUT, PUT_NEW, DirEntry, RecordStore, Step, Write

from .helpers import HOSTILE_NAMES, RULE, attr, child, directory, names, one, put, write
from .records import EVERY, SINGLE

#: Kinds that `scan` promises, each with a few records.
SCANNED: dict[str, list[tuple[Key, Any]]] = {}
for _key, _value, _ in SINGLE:
    SCANNED.setdefault(_key[0], []).append((_key, _value or b"1" if _key[0] == k.XATTR else _value))
del SCANNED[k.SETTING], SCANNED[k.QUOTA]
SCANNED[k.SESSION] = [(k.session(1), 5), (k.session(2**62), 1_800_000_000)]
SCANNED[k.SUSTAINED] = [(k.sustained(3, 8), True), (k.sustained(3, 9), True), (k.sustained(4, 8), True)]
SCANNED[k.QUOTA] = [(k.quota(kind, 1), q) for kind in (0, 1, 2) for q in [(1, 2, 3, 4 + kind)]]


class NavigationCases:
    """Needs the fixtures `store` and `peer`."""

    # -- resolve -------------------------------------------------------------------------------------------------

    async def _tree(self, store: RecordStore) -> None:
        """/dir/sub/file with xattrs and data; /empty, a file; /lost, an entry without a node."""
        await put(
            store,
            [
                (k.node(1), directory()), *child(1, b"dir", 2, directory(mode=0o700)),
                *child(2, b"sub", 3, directory(parent=2)), *child(3, b"file", 4, attr(length=CHUNK_SIZE + 1)),
                *child(1, b"empty", 5, attr()), (k.entry(1, b"lost"), Entry(FILE, 6)),
                (k.xattr(4, b"user.a"), b"1"), (k.xattr(4, b"user.b"), b"\0\xff"), (k.xattr(2, b"user.d"), b"2"),
                (k.chunk(4, 0), bytes(48)), (k.chunk(4, 1), bytes(24)),
            ],
        )  # fmt: skip

    async def test_resolve_walks_to_the_end(self, store: RecordStore) -> None:
        await self._tree(store)
        found = await store.resolve(1, [b"dir", b"sub", b"file"])
        assert found.base == directory()
        assert found.steps == [
            Step(Entry(DIRECTORY, 2), directory(mode=0o700)),
            Step(Entry(DIRECTORY, 3), directory(parent=2)),
            Step(Entry(FILE, 4), attr(length=CHUNK_SIZE + 1)),
        ]
        assert (found.xattrs, found.chunk) == (None, None)
        assert (await store.resolve(2, [b"sub"])).base == directory(mode=0o700)

    async def test_resolve_brings_xattrs_and_the_first_chunk(self, store: RecordStore) -> None:
        await self._tree(store)
        found = await store.resolve(1, [b"dir", b"sub", b"file"], xattrs=True, chunk=True)
        assert (found.xattrs, found.chunk) == ({b"user.a": b"1", b"user.b": b"\0\xff"}, bytes(48))
        found = await store.resolve(1, [b"empty"], xattrs=True, chunk=True)
        assert (found.xattrs, found.chunk) == ({}, b"")
        found = await store.resolve(1, [b"dir"], xattrs=True, chunk=True)
        assert (found.xattrs, found.chunk) == ({b"user.d": b"2"}, None)
        found = await store.resolve(4, [], xattrs=True, chunk=True)
        assert (found.base, found.steps, found.chunk) == (attr(length=CHUNK_SIZE + 1), [], bytes(48))
        assert found.xattrs == {b"user.a": b"1", b"user.b": b"\0\xff"}

    async def test_resolve_ends_early(self, store: RecordStore) -> None:
        await self._tree(store)
        for path, inodes in [
            ([b"none"], []), ([b"dir", b"none", b"file"], [2]), ([b"dir", b"sub", b"FILE"], [2, 3]),
            ([b"empty", b"x"], [5]), ([b"dir", b"sub", b"file", b"x", b"y"], [2, 3, 4]), ([b"lost", b"x"], [6]),
        ]:  # fmt: skip
            found = await store.resolve(1, path, xattrs=True, chunk=True)
            assert [s.entry.ino for s in found.steps] == inodes, path
            assert (found.xattrs, found.chunk) == (None, None), path

    async def test_resolve_of_broken_places(self, store: RecordStore) -> None:
        await self._tree(store)
        found = await store.resolve(99, [b"dir"], xattrs=True, chunk=True)
        assert found == (None, [], None, None)
        assert await store.resolve(99, []) == (None, [], None, None)
        found = await store.resolve(1, [b"lost"], xattrs=True, chunk=True)
        assert found.steps == [Step(Entry(FILE, 6), None)]
        assert (found.xattrs, found.chunk) == (None, None)
        assert (await store.resolve(5, [b"x"])).steps == []

    async def test_resolve_goes_deep_and_keeps_hostile_names(self, store: RecordStore) -> None:
        path = HOSTILE_NAMES[-70:]
        records = [(k.node(1), directory())]
        for depth, name in enumerate(path):
            records += child(depth + 1, name, depth + 2, directory(parent=depth + 1))  # type: ignore[arg-type]
        await put(store, records)
        found = await store.resolve(1, path, xattrs=True)
        assert [s.entry.ino for s in found.steps] == list(range(2, 72))
        assert all(s.attr == directory(parent=s.entry.ino - 1) for s in found.steps)
        assert found.xattrs == {}

    async def test_resolve_is_one_snapshot(self, store: RecordStore, peer: RecordStore) -> None:
        """A directory is swapped for another, contents included, in one commit: never a mix."""
        await put(
            store, [(k.node(1), directory()), *child(1, b"d", 2, directory(mode=2)), *child(2, b"f", 12, attr(mode=2))]
        )
        await put(store, [(k.node(3), directory(mode=3)), *child(3, b"f", 13, attr(mode=3))])
        running = True

        async def swap() -> None:
            now = 2
            while running:
                await asyncio.sleep(0)  # a store in memory has no wait of its own
                now = 5 - now
                await write(
                    peer, (PUT, k.entry(1, b"d"), Entry(DIRECTORY, now)), (PUT, k.xattr(1, b"user.n"), b"%d" % now)
                )

        task = asyncio.ensure_future(swap())
        try:
            for _ in range(40):
                found = await store.resolve(1, [b"d", b"f"])
                (dir_step, file_step) = found.steps
                assert dir_step.attr and file_step.attr
                assert dir_step.entry.ino + 10 == file_step.entry.ino
                assert dir_step.attr.mode == file_step.attr.mode == dir_step.entry.ino
                await asyncio.sleep(0)
        finally:
            running = False
            await task

    # -- listing -------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [1, 7, 100, 1000])
    async def test_pages_come_in_byte_order(self, store: RecordStore, size: int) -> None:
        await put(store, [(k.entry(1, n), Entry(FILE, 100 + i)) for i, n in enumerate(HOSTILE_NAMES)])
        await put(store, [(k.entry(2, b"a"), Entry(FILE, 9)), (k.entry(0, b"b"), Entry(FILE, 9))])
        seen: list[DirEntry] = []
        while True:
            page = await store.list_entries(1, seen[-1].name if seen else b"", size)
            assert len(page) <= size
            seen += page
            if len(page) < size:
                break
        assert [e.name for e in seen] == HOSTILE_NAMES
        assert seen == [DirEntry(n, FILE, 100 + i, None) for i, n in enumerate(HOSTILE_NAMES)]

    async def test_a_page_begins_after_any_name(self, store: RecordStore) -> None:
        await put(store, [(k.entry(1, n), Entry(FILE, 5)) for n in (b"a", b"b", b"b\xff", b"c")])
        for after, expected in [
            (b"", [b"a", b"b", b"b\xff", b"c"]), (b"\x01", [b"a", b"b", b"b\xff", b"c"]),
            (b"a", [b"b", b"b\xff", b"c"]),
            (b"b", [b"b\xff", b"c"]), (b"bb", [b"b\xff", b"c"]), (b"b\xff", [b"c"]), (b"b\xff\x01", [b"c"]), (b"c", []),
            (b"\xff" * 255, []),
        ]:  # fmt: skip
            assert [e.name for e in await store.list_entries(1, after)] == expected, after
        assert await store.list_entries(77) == []

    async def test_listing_with_attributes(self, store: RecordStore) -> None:
        await put(
            store, [*child(1, b"a", 5, attr()), *child(1, b"d", 6, directory()), (k.entry(1, b"lost"), Entry(FILE, 7))]
        )
        assert await store.list_entries(1, attrs=True) == [
            DirEntry(b"a", FILE, 5, attr()), DirEntry(b"d", DIRECTORY, 6, directory()),
            DirEntry(b"lost", FILE, 7, None),
        ]  # fmt: skip
        assert [e.ino for e in await store.list_entries(1, b"a", 1, attrs=True)] == [6]

    @EVERY
    @given(some=st.sets(names, min_size=1, max_size=30), size=st.integers(1, 10))
    async def test_any_set_of_names_is_listed_in_byte_order(
        self, store: RecordStore, some: set[bytes], size: int
    ) -> None:
        await put(store, [(k.entry(8, n), Entry(FILE, 5)) for n in some])
        seen: list[bytes] = []
        while page := await store.list_entries(8, seen[-1] if seen else b"", size):
            seen += [e.name for e in page]
        assert seen == sorted(some)
        await store.commit([], [(DELETE, k.entry(8, n), None) for n in some])

    async def test_names_that_stay_are_listed_once_while_others_come_and_go(
        self, store: RecordStore, peer: RecordStore
    ) -> None:
        stay = [b"s%03d" % i for i in range(60)]
        await put(store, [(k.entry(1, n), Entry(FILE, 5)) for n in stay])
        running = True

        async def churn() -> None:
            i = 0
            while running:
                await asyncio.sleep(0)
                i += 1
                await put(peer, [(k.entry(1, b"s%03dx" % (i % 60)), Entry(FILE, 6))])
                await write(peer, (DELETE, k.entry(1, b"s%03dx" % (i % 60)), None))

        task = asyncio.ensure_future(churn())
        try:
            for _ in range(5):
                seen: list[bytes] = []
                while page := await store.list_entries(1, seen[-1] if seen else b"", 7):
                    seen += [e.name for e in page]
                    await asyncio.sleep(0)
                assert [n for n in seen if not n.endswith(b"x")] == stay
                assert len(seen) == len(set(seen))
        finally:
            running = False
            await task

    # -- scan ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("kind", SCANNED, ids=str)
    async def test_scan_finds_every_record_of_a_kind(self, store: RecordStore, kind: str) -> None:
        assert [r async for r in store.scan(kind)] == []
        for records in SCANNED.values():
            await put(store, [(key, v if key[0] != k.QUOTA else _quota(v)) for key, v in records])
        found = {key: value async for key, value in store.scan(kind)}
        assert found == {key: v if kind != k.QUOTA else _quota(v) for key, v in SCANNED[kind]}

    async def test_scan_of_many_records_passes_its_pages(self, store: RecordStore) -> None:
        count = 2500
        for start in range(0, count, 500):
            await put(store, [(k.node(2 + i), attr(length=i)) for i in range(start, start + 500)])
            await put(store, [(k.entry(1, b"%d" % i), Entry(FILE, 2 + i)) for i in range(start, start + 500)])
        await put(store, [(k.node(TRASH + 1), directory())])
        nodes = [(key[1], value.length) async for key, value in store.scan(k.NODE)]
        assert sorted(nodes) == [(2 + i, i) for i in range(count)] + [(TRASH + 1, 4096)]
        entries = [(key[2], value.ino) async for key, value in store.scan(k.ENTRY)]
        assert sorted(entries) == sorted((b"%d" % i, 2 + i) for i in range(count))

    async def test_scan_allows_changes_while_it_runs(self, store: RecordStore) -> None:
        """What jobs do: walk the records of a kind and delete each."""
        await put(store, [(k.delfile(i, i * 10), 5) for i in range(2, 1300)])
        seen = []
        async for key, _ in store.scan(k.DELFILE):
            seen.append(key)
            if len(seen) % 3 == 0:
                await write(store, (DELETE, key, None), (PUT, k.symlink(5), b"x"))
        assert sorted(seen) == [k.delfile(i, i * 10) for i in range(2, 1300)]
        assert len([1 async for _ in store.scan(k.DELFILE)]) == 1298 - 1298 // 3

    async def test_scan_of_sustained_inodes_of_one_session(self, store: RecordStore) -> None:
        await put(store, SCANNED[k.SUSTAINED])
        assert sorted([key async for key, _ in store.scan(k.SUSTAINED, 3)]) == [k.sustained(3, 8), k.sustained(3, 9)]
        assert [r async for r in store.scan(k.SUSTAINED, 5)] == []

    async def test_scan_of_slice_references_up_to_a_count(self, store: RecordStore) -> None:
        await write(store, *[(PUT_NEW, k.sliceref(i, 4096 + i), i) for i in range(2, 6)])
        await put(store, [(k.sliceref(9, 1), 0)])
        assert {key: n async for key, n in store.scan(k.SLICEREF, 0)} == {k.sliceref(9, 1): 0}
        everything = {key: n async for key, n in store.scan(k.SLICEREF)}
        assert everything == {k.sliceref(9, 1): 0, **{k.sliceref(i, 4096 + i): i for i in range(2, 6)}}

    async def test_scan_of_link_counts(self, store: RecordStore) -> None:
        linked = attr(parent=0, nlink=3)
        await put(store, [*child(1, b"a", 7, linked), (k.entry(1, b"b"), Entry(FILE, 7)), *child(2, b"c", 7, linked)])
        await put(store, child(1, b"once", 8, attr()))
        await write(store, (ADD, k.parent(7, 1), 2), (ADD, k.parent(7, 2), 1))
        found = {key: count async for key, count in store.scan(k.PARENT)}
        assert found == {k.parent(7, 1): 2, k.parent(7, 2): 1}
        await write(store, (DELETE, k.entry(2, b"c"), None), (ADD, k.parent(7, 2), -1))
        assert {key: count async for key, count in store.scan(k.PARENT)} == {k.parent(7, 1): 2}

    async def test_change_log_is_read_in_order_and_trimmed(self, store: RecordStore, peer: RecordStore) -> None:
        def line(at: int) -> Write:
            return (LOG, (k.CHANGELOG,), b"1.000000000|SET(n,%d)|(1,%d)" % (at, at))

        if not store.caps.change_log:
            await write(store, line(0), (PUT, k.symlink(9), b"kept"))
            assert [r async for r in store.scan(k.CHANGELOG)] == []
            assert await one(store, k.symlink(9)) == b"kept"
            return
        assert [r async for r in store.scan(k.CHANGELOG)] == []
        for at in range(5):
            await write(peer if at == 3 else store, line(at), (PUT, k.symlink(9), b"%d" % at))
        with pytest.raises(Conflict):
            await store.commit([(EXACT, k.symlink(9), b"no")], [line(99), (PUT, k.symlink(9), b"5")])
        lines = [(key[1], text) async for key, text in store.scan(k.CHANGELOG)]
        assert [text for _, text in lines] == [line(at)[2] for at in range(5)]
        versions = [version for version, _ in lines]
        assert versions == sorted(set(versions))
        assert [key[1] async for key, _ in store.scan(k.CHANGELOG, versions[2])] == versions[3:]
        assert await store.trim_log(versions[1]) == 2
        await write(store, line(5))
        left = [(key[1], text) async for key, text in store.scan(k.CHANGELOG)]
        assert [text for _, text in left] == [line(at)[2] for at in range(2, 6)]
        assert [version for version, _ in left][:3] == versions[2:]
        assert await store.trim_log(versions[-1] - 1) == 2

    async def test_scanned_values_are_the_values_read(self, store: RecordStore) -> None:
        await put(
            store, [(k.dirstat(5), DirStat(-1, 2, 3)), (k.acl(9), RULE), *child(1, b"\xff'", 2**62, attr(flags=32))]
        )
        for kind in (k.DIRSTAT, k.ACL, k.NODE, k.ENTRY):
            async for key, value in store.scan(kind):
                assert await store.read(key) == [value]


def _quota(fields: Any) -> Any:
    from core.meta.records import Quota

    return Quota(*fields)
