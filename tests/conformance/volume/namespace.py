# SPDX-License-Identifier: Apache-2.0
"""Names: create, look up, link, remove, rename. Source: spec metadata-semantics §4, §9."""

from __future__ import annotations

import errno

import pytest

from core.errors import FsError
from core.meta.base import Exists
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from core.meta.records import ROOT, TRASH
from tests.conformance.volume.base import USER, VolumeBase


class Namespace(VolumeBase):
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
        assert n.count <= 2

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
