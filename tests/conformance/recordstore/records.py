# SPDX-License-Identifier: Apache-2.0
"""Record-store suite, part one: every kind of record keeps its value, whatever is done to it.

Kinds and their value types: `core/meta/keys.py`. Facts: format §1.6, §1.9, §1.12, §3.4, §5.3.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import (
    CHARDEV,
    DIRECTORY,
    FILE,
    SYMLINK,
    TRASH,
    DirStat,
    Entry,
    NodePatch,
    Quota,
    Slice,
    encode_slice,
)  # fmt: skip
from core.meta.store import ADD, APPEND, DELETE, PATCH, PUT, PUT_NEW, RecordStore

from .helpers import HOSTILE_NAMES, RULE, RULE_PLAIN, T0, attr, attrs, directory, names, one, put, write

BIG = 2**63 - 1
EVERY = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors],
)

#: Records that exist or don't: key, value, another value.
SINGLE: list[tuple[Key, Any, Any]] = [
    (k.setting(), b'{"Name": "t", "x": "\\u003c\xc3\xa9"}', b"{}"),
    (k.node(1), directory(parent=1), directory(nlink=3)),
    (k.node(TRASH + 77), directory(parent=TRASH), directory(parent=TRASH, mode=0o555)),
    (k.node(5), attr(flags=0x21, access_acl=7, default_acl=9, tier=3, rdev=0x1F203), attr(CHARDEV, rdev=1)),
    (k.node(6), attr(atime_ns=-1, mtime_ns=-1001, ctime_ns=-(10**18) - 999), attr(atime_ns=0, mtime_ns=999)),
    (k.entry(1, b"\xff\x01'"), Entry(FILE, 9), Entry(DIRECTORY, BIG)),
    (k.symlink(7), b"../a\xff b", b"x" * 4095),
    (k.xattr(7, b"user.a"), b"v\0\xff", b""),
    (k.xattr(7, b"user.b\xc3\xa9"), bytes(range(256)), b"z" * 60000),
    (k.chunk(7, 0), encode_slice(Slice(0, 1, 2, 0, 2)), encode_slice(Slice(4096, 2**60, 2**26, 1, 5)) * 3),
    (k.chunk(7, 2**31 - 1), bytes(24), encode_slice(Slice(0, 3, 1, 0, 1))),
    (k.dirstat(7), DirStat(0, 0, 0), DirStat(2**40, 2**41, -3)),
    (k.quota(0, 7), Quota(-1, 0, 5, 6), Quota(2**50, 2**40, -7, 0)),
    (k.quota(1, 0), Quota(1, 2, 3, 4), Quota(5, 6, 7, 8)),
    (k.quota(2, 0xFFFFFFFE), Quota(1, 2, 3, 4), Quota(-1, -1, 0, 0)),
    (k.delfile(8, 2**40), 1_700_000_000, 5),
    (k.delfile(9, 0), 1, 2),
    (k.delslices(2**40, 1_700_000_000), b"\0\0\0\0\0\0\0\x01\0\0\x10\0", bytes(36)),
    (k.sustained(3, 8), True, True),
    (k.detached(8), 1_700_000_000, 7),
    (k.flocks(8), {(1, 0): "R", (0, 2**64 - 1): "W"}, {(BIG, 2**63): "W"}),
    (k.plocks(8), {(1, 0): bytes(24), (2, 2**64 - 1): b"\xff" * 48}, {(0, 0): b"\x01" * 24}),
    (k.acl(1), RULE, RULE),
    (k.acl(77), RULE_PLAIN, RULE_PLAIN),
]
#: Lock tables are whole dictionaries of an inode; nobody creates them with PUT_NEW.
CREATED = [s for s in SINGLE if s[0][0] not in (k.FLOCKS, k.PLOCKS)]


def _empty(key: Key) -> Any:
    return {} if key[0] in (k.FLOCKS, k.PLOCKS) else None


class RecordCases:
    """Needs the fixture `store`: an opened, prepared, empty record store."""

    @pytest.mark.parametrize(("key", "value", "other"), SINGLE, ids=[repr(s[0]) for s in SINGLE])
    async def test_put_read_replace_delete(self, store: RecordStore, key: Key, value: Any, other: Any) -> None:
        if not store.caps.empty_xattr and key[0] == k.XATTR and b"" in (value, other):
            value, other = value or b"1", other or b"2"
        assert (await one(store, key) or None) == (_empty(key) or None)
        await write(store, (PUT, key, value))
        assert await one(store, key) == value
        await write(store, (PUT, key, other))
        assert await one(store, key) == other
        await write(store, (DELETE, key, None))
        assert (await one(store, key) or None) is None
        await write(store, (DELETE, key, None))  # missing is fine
        assert (await one(store, key) or None) is None

    @pytest.mark.parametrize(("key", "value", "other"), CREATED, ids=[repr(s[0]) for s in CREATED])
    async def test_put_new_keeps_what_is_there(self, store: RecordStore, key: Key, value: Any, other: Any) -> None:
        if not store.caps.empty_xattr and key[0] == k.XATTR:
            value, other = value or b"1", other or b"2"
        await write(store, (PUT_NEW, key, value))
        assert await one(store, key) == value
        await write(store, (PUT_NEW, key, other))
        assert await one(store, key) == value

    async def test_records_of_all_kinds_live_side_by_side(self, store: RecordStore) -> None:
        records = [(key, value or b"1" if key[0] == k.XATTR else value) for key, value, _ in SINGLE]
        await put(store, records)
        assert await store.read(*[key for key, _ in records]) == [value for _, value in records]
        await store.commit([], [(DELETE, key, None) for key, _ in records[::2]])
        found = await store.read(*[key for key, _ in records])
        assert [v or None for v in found] == [None if i % 2 == 0 else v for i, (_, v) in enumerate(records)]

    @EVERY
    @given(data=st.data())
    async def test_attributes_survive_to_the_last_bit(self, store: RecordStore, data: st.DataObject) -> None:
        some = data.draw(st.lists(attrs(store.caps), min_size=1, max_size=12))
        await put(store, [(k.node(100 + i), a) for i, a in enumerate(some)])
        assert await store.read(*[k.node(100 + i) for i in range(len(some))]) == some

    @EVERY
    @given(some=st.dictionaries(names, st.integers(2, BIG), min_size=1, max_size=12))
    async def test_any_name_is_kept(self, store: RecordStore, some: dict[bytes, int]) -> None:
        await put(store, [(k.entry(3, name), Entry(SYMLINK, ino)) for name, ino in some.items()])
        assert await store.read(*[k.entry(3, name) for name in some]) == [Entry(SYMLINK, i) for i in some.values()]

    async def test_hostile_names_are_all_different(self, store: RecordStore) -> None:
        await put(store, [(k.entry(1, n), Entry(FILE, 100 + i)) for i, n in enumerate(HOSTILE_NAMES)])
        found = await store.read(*[k.entry(1, n) for n in HOSTILE_NAMES])
        assert found == [Entry(FILE, 100 + i) for i in range(len(HOSTILE_NAMES))]
        assert await one(store, k.entry(2, b"a")) is None

    # -- relative writes -----------------------------------------------------------------------------------------

    async def test_patch_changes_what_it_names_and_no_more(self, store: RecordStore) -> None:
        start = directory(nlink=2, flags=0x20, access_acl=3, tier=2, rdev=0)
        await put(store, [(k.node(4), start)])
        await write(store, (PATCH, k.node(4), NodePatch(nlink=1, mtime_ns=T0 + 5_000, ctime_ns=-1_500)))
        a = await one(store, k.node(4))
        assert (a.nlink, a.mtime_ns, a.ctime_ns, a.atime_ns) == (3, T0 + 5_000, -1_500, start.atime_ns)
        await write(store, (PATCH, k.node(4), NodePatch(nlink=-2)))
        b = await one(store, k.node(4))
        assert (b.nlink, b.mtime_ns, b.ctime_ns) == (1, T0 + 5_000, -1_500)
        assert (b.flags, b.access_acl, b.tier, b.mode, b.parent) == (0x20, 3, 2, start.mode, start.parent)

    async def test_several_patches_of_one_commit_add_up(self, store: RecordStore) -> None:
        await put(store, [(k.node(4), directory(nlink=2))])
        await write(
            store,
            (PATCH, k.node(4), NodePatch(nlink=1, mtime_ns=1)),
            (PATCH, k.node(4), NodePatch(nlink=1, ctime_ns=2)),
            (PATCH, k.node(4), NodePatch(mtime_ns=3)),
        )
        a = await one(store, k.node(4))
        assert (a.nlink, a.mtime_ns, a.ctime_ns) == (4, 3, 2)

    async def test_put_and_patch_of_one_commit_apply_in_order(self, store: RecordStore) -> None:
        await put(store, [(k.node(4), directory(nlink=2))])
        await write(store, (PATCH, k.node(4), NodePatch(nlink=5)), (PUT, k.node(4), directory(nlink=9)))
        assert (await one(store, k.node(4))).nlink == 9
        await write(store, (PUT, k.node(4), directory(nlink=3)), (PATCH, k.node(4), NodePatch(nlink=1)))
        assert (await one(store, k.node(4))).nlink == 4

    async def test_counters_add_and_start(self, store: RecordStore) -> None:
        used, inode = k.counter("usedSpace"), k.counter("nextInode")
        assert await store.read(used, inode, k.counter("nextChunk")) == [0, 2, 1]
        await write(store, (ADD, used, 2**45), (ADD, k.counter("totalInodes"), 1))
        await write(store, (ADD, used, -(2**45) - 1))
        assert await store.read(used, k.counter("totalInodes")) == [-1, 1]
        await write(store, (PUT, inode, 1026), (PUT, k.counter("nextSession"), 4), (PUT, used, 7))
        assert await store.read(inode, k.counter("nextSession"), used) == [1026, 4, 7]

    async def test_initial_counters_are_accepted_and_change_no_logical_value(self, store: RecordStore) -> None:
        every = [k.counter(n) for n in ("nextInode", "nextChunk", "nextSession", "usedSpace", "totalInodes")]
        before = await store.read(*every)
        await store.commit([], store.initial_counters())
        assert await store.read(*every) == before

    async def test_dirstat_add_needs_a_record(self, store: RecordStore) -> None:
        await put(store, [(k.dirstat(5), DirStat(10, 4096, 1))])
        out = await write(
            store, (ADD, k.dirstat(5), DirStat(-20, 4096, 1)), (ADD, k.dirstat(6), DirStat(1, 1, 1))
        )  # fmt: skip
        assert out.no_dirstat == [6]
        assert await store.read(k.dirstat(5), k.dirstat(6)) == [DirStat(-10, 8192, 2), None]
        out = await write(store, (PUT_NEW, k.dirstat(6), DirStat(0, 0, 0)), (ADD, k.dirstat(6), DirStat(1, 2, 3)))
        assert out.no_dirstat == []
        assert await one(store, k.dirstat(6)) == DirStat(1, 2, 3)

    async def test_quota_add_needs_a_record(self, store: RecordStore) -> None:
        await put(store, [(k.quota(0, 5), Quota(-1, 10, 4096, 1)), (k.quota(2, 5), Quota(0, 0, 0, 0))])
        await write(store, *[(ADD, k.quota(kind, 5), (-8192, 2)) for kind in (0, 1, 2)])
        found = await store.read(*[k.quota(kind, 5) for kind in (0, 1, 2)])
        assert found == [Quota(-1, 10, -4096, 3), None, Quota(0, 0, -8192, 2)]

    async def test_append_creates_and_extends_a_chunk(self, store: RecordStore) -> None:
        parts = [encode_slice(Slice(i, i, i + 1, 0, i)) for i in range(5)]
        for part in parts:
            await write(store, (APPEND, k.chunk(8, 0), part))
        assert await one(store, k.chunk(8, 0)) == b"".join(parts)
        await write(store, *[(APPEND, k.chunk(8, 1), p) for p in parts], (PUT, k.chunk(8, 0), parts[4]))
        await write(store, (APPEND, k.chunk(8, 0), os.urandom(24 * 100)))
        zero, first = await store.read(k.chunk(8, 0), k.chunk(8, 1))
        assert (len(zero), zero[:24], first) == (24 * 101, parts[4], b"".join(parts))

    async def test_slice_references_count_up_and_down(self, store: RecordStore) -> None:
        ref, other = k.sliceref(2**40, 4096), k.sliceref(9, 1)
        await write(store, (PUT_NEW, ref, 1), (PUT_NEW, other, 1))
        assert await one(store, ref) in (1, None)  # some engines keep no record for a single reference
        out = await write(store, (ADD, ref, 1), (ADD, ref, 1))
        assert (out.freed, await one(store, ref)) == ([], 3)
        out = await write(store, (ADD, ref, -2), (ADD, other, -1))
        assert out.freed == [(9, 1)]
        assert await one(store, ref) in (1, None)
        assert await one(store, other) == 0
        out = await write(store, (ADD, ref, -1))
        assert out.freed == [(2**40, 4096)]
        found = [key async for key, _ in store.scan(k.SLICEREF, 0)]
        assert sorted(found) == sorted([ref, other])
        await write(store, (DELETE, ref, None), (DELETE, other, None))
        assert [key async for key, _ in store.scan(k.SLICEREF, 0)] == []

    async def test_a_pack_is_freed_with_its_last_reference(self, store: RecordStore) -> None:
        ref = k.sliceref(11, 4 << 20)
        await write(store, (PUT_NEW, ref, 40))
        assert await one(store, ref) == 40
        out = await write(store, (ADD, ref, -39))
        assert out.freed == []
        out = await write(store, (ADD, ref, -1))
        assert out.freed == [(11, 4 << 20)]

    # -- groups --------------------------------------------------------------------------------------------------

    async def test_xattrs_of_an_inode_are_a_dictionary(self, store: RecordStore) -> None:
        mine = {b"user.a": b"1", b"user.A": b"2", b"security.capability": b"\0\xff", b"user.\xc3\xa9": b"3"}
        if not self.case_sensitive_xattrs:  # type: ignore[attr-defined]
            del mine[b"user.A"]
        await put(store, [(k.xattr(7, n), v) for n, v in mine.items()] + [(k.xattr(70, b"user.x"), b"other")])
        assert await store.read(k.xattrs(7), k.xattrs(6)) == [mine, {}]
        await write(store, (DELETE, k.xattr(7, b"user.a"), None))
        del mine[b"user.a"]
        assert await one(store, k.xattrs(7)) == mine
        await write(store, (DELETE, k.xattrs(7), None))
        found = await store.read(k.xattrs(7), k.xattrs(70), k.xattr(7, b"user.\xc3\xa9"))
        assert found == [{}, {b"user.x": b"other"}, None]

    async def test_xattr_names_need_not_be_text(self, store: RecordStore) -> None:
        if not self.binary_xattr_names:  # type: ignore[attr-defined]
            return  # the column is text there (format §5.2)
        mine = {b"user.\xff\xfe": b"1", b"user.\xc3": b"2"}
        await put(store, [(k.xattr(7, n), v) for n, v in mine.items()])
        assert await store.read(k.xattrs(7), k.xattr(7, b"user.\xc3")) == [mine, b"2"]

    async def test_chunks_below_a_count(self, store: RecordStore) -> None:
        parts = {i: bytes([i % 256]) * 24 for i in (0, 1, 5, 300)}
        await put(store, [(k.chunk(7, i), v) for i, v in parts.items()] + [(k.chunk(8, 0), bytes(24))])
        found = await store.read(k.chunks(7, 0), k.chunks(7, 1), k.chunks(7, 6), k.chunks(7, 2**31), k.chunks(9, 9))
        assert found == [{}, {0: parts[0]}, {i: parts[i] for i in (0, 1, 5)}, parts, {}]

    async def test_parents_of_a_hard_linked_file(self, store: RecordStore) -> None:
        """With entries and link counts written together, as every operation does, all engines agree."""

        def link(parent: int, name: bytes) -> list[Any]:
            return [(PUT, k.entry(parent, name), Entry(FILE, 9)), (ADD, k.parent(9, parent), 1)]

        assert await one(store, k.parents(9)) == {}
        await write(store, *link(1, b"a"), *link(1, b"b"), *link(TRASH + 1, b"c"))
        assert await one(store, k.parents(9)) == {1: 2, TRASH + 1: 1}
        await write(
            store, (DELETE, k.entry(1, b"a"), None), (ADD, k.parent(9, 1), -1),
            (DELETE, k.entry(TRASH + 1, b"c"), None), (ADD, k.parent(9, TRASH + 1), -1),
        )  # fmt: skip
        assert await one(store, k.parents(9)) == {1: 1}
        await write(store, (DELETE, k.entry(1, b"b"), None), (DELETE, k.parents(9), None))
        assert await one(store, k.parents(9)) == {}

    async def test_occupied_follows_the_entries(self, store: RecordStore) -> None:
        assert await store.read(k.occupied(4), k.occupied(5)) == [False, False]
        await put(store, [(k.entry(4, b"\xff"), Entry(FILE, 9))])
        assert await store.read(k.occupied(4), k.occupied(5)) == [True, False]
        await write(store, (DELETE, k.entry(4, b"\xff"), None))
        assert await one(store, k.occupied(4)) is False

    async def test_session_and_its_document(self, store: RecordStore) -> None:
        sid, info = k.session(BIG), k.sessioninfo(BIG)
        assert await store.read(sid, info) == [None, None]
        await write(store, (PUT, sid, 1_800_000_000), (PUT, info, b'{"Version":"1"}'))
        assert await store.read(sid, info) == [1_800_000_000, b'{"Version":"1"}']
        await write(store, (PUT, sid, 1_800_000_012))  # heartbeat
        await write(store, (PUT_NEW, sid, 5))
        assert await store.read(sid, info) == [1_800_000_012, b'{"Version":"1"}']
        await write(store, (PUT, info, b"{}"))
        assert await store.read(sid, info) == [1_800_000_012, b"{}"]
        await write(store, (DELETE, sid, None), (DELETE, info, None))
        assert await store.read(sid, info) == [None, None]

    async def test_lock_tables_are_replaced_as_a_whole(self, store: RecordStore) -> None:
        await write(store, (PUT, k.flocks(8), {(1, 2): "R", (3, 4): "R"}), (PUT, k.flocks(9), {(1, 2): "W"}))
        await write(store, (PUT, k.flocks(8), {(3, 4): "W"}))
        assert await store.read(k.flocks(8), k.flocks(9)) == [{(3, 4): "W"}, {(1, 2): "W"}]
        await write(store, (PUT, k.flocks(8), {}), (PUT, k.plocks(8), {}))
        assert await store.read(k.flocks(8), k.plocks(8)) == [{}, {}]

    async def test_reading_nothing_and_reading_twice(self, store: RecordStore) -> None:
        await put(store, [(k.symlink(3), b"t")])
        assert await store.read() == []
        assert await store.read(k.symlink(3), k.symlink(3), k.symlink(4)) == [b"t", b"t", None]
