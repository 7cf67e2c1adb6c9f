# SPDX-License-Identifier: Apache-2.0
"""Volume suite: clones of files and trees. Source: spec metadata-semantics §13.2."""

from __future__ import annotations

import asyncio
import errno

import pytest

from core import failpoints
from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.acl import Rule
from core.meta.base import Exists
from core.meta.caller import Caller
from core.meta.clone import Clone as Cloning
from core.meta.meta import Meta
from core.meta.records import (
    CHARDEV,
    CHUNK_SIZE,
    DIRECTORY,
    FIFO,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    ROOT,
    Quota,
    Slice,
)  # fmt: skip
from tests.conformance.volume.base import NOW, USER, VolumeBase
from tests.conformance.volume.ranges import require_refused, written

OWNER = Caller(77, (88,))


async def tree(meta: Meta) -> int:
    """/t with files, a link to one of them, a symlink, a FIFO, a device, an empty folder and a deep one."""
    t, _ = await meta.mkdir(ROOT, b"t", 0o750)
    await meta.setxattr(t, b"user.t", b"top")
    f = await written(meta, b"one", 7001, 1000)
    await meta.rename(ROOT, b"one", t, b"one")
    await meta.setxattr(f, b"user.f", b"file")
    await meta.setattr(f, {"flags": FLAG_APPEND, "uid": 5, "gid": 6, "mode": 0o751, "tier": 2})
    await meta.setattr(f, {"flags": 0})
    await meta.link(f, t, b"hard")
    await meta.symlink(t, b"sym", b"to/where")
    await meta.mknod(t, b"fifo", FIFO, 0o600)
    await meta.mknod(t, b"dev", CHARDEV, 0o600, rdev=0x0105)
    await meta.mkdir(t, b"empty")
    deep = t
    for level in range(4):
        deep, _ = await meta.mkdir(deep, b"deep%d" % level)
        g, _ = await meta.create(deep, b"g")
        await meta.write_slices(g, level, [Slice(0, 7100 + level, 500, 0, 500), Slice(5, 0, 0, 0, 5)], NOW)
    return t


async def listing(meta: Meta, ino: int, path: bytes = b"") -> dict[bytes, int]:
    """Every path below a directory."""
    found: dict[bytes, int] = {}
    for entry in await meta.readdir(ino):
        found[path + entry.name] = entry.ino
        if entry.type == DIRECTORY:
            found.update(await listing(meta, entry.ino, path + entry.name + b"/"))
    return found


class Clone(VolumeBase):
    @pytest.fixture
    def failing(self):  # type: ignore[no-untyped-def]
        yield failpoints.arm
        failpoints.arm("")

    async def test_clone_of_a_file(self, meta: Meta) -> None:
        f = await written(meta, b"f", 7001, 1000)
        await meta.write_slices(f, 1, [Slice(0, 7002, 10, 0, 10), Slice(4, 7001, 1000, 0, 3)], NOW, refs=[1, 1])
        await meta.store.commit([], [(2, k.sliceref(7001, 1000), 1)])
        await meta.setattr(f, {"uid": 5, "gid": 6, "mode": 0o4755, "tier": 2})
        await meta.setxattr(f, b"user.a", b"1")
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        with meta.store.round_trips() as n:
            made = await meta.clone(f, d, b"copy", OWNER, umask=0o22)
        assert n.count <= 2 + (not getattr(self, "hinting", True))  # key-value stores may read before they commit
        source, attr = await meta.getattr(f), await meta.getattr(made.ino)
        assert made.attr == attr and made.nodes == 1
        assert (attr.uid, attr.gid, attr.mode, attr.tier, attr.length) == (77, 88, 0o4755 & ~0o22, 2, source.length)
        assert attr.nlink == 1 and attr.parent == d and attr.mtime_ns == attr.ctime_ns > source.ctime_ns
        assert [await meta.read_chunk(made.ino, i) for i in (0, 1)] == [await meta.read_chunk(f, i) for i in (0, 1)]
        assert await meta.getxattr(made.ino, b"user.a") == b"1"
        assert await meta.store.read(k.sliceref(7001, 1000), k.sliceref(7002, 10)) == [4, 2]
        kept = await meta.clone(f, d, b"kept", preserve=True)
        fields = ("uid", "gid", "mode", "tier", "mtime_ns", "ctime_ns", "atime_ns", "length")
        assert [getattr(kept.attr, name) for name in fields] == [getattr(source, name) for name in fields]
        assert (await meta.getattr(d)).mtime_ns > source.mtime_ns

    async def test_clone_of_links_and_special_files(self, meta: Meta) -> None:
        s, _ = await meta.symlink(ROOT, b"s", b"target")
        p, _ = await meta.mknod(ROOT, b"p", FIFO, 0o600)
        made = await meta.clone(s, ROOT, b"s2")
        assert await meta.readlink(made.ino) == b"target"
        assert (await meta.clone(p, ROOT, b"p2")).attr.type == FIFO

    async def test_clone_of_a_tree(self, meta: Meta) -> None:
        t = await tree(meta)
        shown: list[tuple[int, int]] = []
        made = await meta.clone(
            t, ROOT, b"copy", preserve=True, progress=lambda done, total: shown.append((done, total))
        )
        before, after = await listing(meta, t), await listing(meta, made.ino)
        assert list(before) == list(after) and made.nodes == len(after) + 1
        assert shown[-1] == (made.nodes, made.nodes)
        for path, ino in before.items():
            old, new = await meta.getattr(ino), await meta.getattr(after[path])
            assert ino != after[path]
            for name in ("type", "mode", "uid", "gid", "mtime_ns", "ctime_ns", "length", "rdev", "tier", "flags"):
                assert getattr(old, name) == getattr(new, name), (path, name)
            assert new.nlink == (old.nlink if old.is_dir else 1)
        assert after[b"one"] != after[b"hard"]
        assert await meta.getxattr(after[b"one"], b"user.f") == b"file"
        assert await meta.getxattr(made.ino, b"user.t") == b"top"
        assert await meta.readlink(after[b"sym"]) == b"to/where"
        assert (await meta.getattr(made.ino)).mtime_ns == (await meta.getattr(t)).mtime_ns
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []
        assert await meta.store.read(k.sliceref(7001, 1000), k.sliceref(7100, 500)) == [3, 2]

    async def test_clone_of_a_tree_for_somebody_else(self, meta: Meta) -> None:
        t = await tree(meta)
        for path, ino in (await listing(meta, t)).items():
            await meta.setattr(ino, {"mode": 0o777}) if path != b"sym" else None
        await meta.setattr(t, {"mode": 0o777})
        made = await meta.clone(t, ROOT, b"copy", OWNER, umask=0o27)
        for ino in (made.ino, *(await listing(meta, made.ino)).values()):
            attr = await meta.getattr(ino)
            assert (attr.uid, attr.gid, attr.mode & 0o27) == (77, 88, 0)

    async def test_wide_directories_go_in_batches(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        for at in range(0, 1100, 50):
            await asyncio.gather(*(meta.create(d, b"f%04d" % i) for i in range(at, at + 50)))
        made = await meta.clone(d, ROOT, b"copy", concurrency=3)
        assert made.nodes == 1101
        assert [e.name for e in await meta.readdir(made.ino, b"", 5000)] == [b"f%04d" % i for i in range(1100)]

    async def test_a_tree_is_not_there_before_it_is_complete(self, meta: Meta) -> None:
        t = await tree(meta)
        seen: list[bool] = []
        batch = Cloning._batch

        async def watched(self, tx, *rest):  # type: ignore[no-untyped-def]
            seen.append(bool((await meta.store.resolve(ROOT, [b"copy"])).steps))
            return await batch(self, tx, *rest)

        Cloning._batch = watched  # type: ignore[method-assign]
        try:
            await meta.clone(t, ROOT, b"copy")
        finally:
            Cloning._batch = batch  # type: ignore[method-assign]
        assert len(seen) > 3 and not any(seen)

    @pytest.mark.parametrize("where", ["clone.started=raise", "clone.batch=raise:2", "clone.built=raise"])
    async def test_a_failed_clone_leaves_nothing(self, meta: Meta, failing, where: str) -> None:  # type: ignore[no-untyped-def]
        t = await tree(meta)
        before = await meta.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        failing(where)
        with pytest.raises(MetaError):
            await meta.clone(t, ROOT, b"copy")
        failing("")
        await self.idle(meta)
        assert await meta.store.read(k.counter("usedSpace"), k.counter("totalInodes")) == before
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []
        assert len([key async for key, _ in meta.store.scan(k.NODE)]) == before[1] + 2

    async def test_a_name_that_is_taken_meanwhile_wins(self, meta: Meta) -> None:
        t = await tree(meta)
        attach = meta._attach

        async def late(*args):  # type: ignore[no-untyped-def]
            await meta.create(ROOT, b"copy")
            return await attach(*args)

        meta._attach = late  # type: ignore[method-assign]
        with pytest.raises(Exists):
            await meta.clone(t, ROOT, b"copy")
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []

    async def test_a_cancelled_clone_cleans_up(self, meta: Meta, failing) -> None:  # type: ignore[no-untyped-def]
        t = await tree(meta)
        failing("clone.batch=delay(30):2")
        task = asyncio.ensure_future(meta.clone(t, ROOT, b"copy"))
        while not failpoints.calls("clone.batch"):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.idle(meta)
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []

    async def test_abandoned_trees_go_after_a_day(self, meta: Meta, failing) -> None:  # type: ignore[no-untyped-def]
        t = await tree(meta)
        await meta.setattr(t, {"flags": FLAG_IMMUTABLE})
        give_up = meta._give_up

        async def die(*args):  # type: ignore[no-untyped-def]
            return None

        meta._give_up = die  # type: ignore[method-assign]
        failing("clone.built=raise")
        with pytest.raises(MetaError):
            await meta.clone(t, ROOT, b"copy")
        failing("")
        meta._give_up = give_up  # type: ignore[method-assign]
        (top,) = [(key[1], when) async for key, when in meta.store.scan(k.DETACHED)]
        assert await meta.clean_detached() == 0
        assert not await meta.remove_detached(top[0], top[1] + 1)
        assert await meta.clean_detached(-60) == 1
        await self.idle(meta)
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []
        assert len([key async for key, _ in meta.store.scan(k.NODE)]) == 2 + (await meta.count_all())[1]
        await meta.setattr(t, {"flags": 0})

    async def test_a_tree_that_is_being_removed_is_never_attached(self, meta: Meta) -> None:
        t = await tree(meta)
        attach = meta._attach

        async def late(job, *args):  # type: ignore[no-untyped-def]
            assert await meta.remove_detached(job.top, job.when)
            return await attach(job, *args)

        meta._attach = late  # type: ignore[method-assign]
        with pytest.raises(FsError, match="removed by another client"):
            await meta.clone(t, ROOT, b"copy")

    async def test_clone_refuses(self, meta: Meta) -> None:
        t = await tree(meta)
        f = await written(meta, b"f", 7500, 10)
        names = await listing(meta, t)
        await require_refused(meta.clone(424242, ROOT, b"x"), errno.ENOENT)
        await require_refused(meta.clone(f, ROOT, b""), errno.ENOENT)
        await require_refused(meta.clone(f, ROOT, b"a/b"), errno.EINVAL)
        await require_refused(meta.clone(f, ROOT, b"n" * 256), errno.ENAMETOOLONG)
        await require_refused(meta.clone(f, ROOT, b"t"), errno.EEXIST)
        await require_refused(meta.clone(f, ROOT, b".trash"), errno.EPERM)
        await require_refused(meta.clone(f, f, b"x"), errno.ENOTDIR)
        await require_refused(meta.clone(t, t, b"x"), errno.EINVAL)
        await require_refused(meta.clone(t, names[b"deep0/deep1"], b"x"), errno.EINVAL)
        await require_refused(meta.clone(ROOT, t, b"x"), errno.EINVAL)
        await require_refused(meta.clone(f, t, b"x", USER), errno.EACCES)
        await meta.unlink(ROOT, b"f")
        await require_refused(meta.clone(f, ROOT, b"x"), errno.EPERM)
        await meta.setattr(t, {"mode": 0o777})
        await meta.setattr(names[b"deep0/g"], {"mode": 0o600})
        await meta.setattr(ROOT, {"mode": 0o777})
        await require_refused(meta.clone(t, ROOT, b"x", USER), errno.EACCES)  # a child it may not read
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []
        meta.read_only = True
        await require_refused(meta.clone(t, ROOT, b"x"), errno.EROFS)
        meta.read_only = False

    async def test_limits_are_looked_at_before_anything_is_built(self, meta: Meta) -> None:
        t = await tree(meta)
        space, inodes = await meta.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        meta.capacity = space + 100_000
        await require_refused(meta.clone(t, ROOT, b"x"), errno.ENOSPC)
        meta.capacity, meta.max_inodes = 0, inodes + 3
        with meta.store.round_trips() as n:
            await require_refused(meta.clone(t, ROOT, b"x"), errno.ENOSPC)
        assert n.count < 25
        meta.max_inodes = 0

    async def test_directory_quotas_are_charged_once(self, meta: Meta) -> None:
        t = await tree(meta)
        d, _ = await meta.mkdir(ROOT, b"d")
        e, _ = await meta.mkdir(d, b"e")
        await meta.store.commit([], [(0, k.quota(0, d), Quota(0, 100, 4096, 1))])
        await meta.reload_usage()
        made = await meta.clone(t, e, b"copy")
        (quota,) = await meta.store.read(k.quota(0, d))
        assert quota.used_inodes == 1 + made.nodes
        total = 4096 * 2
        for ino in (await listing(meta, made.ino)).values():
            attr = await meta.getattr(ino)
            total += max(4096, -(-attr.length // 4096) * 4096) if attr.type == 1 else 4096
        assert quota.used_space == total
        await meta.store.commit([], [(0, k.quota(0, d), Quota(0, quota.used_inodes + 3, *quota[2:]))])
        await meta.reload_usage()
        await require_refused(meta.clone(t, e, b"again"), errno.EDQUOT)
        (again,) = await meta.store.read(k.quota(0, d))
        assert again[2:] == quota[2:]
        await meta.store.commit([], [(1, k.quota(0, d), None)])
        await meta.reload_usage()

    async def test_owners_are_charged(self, meta: Meta) -> None:
        t = await tree(meta)
        for ino in (await listing(meta, t)).values():
            await meta.setattr(ino, {"mode": 0o777})
        await meta.setattr(t, {"mode": 0o777})
        meta.user_group_quota = True
        made = await meta.clone(t, ROOT, b"copy", OWNER)
        user, group = await meta.store.read(k.quota(1, 77), k.quota(2, 88))
        assert user.used_inodes == group.used_inodes == made.nodes
        meta.user_group_quota = False

    async def test_acl_and_flags_are_copied(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.setfacl(d, True, Rule(7, 5, 5, 5, ((1000, 7),), ()))
        f, fattr = await meta.create(d, b"f")
        await meta.setattr(f, {"flags": FLAG_IMMUTABLE})
        made = await meta.clone(d, ROOT, b"copy")
        (entry,) = await meta.readdir(made.ino, attrs=True)
        assert made.attr.default_acl and entry.attr is not None
        assert (entry.attr.access_acl, entry.attr.flags) == (fattr.access_acl, FLAG_IMMUTABLE)
        await meta.setattr(f, {"flags": 0})
        await meta.setattr(entry.ino, {"flags": 0})

    async def test_huge_files_are_built_aside(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        for index in range(0, 300, 3):
            await meta.write_slices(f, index, [Slice(0, 8000 + index, 10, 0, 10)], NOW + index)
        d, _ = await meta.mkdir(ROOT, b"d")
        made = await meta.clone(f, d, b"copy")
        assert (made.nodes, made.attr.parent, made.attr.length) == (1, d, 297 * CHUNK_SIZE + 10)
        assert await meta.read_chunks(made.ino, range(300)) == await meta.read_chunks(f, range(300))
        assert [key async for key, _ in meta.store.scan(k.DETACHED)] == []
        await meta.rename(ROOT, b"f", d, b"f")
        both = await meta.clone(d, ROOT, b"both")
        copies = await listing(meta, both.ino)
        assert await meta.read_chunks(copies[b"f"], range(300)) == await meta.read_chunks(f, range(300))
        assert (await meta.store.read(k.sliceref(8000, 10)))[0] == 4

    async def test_sources_that_change_and_vanish_meanwhile(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        files = [(await meta.create(d, b"f%02d" % i))[0] for i in range(30)]
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        other.use_format(meta.format)

        async def disturb() -> None:
            for i in range(30):
                await other.write_slices(files[i], 0, [Slice(0, 9000 + i, 100, 0, 100)], other.clock_ns())
                if i % 5 == 4:
                    await other.unlink(d, b"f%02d" % i, skip_trash=True)
                    await other.mkdir(d, b"new%02d" % i)

        made, _ = await asyncio.gather(meta.clone(d, ROOT, b"copy", concurrency=2), disturb())
        await self.idle(other)
        for entry in await meta.readdir(made.ino, attrs=True):
            assert entry.attr is not None
            if entry.type != DIRECTORY:
                assert entry.attr.length == sum(s.length for s in await meta.read_chunk(entry.ino, 0))
