# SPDX-License-Identifier: Apache-2.0
"""Names of a mount: special ones, limits, links of nameless files, renameat2, sub-directory mounts.

Source: metadata-semantics §1.4, §4, §9, §12.1.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Any

import pytest

from core.meta.caller import ROOT_CALLER
from core.meta.records import DIRECTORY, FIFO, SOCKET, SYMLINK, TRASH, Attr
from core.vfs.posix.attributes import Change
from core.vfs.posix.nodes import Node
from tests.unit.vfs.posix.names_mount import CHARDEV, FILE, KERNEL, ROOT, Mount, PosixSuite, refused

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4


class Special:
    """Stands for the files of a process; only their names matter here."""

    STATS = Node(0x7FFFFFFF00000003, Attr(FILE, 0o444, 0, 0, 0, 0, 0, 1, 0), 0)

    def is_internal(self, ino: int) -> bool:
        return ino == self.STATS.ino

    def find(self, parent: int, name: bytes) -> Node | None:
        return self.STATS if parent == ROOT and name == b".stats" else None

    def node(self, ino: int) -> Node:
        return self.STATS

    def entries(self) -> Iterable[tuple[bytes, Node]]:
        return [(b".stats", self.STATS)]


class TestNames(PosixSuite):
    async def test_what_is_made_is_found_with_the_same_attributes(self, mount: Mount) -> None:
        posix = mount.posix
        for name, mode, kind in (
            (b"file", stat.S_IFREG, FILE), (b"none", 0, FILE), (b"fifo", stat.S_IFIFO, FIFO),
            (b"sock", stat.S_IFSOCK, SOCKET),
        ):  # fmt: skip
            made = await posix.mknod(ROOT, name, mode | 0o666, 77, 0o022, KERNEL)
            assert made == await mount.find(name)
            assert (made.attr.type, made.attr.mode, made.attr.uid, made.attr.rdev) == (kind, 0o644, 1000, 0)
        device = await posix.mknod(ROOT, b"device", stat.S_IFCHR | 0o600, 0x12345, 0, ROOT_CALLER)
        assert (device.attr.type, device.attr.rdev) == (CHARDEV, 0x12345)
        directory = await posix.mkdir(ROOT, b"dir", 0o1777, 0o022, KERNEL)
        assert (directory.attr.type, directory.attr.mode, directory.attr.nlink) == (DIRECTORY, 0o1755, 2)
        assert directory.blocks == 8
        link = await posix.symlink(ROOT, b"link", b"to/where", KERNEL)
        assert (link.attr.type, link.attr.mode, link.attr.length) == (SYMLINK, 0o777, 8)
        assert await posix.readlink(link.ino) == b"to/where"
        await refused(errno.EINVAL, posix.readlink(directory.ino))
        await refused(errno.EINVAL, posix.mknod(ROOT, b"x", stat.S_IFLNK | 0o666, 0, 0, KERNEL))

    async def test_names_over_255_bytes_are_too_long_for_everything(self, mount: Mount) -> None:
        posix, long = mount.posix, b"n" * 256
        file = await mount.touch(b"n" * 255)
        for call in (
            posix.lookup(ROOT, long, KERNEL),
            posix.mknod(ROOT, long, 0o644, 0, 0, KERNEL),
            posix.mkdir(ROOT, long, 0o755, 0, KERNEL),
            posix.symlink(ROOT, long, b"t", KERNEL),
            posix.link(file, ROOT, long, KERNEL),
            posix.unlink(ROOT, long, KERNEL),
            posix.rmdir(ROOT, long, KERNEL),
            posix.rename(ROOT, long, ROOT, b"b", 0, KERNEL),
            posix.rename(ROOT, b"n" * 255, ROOT, long, 0, KERNEL),
        ):
            await refused(errno.ENAMETOOLONG, call)
        await refused(errno.ENAMETOOLONG, posix.symlink(ROOT, b"l", b"t" * 4096, KERNEL))
        assert (await posix.symlink(ROOT, b"l", b"t" * 4095, KERNEL)).attr.length == 4095

    async def test_dot_and_dot_dot_are_found_for_file_handles(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        e = await mount.mkdir(b"e", d)
        f = await mount.touch(b"f", d)
        assert (await mount.find(b".", e)).ino == e
        assert (await mount.find(b"..", e)).ino == d
        assert (await mount.find(b"..", d)).ino == ROOT
        assert (await mount.find(b"..", ROOT)).ino == ROOT
        assert (await mount.find(b".", f)).ino == f
        await refused(errno.ENOTDIR, mount.find(b"..", f))
        await refused(errno.ENOENT, mount.find(b".", 123_456))

    async def test_the_names_of_special_files_are_taken(self, more: Any) -> None:
        mount = await more(internal=Special())
        posix = mount.posix
        file = await mount.touch(b"file")
        for name in (b".stats", b".trash"):
            assert (await mount.find(name)).ino >= 0x7FFFFFFF00000000
            await refused(errno.EEXIST, posix.mknod(ROOT, name, 0o644, 0, 0, KERNEL))
            await refused(errno.EEXIST, posix.mkdir(ROOT, name, 0o755, 0, KERNEL))
            await refused(errno.EEXIST, posix.symlink(ROOT, name, b"x", KERNEL))
            await refused(errno.EPERM, posix.link(file, ROOT, name, KERNEL))
            await refused(errno.EPERM, posix.unlink(ROOT, name, ROOT_CALLER))
            await refused(errno.EPERM, posix.rmdir(ROOT, name, ROOT_CALLER))
            await refused(errno.EPERM, posix.rename(ROOT, name, ROOT, b"b", 0, ROOT_CALLER))
            await refused(errno.EPERM, posix.rename(ROOT, b"file", ROOT, name, 0, ROOT_CALLER))
        await refused(errno.EPERM, posix.link(Special.STATS.ino, ROOT, b"b", ROOT_CALLER))
        d = await mount.mkdir(b"d")
        assert (await mount.touch(b".stats", d)) > ROOT  # elsewhere they are names as others are
        assert (await mount.touch(b".trash", d)) > ROOT
        assert [e.name for e in await mount.list()][:4] == [b".", b"..", b".stats", b".trash"]
        hidden = await more(internal=Special(), hide_internal=True)
        assert [e.name for e in await hidden.list()] == [b".", b"..", b"d", b"file"]
        assert (await hidden.find(b".trash")).ino == TRASH  # but there

    async def test_the_trash_can_have_another_name(self, more: Any) -> None:
        mount = await more(prefix_internal=True)
        assert (await mount.find(b".jfs.trash")).ino == TRASH
        await refused(errno.EEXIST, mount.posix.mkdir(ROOT, b".jfs.trash", 0o755, 0, KERNEL))
        assert [e.name for e in await mount.list()] == [b".", b"..", b".jfs.trash"]

    async def test_a_read_only_mount_changes_nothing(self, more: Any) -> None:
        other = await more()
        file = await other.touch(b"file")
        mount = await more(read_only=True)
        posix = mount.posix
        for call in (
            posix.mkdir(ROOT, b"d", 0o755, 0, KERNEL),
            posix.link(file, ROOT, b"l", KERNEL),
            posix.unlink(ROOT, b"file", KERNEL),
            posix.rename(ROOT, b"file", ROOT, b"b", 0, KERNEL),
        ):
            await refused(errno.EROFS, call)

    async def test_removing_says_what_linux_says(self, mount: Mount) -> None:
        posix = mount.posix
        d = await mount.mkdir(b"d")
        await mount.touch(b"f", d)
        await refused(errno.EISDIR, posix.unlink(ROOT, b"d", KERNEL))
        await refused(errno.ENOTEMPTY, posix.rmdir(ROOT, b"d", ROOT_CALLER))
        await refused(errno.ENOTDIR, posix.rmdir(d, b"f", ROOT_CALLER))
        await refused(errno.ENOENT, posix.unlink(d, b"g", ROOT_CALLER))
        await refused(errno.ENOENT, posix.rmdir(d, b"g", ROOT_CALLER))
        await posix.unlink(d, b"f", ROOT_CALLER)
        await posix.rmdir(ROOT, b"d", ROOT_CALLER)
        assert await mount.names() == []

    async def test_a_removed_directory_can_be_looked_at_by_who_holds_it(self, mount: Mount, more: Any) -> None:
        posix, other = mount.posix, await more()
        inos = [await mount.mkdir(name, mode=0o751) for name in (b"a", b"b", b"c", b"d")]
        await posix.rmdir(ROOT, b"a", ROOT_CALLER)
        await posix.rename(ROOT, b"c", ROOT, b"b", 0, ROOT_CALLER)
        await other.posix.rmdir(ROOT, b"d", ROOT_CALLER)
        for ino in (inos[0], inos[1], inos[3]):
            attr = await mount.attr(ino)
            assert (attr.type, attr.mode, attr.nlink) == (DIRECTORY, 0o751, 0)
            assert (await posix.setattr(ino, Change(mode=0o700), ROOT_CALLER)).attr.mode == 0o700
            assert (await mount.attr(ino)).mode == 0o700
            await refused(errno.ENOENT, mount.mkdir(b"x", ino))
            await refused(errno.ENOENT, mount.find(b".", ino))
            posix.forget(ino)
            await refused(errno.ENOENT, posix.getattr(ino))
        assert (await mount.attr(inos[2])).nlink == 2

    async def test_a_file_without_a_name_gets_one_again(self, mount: Mount) -> None:
        """linkat(AT_EMPTY_PATH) of an O_TMPFILE file."""
        posix = mount.posix
        d = await mount.mkdir(b"d")
        handle = await mount.client.vfs.create(ROOT, b"tmp", os.O_RDWR)
        await handle.write(0, b"content")
        await handle.flush()
        await posix.unlink(ROOT, b"tmp", ROOT_CALLER)
        assert (await mount.attr(handle.ino)).nlink == 0
        linked = await posix.link(handle.ino, d, b"named", ROOT_CALLER)
        assert (linked.ino, linked.attr.nlink, linked.attr.length) == (handle.ino, 1, 7)
        await handle.release()
        await mount.client.idle()
        assert await posix.meta.parents(handle.ino) == {d: 1}
        assert (await mount.find(b"named", d)).attr.length == 7


class TestRenames(PosixSuite):
    async def test_noreplace_and_exchange(self, mount: Mount) -> None:
        posix = mount.posix
        d = await mount.mkdir(b"d")
        a, b = await mount.touch(b"a"), await mount.touch(b"b", d)
        await refused(errno.EEXIST, posix.rename(ROOT, b"a", d, b"b", NOREPLACE, KERNEL))
        await posix.rename(ROOT, b"a", d, b"b", EXCHANGE, KERNEL)
        assert ((await mount.find(b"a")).ino, (await mount.find(b"b", d)).ino) == (b, a)
        await refused(errno.ENOENT, posix.rename(ROOT, b"a", ROOT, b"none", EXCHANGE, KERNEL))
        await posix.rename(ROOT, b"a", ROOT, b"c", NOREPLACE, KERNEL)
        assert await mount.names() == [b"c", b"d"]

    @pytest.mark.parametrize("flags", [NOREPLACE | EXCHANGE, EXCHANGE | WHITEOUT, 8, 0x20])
    async def test_flags_that_make_no_sense_are_refused(self, mount: Mount, flags: int) -> None:
        await mount.touch(b"a")
        await refused(errno.EINVAL, mount.posix.rename(ROOT, b"a", ROOT, b"b", flags, KERNEL))
        assert await mount.names() == [b"a"]

    async def test_a_whiteout_stays_under_the_old_name(self, mount: Mount) -> None:
        posix = mount.posix
        d = await mount.mkdir(b"d")
        a = await mount.touch(b"a")
        await posix.rename(ROOT, b"a", d, b"b", WHITEOUT, ROOT_CALLER)
        left = await mount.find(b"a")
        assert (left.attr.type, left.attr.rdev, left.attr.mode, left.attr.nlink) == (CHARDEV, 0, 0, 1)
        assert (await mount.find(b"b", d)).ino == a
        c = await mount.touch(b"c")
        await refused(errno.EEXIST, posix.rename(ROOT, b"c", d, b"b", WHITEOUT | NOREPLACE, ROOT_CALLER))
        await posix.rename(ROOT, b"c", d, b"b", WHITEOUT, ROOT_CALLER)  # replaces
        assert (await mount.find(b"b", d)).ino == c
        await posix.rename(ROOT, b"d", ROOT, b"e", WHITEOUT, ROOT_CALLER)  # a directory
        assert (await mount.find(b"d")).attr.type == CHARDEV
        assert (await mount.attr(ROOT)).nlink == 3
        await posix.rename(ROOT, b"e", ROOT, b"e", WHITEOUT, ROOT_CALLER)  # nothing moves
        assert await mount.names() == [b"a", b"c", b"d", b"e"]

    async def test_a_directory_does_not_move_into_itself(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        e = await mount.mkdir(b"e", d)
        g = await mount.mkdir(b"g", await mount.mkdir(b"f", e))
        for below in (d, e, g):
            await refused(errno.EINVAL, mount.posix.rename(ROOT, b"d", below, b"x", 0, KERNEL))


class TestTrash(PosixSuite):
    trash_days = 1

    async def test_only_root_takes_things_out_of_the_trash(self, mount: Mount) -> None:
        posix = mount.posix
        file = await mount.touch(b"file", mode=0o666)
        await posix.unlink(ROOT, b"file", KERNEL)
        (hour,) = await mount.list(TRASH, offset=2)
        (entry,) = await mount.list(hour.ino, offset=2)
        assert entry.name == b"1-%d-file" % file
        assert (await mount.list(hour.ino))[1].ino == TRASH
        await refused(errno.EPERM, posix.mkdir(hour.ino, b"x", 0o755, 0, ROOT_CALLER))
        await refused(errno.EPERM, posix.rename(hour.ino, entry.name, ROOT, b"back", 0, KERNEL))
        await refused(errno.EPERM, posix.unlink(hour.ino, entry.name, KERNEL))
        await refused(errno.EPERM, posix.rmdir(TRASH, hour.name, ROOT_CALLER))
        await posix.rename(hour.ino, entry.name, ROOT, b"back", 0, ROOT_CALLER)
        assert (await mount.find(b"back")).ino == file
        await posix.unlink(ROOT, b"back", KERNEL)
        (entry,) = await mount.list(hour.ino, offset=2)
        await posix.unlink(hour.ino, entry.name, ROOT_CALLER)
        assert await mount.list(hour.ino, offset=2) == []


class TestSubdir(PosixSuite):
    async def test_the_mounts_root_is_one_whatever_it_is_in_the_volume(self, more: Any) -> None:
        whole = await more()
        top = await whole.mkdir(b"top")
        sub = await whole.mkdir(b"sub", top)
        inner = await whole.mkdir(b"inner", sub)
        mount = await more(root=sub)
        posix = mount.posix
        assert (await posix.getattr(ROOT)).ino == ROOT
        assert (await posix.getattr(ROOT)).attr == await whole.attr(sub)
        assert (await mount.find(b"inner")).ino == inner
        assert (await mount.find(b"..")).ino == ROOT
        assert (await mount.find(b"..", inner)).ino == ROOT
        assert [(e.name, e.ino) for e in await mount.list()] == [(b".", 1), (b"..", 1), (b"inner", inner)]
        assert [(e.name, e.ino) for e in await mount.list(inner)] == [(b".", inner), (b"..", 1)]
        file = await mount.touch(b"file")
        assert (await whole.find(b"file", sub)).ino == file
        assert (await posix.link(file, ROOT, b"second", KERNEL)).attr.nlink == 2
        await posix.rename(ROOT, b"second", inner, b"third", 0, KERNEL)
        await posix.unlink(inner, b"third", KERNEL)
        await posix.rmdir(ROOT, b"inner", ROOT_CALLER)
        await refused(errno.ENOENT, mount.find(b".trash"))  # reachable from the volume's root only
        assert (await posix.mkdir(ROOT, b".trash", 0o755, 0, KERNEL)).ino > ROOT
        assert await whole.names(sub) == [b"file"]
        assert sorted(e.name for e in await mount.list()) == [b".", b"..", b".trash", b"file"]
