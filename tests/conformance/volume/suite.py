# SPDX-License-Identifier: Apache-2.0
"""The namespace and data semantics every record store must give: one suite, a few lines per store.

A test file derives from `VolumeSuite` and provides the `store` fixture (an empty, prepared record store).
Source: spec metadata-semantics. The invariant check after every test recounts usage, statistics, link counts,
parents and slice references from the records.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import Exists
from core.meta.caller import Caller, Condition
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from core.meta.publish import Content, ImplicitDirs
from core.meta.records import CHUNK_SIZE, DIRECTORY, FILE, ROOT, TRASH, Slice, decode_slices, node_space
from core.meta.store import RecordStore

USER = Caller(1000, (1000,))
NOW = 1_800_000_000_000_000_000


class Ticking:
    """A clock that moves by one millisecond per look, so that every time is different and known to be later."""

    def __init__(self, now_ns: int = NOW) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


async def check_invariants(meta: Meta) -> None:
    """Counters, statistics, link counts, parents and references equal a recount. Nothing is lost, nothing is double."""
    store = meta.store
    nodes = {key[1]: attr async for key, attr in store.scan(k.NODE)}
    entries = [(key[1], key[2], entry) async for key, entry in store.scan(k.ENTRY)]
    space, inodes = await store.read(k.counter("usedSpace"), k.counter("totalInodes"))
    assert (space, inodes) == await meta.count_all(), "volume counters differ from a recount"
    links = Counter(entry.ino for _, _, entry in entries)
    subdirs = Counter(parent for parent, _, entry in entries if entry.type == DIRECTORY)
    for parent, name, entry in entries:
        assert parent in nodes, f"entry {name!r} in missing directory {parent}"
        assert entry.ino in nodes, f"entry {name!r} of missing inode {entry.ino}"
        assert nodes[entry.ino].type == entry.type
    for ino, attr in nodes.items():
        if ino in (ROOT, TRASH) or ino > TRASH:
            continue
        if attr.type == DIRECTORY:
            assert attr.nlink == 2 + subdirs[ino] or attr.in_trash, f"directory {ino}: nlink {attr.nlink}"
            assert links[ino] == 1
        elif attr.nlink:
            assert attr.nlink == links[ino], f"inode {ino}: nlink {attr.nlink}, entries {links[ino]}"
            if attr.parent == 0:
                (counts,) = await store.read(k.parents(ino))
                assert counts == Counter(p for p, _, e in entries if e.ino == ino)
            else:
                assert [p for p, _, e in entries if e.ino == ino] == [attr.parent]
    for ino in (ino for ino, attr in nodes.items() if attr.type == DIRECTORY and ino != TRASH and ino != ROOT):
        (stat,) = await store.read(k.dirstat(ino))
        children = [nodes[e.ino] for p, _, e in entries if p == ino]
        if attr_in_trash(nodes[ino]):
            continue
        assert stat is not None, f"directory {ino} has no statistics"
        want = (
            sum(c.length for c in children if c.type == FILE),
            sum(node_space(c) for c in children),
            len(children),
        )
        assert tuple(stat) == want, f"statistics of directory {ino}"
    uses: Counter[tuple[int, int]] = Counter()
    async for _, raw in store.scan(k.CHUNK):
        uses.update((s.id, s.size) for s in decode_slices(raw) if s.id)
    for (slice_id, size), n in uses.items():
        (count,) = await store.read(k.sliceref(slice_id, size))
        assert count is None or count == n, f"slice {slice_id}: {count} references counted, {n} used"
    async for key, count in store.scan(k.SLICEREF):
        assert count == uses[key[1], key[2]], f"slice {key[1]} is counted {count} times, used {uses[key[1], key[2]]}"


def attr_in_trash(attr: object) -> bool:
    return bool(attr.in_trash)  # type: ignore[attr-defined]


class VolumeSuite:
    @pytest.fixture
    async def meta(self, store: RecordStore) -> AsyncIterator[Meta]:
        fmt = new_format("suite", bucket="/nowhere/")
        clock = Ticking()
        await init_format(store, fmt, clock())
        meta = Meta(store, fmt, clock_ns=clock)
        self.removed: list[tuple[int, int]] = []

        async def remove(slice_id: int, size: int) -> None:
            self.removed.append((slice_id, size))

        meta.remove_slice = remove
        meta.on_deleted = meta.delete_data_soon
        meta.on_freed = meta.delete_slices_soon
        await meta.new_session("suite", heartbeat_s=0)
        yield meta
        await self.idle(meta)
        await check_invariants(meta)
        await meta.end_session()

    async def idle(self, meta: Meta) -> None:
        while meta._background:
            await asyncio.gather(*meta._background)

    async def set_trash(self, meta: Meta, days: int) -> None:
        meta.use_format(meta.format.changed(trash_days=days))

    def content(self, meta_slice: int, length: int, refs: int = 1) -> Content:
        return Content(length, {0: [Slice(0, meta_slice, length, 0, length)]}, fresh=((meta_slice, length, refs),))

    # -- creating ------------------------------------------------------------------------------------------------

    async def test_create_and_lookup(self, meta: Meta) -> None:
        with meta.store.round_trips() as n:
            ino, attr = await meta.create(ROOT, b"f", 0o664, 0o022, USER)
        assert n.count <= 3  # ids come in batches: the first create fetches one
        assert (attr.mode, attr.uid, attr.gid, attr.nlink, attr.length, attr.parent) == (0o644, 1000, 1000, 1, 0, ROOT)
        assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns
        with meta.store.round_trips() as n:
            assert await meta.lookup(ROOT, b"f") == (ino, attr)
        assert n.count == 1
        root = await meta.getattr(ROOT)
        assert root.mtime_ns == attr.mtime_ns
        assert root.nlink == 2
        with meta.store.round_trips() as n:
            await meta.create(ROOT, b"g")
        assert n.count <= 2

    async def test_existing_names_are_reported_with_their_inode(self, meta: Meta) -> None:
        ino, attr = await meta.create(ROOT, b"f")
        with pytest.raises(Exists) as e:
            await meta.create(ROOT, b"f", exclusive=True)
        assert (e.value.ino, e.value.attr) == (ino, attr)
        assert await meta.create(ROOT, b"f") == (ino, attr)
        with pytest.raises(Exists):
            await meta.mkdir(ROOT, b"f")

    @pytest.mark.parametrize("name", [b"", b"a/b", b"a\0b"])
    async def test_bad_names(self, meta: Meta, name: bytes) -> None:
        with pytest.raises(FsError) as e:
            await meta.create(ROOT, name)
        assert e.value.errno == errno.EINVAL

    async def test_reserved_names(self, meta: Meta) -> None:
        for name, code in ((b".", errno.EEXIST), (b"..", errno.EEXIST), (b".trash", errno.EPERM)):
            with pytest.raises(FsError) as e:
                await meta.create(ROOT, name)
            assert e.value.errno == code
        with pytest.raises(FsError) as e:
            await meta.create(TRASH, b"x")
        assert e.value.errno == errno.EPERM
        assert (await meta.lookup(ROOT, b".trash"))[0] == TRASH

    async def test_permissions_of_the_parent(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o755)
        for call in (meta.create(d, b"f", caller=USER), meta.unlink(d, b"f", USER), meta.rmdir(d, b"f", USER)):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno in (errno.EACCES, errno.ENOENT)
        f, _ = await meta.create(ROOT, b"f")
        with pytest.raises(FsError) as e:
            await meta.create(f, b"x")
        assert e.value.errno == errno.ENOTDIR
        with pytest.raises(FsError) as e:
            await meta.create(99999, b"x")
        assert e.value.errno == errno.ENOENT

    async def test_setgid_directories_hand_down_their_group(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        await meta.setattr(d, {"gid": 77, "mode": 0o2777})
        _, attr = await meta.mkdir(d, b"sub", 0o755, 0, USER)
        assert (attr.gid, attr.mode) == (77, 0o2755)
        _, attr = await meta.create(d, b"f", 0o2755, 0, USER)
        assert (attr.gid, attr.mode) == (77, 0o755)
        assert (await meta.getattr(d)).nlink == 3

    async def test_hostile_names_list_in_byte_order(self, meta: Meta) -> None:
        names = [bytes([b]) * n for b in (1, 32, 45, 46, 65, 200, 255) for n in (1, 3, 255)] + ["größe 文件".encode()]
        names = [n for n in names if n not in (b".", b"..")]
        for name in names:
            await meta.create(ROOT, name)
        page = await meta.readdir(ROOT, attrs=True)
        assert [e.name for e in page] == sorted(names)
        assert all(e.attr is not None for e in page)
        first = await meta.readdir(ROOT, b"", 5)
        rest = await meta.readdir(ROOT, first[-1].name, 1000)
        assert [e.name for e in first + rest] == sorted(names)

    async def test_symlinks(self, meta: Meta) -> None:
        ino, attr = await meta.symlink(ROOT, b"l", b"../\xff/target", USER)
        assert (attr.mode, attr.length) == (0o777, 11)
        assert await meta.readlink(ino) == b"../\xff/target"
        for target in (b"", b"x" * 4097, b"a\0b"):
            with pytest.raises(FsError) as e:
                await meta.symlink(ROOT, b"m", target)
            assert e.value.errno == errno.EINVAL
        f, _ = await meta.create(ROOT, b"f")
        with pytest.raises(FsError) as e:
            await meta.readlink(f)
        assert e.value.errno == errno.EINVAL

    async def test_hard_links(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        ino, _ = await meta.create(ROOT, b"f")
        attr = await meta.link(ino, d, b"g")
        assert (attr.nlink, attr.parent) == (2, 0)
        await meta.link(ino, ROOT, b"h")
        assert await meta.parents(ino) == {ROOT: 2, d: 1}
        with pytest.raises(FsError) as e:
            await meta.link(d, ROOT, b"x")
        assert e.value.errno == errno.EPERM
        await meta.rename(ROOT, b"h", d, b"h")
        assert await meta.parents(ino) == {ROOT: 1, d: 2}
        await self.set_trash(meta, 0)
        await meta.unlink(ROOT, b"f")
        assert (await meta.getattr(ino)).nlink == 2
        assert await meta.parents(ino) == {d: 2}

    # -- removing ------------------------------------------------------------------------------------------------

    async def test_unlink_goes_to_the_trash_and_restores(self, meta: Meta) -> None:
        ino, _ = await meta.create(ROOT, b"f")
        with meta.store.round_trips() as n:
            assert await meta.unlink(ROOT, b"f") == ino
        (hour,) = await meta.readdir(TRASH, attrs=True)
        assert (hour.ino, hour.attr.mode, hour.attr.nlink, hour.attr.parent) == (TRASH + 1, 0o555, 2, TRASH)
        (entry,) = await meta.readdir(hour.ino)
        assert entry.name == b"1-%d-f" % ino
        assert (await meta.getattr(ino)).parent == hour.ino
        for call in (meta.setattr(ino, {"mode": 0o600}), meta.truncate(ino, 5)):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == errno.EPERM
        with pytest.raises(FsError) as e:
            await meta.rename(hour.ino, entry.name, ROOT, b"f", 0, USER)
        assert e.value.errno == errno.EPERM
        await meta.create(ROOT, b"g")
        with meta.store.round_trips() as n:
            await meta.unlink(ROOT, b"g")
        assert n.count <= 2
        await meta.rename(hour.ino, entry.name, ROOT, b"f")
        assert (await meta.getattr(ino)).parent == ROOT

    async def test_unlink_without_trash_deletes_data(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        made = await meta.publish(ROOT, [b"f"], self.content(5001, 70000))
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert self.removed == [(5001, 70000)]
        with pytest.raises(FsError) as e:
            await meta.getattr(made.ino)
        assert e.value.errno == errno.ENOENT

    async def test_unlinked_open_file_lives_until_closed(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        made = await meta.publish(ROOT, [b"f"], self.content(5001, 70000))
        meta.opened(made.ino)
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert (await meta.getattr(made.ino)).nlink == 0
        assert not self.removed
        await meta.closed(made.ino)
        await self.idle(meta)
        assert self.removed == [(5001, 70000)]

    async def test_unlink_errors(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        for call, code in (
            (meta.unlink(ROOT, b"nope"), errno.ENOENT),
            (meta.unlink(ROOT, b"d"), errno.EPERM),
            (meta.unlink(ROOT, b".trash"), errno.EPERM),
            (meta.rmdir(ROOT, b"nope"), errno.ENOENT),
            (meta.rmdir(ROOT, b"."), errno.EINVAL),
            (meta.rmdir(ROOT, b".."), errno.ENOTEMPTY),
        ):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == code
        await meta.create(d, b"f")
        with pytest.raises(FsError) as e:
            await meta.rmdir(ROOT, b"d")
        assert e.value.errno == errno.ENOTEMPTY
        await meta.unlink(d, b"f")
        with meta.store.round_trips() as n:
            await meta.rmdir(ROOT, b"d")
        assert n.count <= 2
        assert (await meta.getattr(ROOT)).nlink == 2

    async def test_sticky_directory(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o1777)
        await meta.create(d, b"mine", caller=Caller(1, (1,)))
        for call in (meta.unlink(d, b"mine", USER), meta.rename(d, b"mine", d, b"x", 0, USER)):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == errno.EACCES
        await meta.rename(d, b"mine", d, b"x", 0, Caller(1, (1,)))

    async def test_immutable_and_append_flags(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        f, _ = await meta.create(d, b"f")
        for flags in (1, 2):
            await meta.setattr(f, {"flags": flags})
            for call in (
                meta.unlink(d, b"f"),
                meta.rename(d, b"f", d, b"g"),
                meta.link(f, d, b"h"),
                meta.truncate(f, 9),
            ):
                with pytest.raises(FsError) as e:
                    await call
                assert e.value.errno == errno.EPERM
        await meta.setattr(f, {"flags": 0})
        await meta.setattr(d, {"flags": 2})
        await meta.create(d, b"new")
        with pytest.raises(FsError):
            await meta.unlink(d, b"f")
        await meta.setattr(d, {"flags": 1})
        with pytest.raises(FsError):
            await meta.create(d, b"more")
        await meta.setattr(d, {"flags": 0})

    # -- renaming ------------------------------------------------------------------------------------------------

    async def test_rename_replaces_files_and_empty_directories(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        f, _ = await meta.create(a, b"f")
        g, _ = await meta.create(b, b"g")
        with meta.store.round_trips() as n:
            await meta.rename(a, b"f", b, b"g")
        assert n.count <= 5  # the first trash use of the hour makes its directory
        assert (await meta.lookup(b, b"g"))[0] == f
        assert (await meta.getattr(g)).in_trash
        await meta.mkdir(a, b"sub")
        with meta.store.round_trips() as n:
            await meta.rename(a, b"sub", ROOT, b"sub")
        assert (await meta.getattr(a)).nlink == 2
        assert (await meta.getattr(ROOT)).nlink == 5
        await meta.mkdir(b, b"empty")
        await meta.rename(ROOT, b"sub", b, b"empty")
        assert (await meta.getattr(b)).nlink == 3
        await meta.create(ROOT, b"x")
        with meta.store.round_trips() as n:
            await meta.rename(ROOT, b"x", ROOT, b"y")
        assert n.count == 2

    async def test_rename_errors(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(a, b"b")
        c, _ = await meta.mkdir(b, b"c")
        f, _ = await meta.create(ROOT, b"f")
        for call, code in (
            (meta.rename(ROOT, b"none", ROOT, b"x"), errno.ENOENT),
            (meta.rename(ROOT, b"f", ROOT, b"a"), errno.EISDIR),
            (meta.rename(ROOT, b"a", ROOT, b"f"), errno.ENOTDIR),
            (meta.rename(ROOT, b"a", a, b"x"), errno.EPERM),
            (meta.rename(ROOT, b"a", c, b"x"), errno.EINVAL),
            (meta.rename(ROOT, b"f", ROOT, b"x", 4), errno.ENOTSUP),
            (meta.rename(ROOT, b"f", ROOT, b"x", 3), errno.EINVAL),
            (meta.rename(ROOT, b"f", ROOT, b"x", RENAME_EXCHANGE), errno.ENOENT),
            (meta.rename(ROOT, b"f", ROOT, b"a", RENAME_NOREPLACE), errno.EEXIST),
            (meta.rename(ROOT, b"f", f, b"a"), errno.ENOTDIR),
            (meta.rename(ROOT, b".trash", ROOT, b"x"), errno.EPERM),
        ):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == code, e.value
        await meta.rename(ROOT, b"f", ROOT, b"f")
        await meta.mkdir(ROOT, b"d")
        with pytest.raises(FsError) as e:
            await meta.rename(ROOT, b"d", ROOT, b"a")
        assert e.value.errno == errno.ENOTEMPTY

    async def test_exchange(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        f, _ = await meta.create(a, b"x")
        d, _ = await meta.mkdir(b, b"x")
        await meta.rename(a, b"x", b, b"x", RENAME_EXCHANGE)
        assert (await meta.lookup(a, b"x"))[0] == d
        assert (await meta.lookup(b, b"x"))[0] == f
        assert (await meta.getattr(a)).nlink == 3
        assert (await meta.getattr(b)).nlink == 2
        assert (await meta.getattr(d)).parent == a

    async def test_renaming_a_name_onto_its_own_hard_link_does_nothing(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        await meta.link(f, ROOT, b"g")
        await meta.rename(ROOT, b"f", ROOT, b"g")
        assert (await meta.lookup(ROOT, b"f"))[0] == f

    # -- attributes ----------------------------------------------------------------------------------------------

    async def test_setattr(self, meta: Meta) -> None:
        f, before = await meta.create(ROOT, b"f", 0o6755, 0, USER)
        with meta.store.round_trips() as n:
            attr = await meta.setattr(f, {"mtime_ns": -5_000_000_001, "atime_ns": 4_102_444_800_123_456_789})
        assert n.count == 2
        assert (attr.mtime_ns, attr.atime_ns) == (-5_000_000_001, 4_102_444_800_123_456_789)
        assert await meta.getattr(f) == attr
        assert attr.ctime_ns > before.ctime_ns
        assert await meta.setattr(f, {"mtime_ns": -5_000_000_001}) == attr
        attr = await meta.setattr(f, {"uid": 5})
        assert (attr.uid, attr.mode) == (5, 0o755)
        for changes, code in (
            ({"uid": 7}, errno.EPERM), ({"gid": 7}, errno.EPERM), ({"mode": 0}, errno.EPERM),
            ({"mtime_ns": "now"}, errno.EACCES),
        ):  # fmt: skip
            with pytest.raises(FsError) as e:
                await meta.setattr(f, changes, USER)
            assert e.value.errno == code

    async def test_xattrs(self, meta: Meta) -> None:
        f, before = await meta.create(ROOT, b"f")
        await meta.setxattr(f, b"user.a", b"\0\xff")
        await meta.set_xattrs(f, {b"user.b": b"2", b"user.none": None})
        assert await meta.listxattr(f) == [b"user.a", b"user.b"]
        assert await meta.getxattr(f, b"user.a") == b"\0\xff"
        for call, code in (
            (meta.setxattr(f, b"user.a", b"x", 1), errno.EEXIST),
            (meta.setxattr(f, b"user.z", b"x", 2), errno.ENODATA),
            (meta.setxattr(f, b"", b"x"), errno.EINVAL),
            (meta.setxattr(f, b"n" * 256, b"x"), errno.ERANGE),
            (meta.setxattr(f, b"n", bytes(65537)), errno.ERANGE),
            (meta.removexattr(f, b"user.z"), errno.ENODATA),
            (meta.getxattr(f, b"user.z"), errno.ENODATA),
        ):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == code
        await meta.removexattr(f, b"user.a")
        assert await meta.listxattr(f) == [b"user.b"]
        assert (await meta.getattr(f)).ctime_ns == before.ctime_ns

    async def test_acl_rules_are_inherited_and_decide(self, meta: Meta) -> None:
        from core.meta import acl

        d, _ = await meta.mkdir(ROOT, b"d", 0o750)
        rule = acl.Rule(7, 5, 7, 0, users=((1000, 7),))
        await meta.setxattr(d, acl.XATTR_ACCESS, acl.to_xattr(rule))
        await meta.setxattr(d, acl.XATTR_DEFAULT, acl.to_xattr(rule))
        assert await meta.getxattr(d, acl.XATTR_ACCESS) == acl.to_xattr(rule)
        f, attr = await meta.create(d, b"f", 0o666, 0o077, USER)
        assert attr.mode == 0o660
        assert acl.from_xattr(await meta.getxattr(f, acl.XATTR_ACCESS)).users == ((1000, 7),)
        sub, attr = await meta.mkdir(d, b"sub", 0o777, 0, USER)
        assert await meta.getxattr(sub, acl.XATTR_DEFAULT) == acl.to_xattr(rule)
        with pytest.raises(FsError):
            await meta.create(d, b"g", caller=Caller(1001, (1001,)))
        assert (await meta.getattr(d)).mode == 0o770

    # -- data ----------------------------------------------------------------------------------------------------

    async def test_write_truncate_and_read_slices(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        with meta.store.round_trips() as n:
            attr = await meta.write_slices(f, 0, [Slice(10, 7001, 100, 0, 100)], NOW)
        assert n.count == 2
        assert (attr.length, attr.mtime_ns) == (110, NOW)
        attr = await meta.write_slices(f, 2, [Slice(0, 7002, 5, 0, 5)], NOW + 1)
        assert attr.length == 2 * CHUNK_SIZE + 5
        with meta.store.round_trips() as n:
            assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100)]
        assert n.count == 1
        assert await meta.read_chunk(f, 1) == []
        await meta.truncate(f, 50)
        assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100), Slice(50, 0, 0, 0, CHUNK_SIZE - 50)]
        assert await meta.read_chunk(f, 2) == [Slice(0, 7002, 5, 0, 5), Slice(0, 0, 0, 0, 5)]
        attr = await meta.truncate(f, 3 * CHUNK_SIZE)
        assert attr.length == 3 * CHUNK_SIZE
        assert await meta.read_chunk(f, 1) == []
        same = await meta.truncate(f, 3 * CHUNK_SIZE)
        assert same == attr
        for length, code in ((-1, errno.EINVAL), (1 << 57, errno.EFBIG)):
            with pytest.raises(FsError) as e:
                await meta.truncate(f, length)
            assert e.value.errno == code
        with pytest.raises(FsError) as e:
            await meta.write_slices(424242, 0, [Slice(0, 7003, 5, 0, 5)], NOW)
        assert e.value.errno == errno.ENOENT

    # -- publish -------------------------------------------------------------------------------------------------

    async def test_publish_makes_everything_in_two_trips(self, meta: Meta) -> None:
        await meta.publish(ROOT, [b"warm"], Content(0, {}))
        dirs = ImplicitDirs(0o755, 0, {b"s3-ext": b"{}"})
        with meta.store.round_trips() as n:
            made = await meta.publish(
                ROOT, [b"a", b"b", b"c", b"f"], self.content(9001, 10), mode=0o640, xattrs={b"s3-etag": b"x"},
                mtime_ns=NOW, parents=dirs,
            )  # fmt: skip
        assert n.count == 2
        found = await meta.store.resolve(ROOT, [b"a", b"b", b"c", b"f"], xattrs=True, chunk=True)
        assert found.steps[-1].attr == made.attr
        assert (made.attr.length, made.attr.mtime_ns, made.attr.mode) == (10, NOW, 0o640)
        assert found.xattrs == {b"s3-etag": b"x"}
        assert [s.attr.nlink for s in found.steps] == [3, 3, 2, 1]
        assert await meta.listxattr(found.steps[1].entry.ino) == [b"s3-ext"]

    async def test_publish_into_a_known_directory_takes_one_trip(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        await meta.publish(ROOT, [b"d", b"first"], self.content(9000, 10))
        with meta.store.round_trips() as n:
            new = await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert n.count == 1
        with meta.store.round_trips() as n:
            over = await meta.publish(ROOT, [b"d", b"f"], self.content(9002, 20))
        assert n.count <= 5  # the first use of the trash makes its directory
        assert over.replaced and (await meta.getattr(new.ino)).in_trash
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9003, 30))
        assert n.count == 1

    async def test_publish_over_what_others_have_changed_takes_two_trips(self, meta: Meta) -> None:
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await meta.mkdir(ROOT, b"d")
        for warm in (8998, 8999):
            await meta.publish(ROOT, [b"d", b"warm"], self.content(warm, 10))
        d, _ = await meta.lookup(ROOT, b"d")

        async def replaced() -> int:
            return (await other.publish(ROOT, [b"d", b"f"], self.content(9100, 11))).ino

        async def changed() -> int:
            ino, _ = await other.lookup(d, b"f")
            await other.setattr(ino, {"mode": 0o600})
            return ino

        async def made_by_others() -> int:
            await other.rename(d, b"f", d, b"g")
            return (await other.create(d, b"f"))[0]

        await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        for at, change in enumerate((replaced, changed, made_by_others)):
            old = await change()
            with meta.store.round_trips() as n:
                await meta.publish(ROOT, [b"d", b"f"], self.content(9200 + at, 12))
            assert n.count == 2, change.__name__
            assert (await meta.getattr(old)).in_trash
        await other.unlink(d, b"f")
        with meta.store.round_trips() as n:
            made = await meta.publish(ROOT, [b"d", b"f"], self.content(9300, 13))
        assert n.count == 2
        assert not made.replaced

    async def test_publish_notices_that_a_known_path_leads_elsewhere_now(self, meta: Meta) -> None:
        """Another client moved the directory away and made a new one of the same name."""
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await meta.mkdir(ROOT, b"d")
        await meta.publish(ROOT, [b"d", b"warm"], self.content(9000, 10))
        await other.rename(ROOT, b"d", ROOT, b"old")
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert e.value.errno == errno.ENOENT
        new, _ = await other.mkdir(ROOT, b"d")
        made = await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert made.attr.parent == new
        await other.setattr(new, {"mode": 0o2755, "gid": 9})
        made = await meta.publish(ROOT, [b"d", b"g"], self.content(9004, 10))
        assert made.attr.gid == 9
        await other.setattr(new, {"flags": 1})
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"d", b"h"], self.content(9005, 10))
        assert e.value.errno == errno.EPERM
        await other.setattr(new, {"flags": 0})

    async def test_publish_replaces_and_trashes(self, meta: Meta) -> None:
        old = await meta.publish(ROOT, [b"f"], self.content(9001, 10))
        new = await meta.publish(ROOT, [b"f"], self.content(9002, 20))
        assert new.replaced and new.ino != old.ino
        assert (await meta.getattr(old.ino)).in_trash
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"f"], self.content(9003, 30))
        assert n.count == 1
        await self.set_trash(meta, 0)
        await meta.publish(ROOT, [b"f"], self.content(9004, 40))
        await self.idle(meta)
        assert self.removed == [(9003, 30)]

    async def test_publish_conditions(self, meta: Meta) -> None:
        made = await meta.publish(ROOT, [b"f"], Content(0, {}), condition=Condition(absent=True))
        with pytest.raises(Exists):
            await meta.publish(ROOT, [b"f"], Content(0, {}), condition=Condition(absent=True))
        seen = Condition(ino=made.ino, mtime_ns=made.attr.mtime_ns, ctime_ns=made.attr.ctime_ns)
        await meta.publish(ROOT, [b"f"], Content(0, {}), condition=seen)
        for name in (b"f", b"gone"):
            with pytest.raises(FsError) as e:
                await meta.publish(ROOT, [name], Content(0, {}), condition=seen)
            assert e.value.errno == errno.ESTALE

    async def test_publish_errors(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        await meta.create(ROOT, b"f")
        for names, code in (
            ([b"none", b"x"], errno.ENOENT), ([b"f", b"x"], errno.ENOTDIR), ([b"d"], errno.EISDIR),
            ([], errno.EISDIR), ([b".trash"], errno.EPERM),
        ):  # fmt: skip
            with pytest.raises(FsError) as e:
                await meta.publish(ROOT, names, Content(0, {}))
            assert e.value.errno == code
        await meta.publish(ROOT, [b"d"], Content(0, {}), replace_empty_dir=True)
        await meta.mkdir(ROOT, b"e")
        e_ino, _ = await meta.lookup(ROOT, b"e")
        await meta.create(e_ino, b"x")
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"e"], Content(0, {}), replace_empty_dir=True)
        assert e.value.errno == errno.EISDIR

    async def test_pieces_of_a_shared_slice_are_counted(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        for at in range(3):
            piece = Content(10, {0: [Slice(0, 8001, 30, at * 10, 10)]}, fresh=((8001, 30, 3),))
            await meta.publish(ROOT, [b"f%d" % at], piece)
        for at in range(3):
            assert self.removed == []
            await meta.unlink(ROOT, b"f%d" % at)
            await self.idle(meta)
        assert self.removed == [(8001, 30)]

    async def test_copies_share_slices(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        src = await meta.publish(ROOT, [b"src"], self.content(8001, 100))
        (raw,) = await meta.store.read(k.chunk(src.ino, 0))
        copy = Content(60, {0: [Slice(0, 8001, 100, 40, 60)]}, shared=((8001, 100, 1),), sources=((src.ino, 0, raw),))
        await meta.publish(ROOT, [b"dst"], copy)
        await meta.unlink(ROOT, b"src")
        await self.idle(meta)
        assert self.removed == []
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"late"], copy)
        assert e.value.errno == errno.ESTALE
        await meta.unlink(ROOT, b"dst")
        await self.idle(meta)
        assert self.removed == [(8001, 100)]

    # -- jobs, sessions ------------------------------------------------------------------------------------------

    async def test_expired_trash_goes(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.publish(d, [b"f"], self.content(8001, 100))
        await meta.unlink(d, b"f")
        await meta.rmdir(ROOT, b"d")
        assert await meta.clean_trash(26) == 0
        assert await meta.clean_trash(-2) == 2
        await self.idle(meta)
        assert await meta.readdir(TRASH) == []
        assert self.removed == [(8001, 100)]
        await meta.create(ROOT, b"again")
        await meta.unlink(ROOT, b"again")

    async def test_stale_sessions_are_cleaned(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        made = await meta.publish(ROOT, [b"f"], self.content(8001, 100))
        dead = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await dead.new_session("dead", heartbeat_s=0)
        dead.heartbeat_s = -1000
        await dead.store.commit([], [(0, k.session(dead.sid), dead._expiry())])
        dead.opened(made.ino)
        await dead.unlink(ROOT, b"f")
        assert {s["Sid"] for s in await meta.sessions()} == {meta.sid, dead.sid}
        assert await meta.clean_stale_sessions() == 1
        await self.idle(meta)
        assert self.removed == [(8001, 100)]
        assert [s["Sid"] for s in await meta.sessions()] == [meta.sid]

    async def test_capacity_and_inode_limits(self, meta: Meta) -> None:
        meta.capacity = 8192
        await meta.create(ROOT, b"a")
        await meta.create(ROOT, b"b")
        with pytest.raises(FsError) as e:
            await meta.create(ROOT, b"c")
        assert e.value.errno == errno.ENOSPC
        meta.capacity, meta.max_inodes = 0, 2
        with pytest.raises(FsError) as e:
            await meta.create(ROOT, b"c")
        assert e.value.errno == errno.ENOSPC
