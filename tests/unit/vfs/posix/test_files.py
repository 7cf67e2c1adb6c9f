# SPDX-License-Identifier: Apache-2.0
"""Open files of a mount by handle number: what opening, writing, closing and everything around them promises."""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import CHUNK_SIZE
from core.vfs.posix.files import Files
from tests.unit.chunk.doubles import BLOCK, noise, settle
from tests.unit.vfs.posix.names_mount import KERNEL, ROOT, Mount, PosixSuite, refused

RW = os.O_RDWR
DATA, HOLE = os.SEEK_DATA, os.SEEK_HOLE


async def create(mount: Mount, name: bytes = b"f", flags: int = RW, data: bytes = b"") -> tuple[int, int]:
    """Inode and handle."""
    made = await mount.posix.create_or_open(ROOT, name, flags | os.O_CREAT, 0o644, 0, ROOT_CALLER, lambda: ROOT_CALLER)
    node, fh, _ = made
    if data:
        await write(mount, fh, node.ino, 0, data)
    return node.ino, fh


async def write(mount: Mount, fh: int, ino: int, offset: int, data: bytes, flags: int = RW) -> int:
    """As the handler does it."""
    view = memoryview(data)
    done = mount.posix.write_nowait(fh, ino, flags, offset, view, 0)
    return await mount.posix.write(fh, ino, flags, offset, view, 0) if done is None else done


async def read(mount: Mount, fh: int, ino: int, offset: int = 0, size: int = 1 << 20, flags: int = RW) -> bytes:
    found = mount.posix.read_nowait(fh, ino, flags, offset, size)
    return bytes(await mount.posix.read(fh, ino, flags, offset, size) if found is None else found)


async def close(mount: Mount, fh: int, ino: int, owner: int = 1) -> None:
    try:
        if not mount.posix.flush_nowait(fh, ino, owner):
            await mount.posix.flush(fh, ino, owner)
    finally:
        if not mount.posix.release_nowait(fh, ino, 0, False):
            await mount.posix.release(fh, ino, 0, False)


async def content(mount: Mount, ino: int, size: int = 1 << 20) -> bytes:
    fh, _ = await mount.posix.open(ino, os.O_RDONLY)
    found = await read(mount, fh, ino, 0, size)
    await close(mount, fh, ino)
    return found


async def stored(mount: Mount, name: bytes, data: bytes) -> int:
    ino, fh = await create(mount, name, data=data)
    await close(mount, fh, ino)
    return ino


class TestOpening(PosixSuite):
    async def test_what_was_written_is_read_here_and_elsewhere(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount, data=b"hello")
        assert await read(mount, fh, ino) == b"hello"
        assert (await mount.posix.getattr(ino)).attr.length == 5
        await close(mount, fh, ino)
        assert await content(other, ino) == b"hello"
        assert not mount.posix.handles
        assert not mount.client.meta.open_files

    async def test_a_handle_has_its_number_from_the_keeper_and_keeps_it(self, mount: Mount) -> None:
        ino, first = await create(mount)
        second, _ = await mount.posix.open(ino, os.O_RDONLY)
        assert first and second and first != second
        await close(mount, first, ino)
        assert await read(mount, second, ino) == b""
        await close(mount, second, ino)

    async def test_creating_what_exists_opens_it_unless_it_must_be_new(self, mount: Mount) -> None:
        ino = await stored(mount, b"f", b"old")
        again, fh = await create(mount)
        assert again == ino and await read(mount, fh, ino) == b"old"
        await refused(errno.EEXIST, mount.posix.create(ROOT, b"f", RW | os.O_EXCL, 0o644, 0))
        await refused(errno.ENAMETOOLONG, mount.posix.create(ROOT, b"x" * 256, RW, 0o644, 0))
        await refused(errno.EEXIST, mount.posix.create(ROOT, b".trash", RW, 0o644, 0))
        await close(mount, fh, ino)

    async def test_a_file_that_somebody_else_made_meanwhile_is_opened_with_its_own_rights(self, mount: Mount) -> None:
        """The kernel asks to create, and takes whatever is opened for new: it looks at no mode."""

        async def ask(name: bytes, flags: int = RW, who: Caller = KERNEL) -> bytes:
            node, fh, _ = await mount.posix.create_or_open(
                ROOT, name, flags | os.O_CREAT, 0o644, 0, who, lambda: Caller(who.uid, who.gids, who.pid)
            )
            found = await read(mount, fh, node.ino)
            await close(mount, fh, node.ino)
            return found

        ino = await stored(mount, b"f", b"theirs")
        await refused(errno.ESTALE, ask(b"f"))
        assert (await mount.attr(ino)).length == 6
        await refused(errno.ESTALE, ask(b"f", RW | os.O_TRUNC))
        assert (await mount.attr(ino)).length == 6
        assert await ask(b"f", os.O_RDONLY) == b"theirs"
        assert await ask(b"f", who=Caller(0, (0,), 0, False)) == b"theirs"
        await refused(errno.EEXIST, ask(b"f", RW | os.O_EXCL))
        await mount.mkdir(b"d")
        await mount.posix.mknod(ROOT, b"fifo", stat.S_IFIFO | 0o666, 0, 0, ROOT_CALLER)
        await mount.posix.symlink(ROOT, b"link", b"f", ROOT_CALLER)
        for name in (b"d", b"fifo", b"link"):  # none that this could open; the kernel can, once it knows
            await refused(errno.ESTALE, ask(name, who=Caller(0, (0,), 0, False)))
        assert not mount.posix.handles and not mount.client.meta.open_files

    async def test_truncating_opens_set_the_times_of_empty_files_too(self, mount: Mount) -> None:
        ino = await stored(mount, b"f", b"")
        before = await mount.attr(ino)
        fh, _ = await mount.posix.open(ino, RW | os.O_TRUNC)
        after = await mount.attr(ino)
        assert after.mtime_ns > before.mtime_ns and after.ctime_ns > before.ctime_ns
        await close(mount, fh, ino)

    async def test_a_number_of_an_earlier_process_is_opened_again(self, mount: Mount) -> None:
        ino = await stored(mount, b"f", b"abc")
        assert await read(mount, 4711, ino) == b"abc"
        assert await write(mount, 4711, ino, 3, b"def") == 3
        await close(mount, 4711, ino)
        assert await content(mount, ino) == b"abcdef"
        await refused(errno.EBADF, mount.posix.read(4712, 0, RW, 0, 1))

    async def test_pages_are_kept_while_nobody_else_changed_the_file(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount, data=b"one")
        await close(mount, fh, ino)
        fh, keep = await mount.posix.open(ino, RW)
        assert keep, "only we wrote"
        await write(mount, fh, ino, 3, b"two")
        await close(mount, fh, ino)
        fh, keep = await mount.posix.open(ino, os.O_RDONLY)
        assert keep
        await close(mount, fh, ino)
        fh, _ = await other.posix.open(ino, RW)
        await write(other, fh, ino, 0, b"ONE")
        await close(other, fh, ino)
        fh, keep = await mount.posix.open(ino, os.O_RDONLY)
        assert not keep
        assert await read(mount, fh, ino) == b"ONEtwo"
        await close(mount, fh, ino)

    async def test_an_open_takes_back_what_was_told_of_an_older_file(self, mount: Mount, more: Any) -> None:
        other, told = await more(), []

        async def invalidate(ino: int, content: bool) -> None:
            told.append((ino, content))

        mount.client.vfs.invalidate = invalidate
        ino = await stored(other, b"f", b"short")
        await mount.find(b"f")
        fh, _ = await other.posix.open(ino, RW)
        await write(other, fh, ino, 5, b" and long")
        await close(other, fh, ino)
        fh, _ = await mount.posix.open(ino, os.O_RDONLY)
        assert told == [(ino, False)]
        assert await read(mount, fh, ino) == b"short and long"
        await close(mount, fh, ino)
        fh, _ = await mount.posix.open(ino, os.O_RDONLY)
        await close(mount, fh, ino)
        fh, _ = await mount.posix.open(ino, RW)
        await write(mount, fh, ino, 0, b"S")
        await close(mount, fh, ino)
        fh, _ = await mount.posix.open(ino, os.O_RDONLY)
        assert len(told) == 1, "not for our own change"
        await close(mount, fh, ino)


class TestCosts(PosixSuite):
    async def test_what_need_not_wait_is_answered_at_once(self, mount: Mount) -> None:
        ino, fh = await create(mount)
        posix: Files = mount.posix
        assert posix.write_nowait(fh, ino, RW, 0, memoryview(noise(4096)), 1) == 4096
        assert posix.write_nowait(fh, ino, RW, 4096, memoryview(noise(4096)), 2) == 4096
        assert posix.read_nowait(fh, ino, RW, 0, 100) is None, "not recorded yet"
        assert not posix.flush_nowait(fh, ino, 1)
        await posix.flush(fh, ino, 1)
        assert posix.flush_nowait(fh, ino, 1)
        assert await read(mount, fh, ino, 0, 100) == noise(4096)[:100]
        found = posix.read_nowait(fh, ino, RW, 50, 100)
        assert found is not None and bytes(found) == noise(4096)[50:150]
        assert posix.read_nowait(fh, ino, RW, 1 << 30, 100) == b""
        assert posix.release_nowait(fh, ino, 0, False)
        assert not posix.handles

    async def test_a_new_small_file_costs_two_commits_and_one_object(self, mount: Mount) -> None:
        await stored(mount, b"warm", b"up")
        puts = mount.client.slices.objects.calls["put"]  # type: ignore[attr-defined]
        with mount.client.meta.store.round_trips() as trips:
            ino, fh = await create(mount, b"g", data=noise(4096))
            await close(mount, fh, ino)
        assert mount.client.slices.objects.calls["put"] == puts + 1  # type: ignore[attr-defined]
        assert trips.count <= (4 if mount.client.meta.store.recent is None else 2)

    async def test_reads_beside_what_is_buffered_leave_it_alone(self, mount: Mount) -> None:
        ino, fh = await create(mount, data=noise(20_000))
        await mount.posix.flush(fh, ino, 1)
        await write(mount, fh, ino, 10_000, b"changed")
        assert await read(mount, fh, ino, 0, 5000) == noise(20_000)[:5000]
        file = mount.client.vfs.file(ino)
        assert file is not None and file.writer is not None and file.writer.pending == 1
        assert (await read(mount, fh, ino, 9_999, 9))[1:8] == b"changed"
        assert not file.writer.pending
        await close(mount, fh, ino)


class TestErrors(PosixSuite):
    async def test_a_lost_write_is_told_once_to_each_descriptor(self, mount: Mount) -> None:
        ino, fh = await create(mount)
        other, _ = await mount.posix.open(ino, RW)
        objects: Any = mount.client.slices.objects
        objects.fail["put"] = lambda n: OSError(errno.EIO, "no")
        await write(mount, fh, ino, 0, b"lost")
        await refused(errno.EIO, mount.posix.fsync(fh, ino))
        await mount.posix.fsync(fh, ino)
        await refused(errno.EIO, mount.posix.flush(other, ino, 1))
        await mount.posix.flush(other, ino, 1)
        objects.fail.clear()
        for handle in (fh, other):
            await mount.posix.release(handle, ino, 0, False)

    async def test_a_full_volume_is_told_early_and_forgotten_when_there_is_room(self, mount: Mount) -> None:
        ino, fh = await create(mount, data=b"x" * 8192)
        mount.client.meta.capacity = 1
        await refused(errno.ENOSPC, mount.posix.write(fh, ino, RW, 8192, memoryview(b"y" * 8192), 0))
        await refused(errno.ENOSPC, mount.posix.flush(fh, ino, 1))
        mount.client.meta.capacity = 0
        assert await write(mount, fh, ino, 0, b"again") == 5
        await close(mount, fh, ino)
        assert await content(mount, ino) == b"again"  # the lost bytes were told


class TestNameless(PosixSuite):
    async def test_a_file_without_a_name_can_get_one(self, mount: Mount, more: Any) -> None:
        other = await more()
        node, fh = await mount.posix.tmpfile(ROOT, RW, 0o600, 0)
        assert node.attr.nlink == 0
        await write(mount, fh, node.ino, 0, b"text")
        await mount.posix.link(node.ino, ROOT, b"named", ROOT_CALLER)
        await close(mount, fh, node.ino)
        found = await other.find(b"named")
        assert (found.ino, found.attr.nlink) == (node.ino, 1)
        assert await content(other, node.ino) == b"text"
        await other.posix.unlink(ROOT, b"named", ROOT_CALLER)

    async def test_without_one_it_goes_with_its_last_handle(self, mount: Mount) -> None:
        node, fh = await mount.posix.tmpfile(ROOT, RW, 0o600, 0)
        await write(mount, fh, node.ino, 0, noise(5000))
        await close(mount, fh, node.ino)
        await mount.client.idle()
        await refused(errno.ENOENT, mount.posix.getattr(node.ino))
        assert not mount.client.slices.objects.objects  # type: ignore[attr-defined]

    async def test_or_with_its_client(self, mount: Mount, more: Any) -> None:
        other = await more()
        node, fh = await mount.posix.tmpfile(ROOT, RW, 0o600, 0)
        await write(mount, fh, node.ino, 0, b"x")
        await mount.posix.fsync(fh, node.ino)
        await other.client.meta.clean_session(mount.client.meta.sid)
        await other.client.idle()
        await refused(errno.ENOENT, other.posix.getattr(node.ino))
        mount.client.meta.sustained.clear()
        await mount.posix.release(fh, node.ino, 0, False)

    async def test_a_removed_file_is_read_and_written_until_it_is_closed(self, mount: Mount) -> None:
        ino, fh = await create(mount, data=b"abc")
        await mount.posix.unlink(ROOT, b"f", ROOT_CALLER)
        await write(mount, fh, ino, 3, b"def")
        assert await read(mount, fh, ino) == b"abcdef"
        assert (await mount.posix.getattr(ino)).attr.nlink == 0
        await close(mount, fh, ino)
        await refused(errno.ENOENT, mount.posix.getattr(ino))


class TestHoles(PosixSuite):
    async def test_seek_finds_data_and_holes(self, mount: Mount) -> None:
        ino, fh = await create(mount)
        far = 2 * CHUNK_SIZE + 5 * BLOCK
        await write(mount, fh, ino, BLOCK, b"a" * BLOCK)
        await write(mount, fh, ino, far, b"b" * 100)
        seek = mount.posix.seek
        assert [await seek(fh, ino, at, DATA) for at in (0, BLOCK + 7, 2 * BLOCK)] == [BLOCK, BLOCK + 7, far]
        assert [await seek(fh, ino, at, HOLE) for at in (0, BLOCK, far)] == [0, 2 * BLOCK, far + 100]
        for whence in (DATA, HOLE):
            await refused(errno.ENXIO, seek(fh, ino, far + 100, whence))
        await mount.posix.allocate(fh, ino, 3, BLOCK, 4096)
        assert await seek(fh, ino, 0, DATA) == BLOCK + 4096
        await mount.posix.allocate(fh, ino, 3, far, 100)
        await refused(errno.ENXIO, seek(fh, ino, 2 * BLOCK, DATA))
        assert await seek(fh, ino, 2 * BLOCK, HOLE) == 2 * BLOCK
        await refused(errno.EINVAL, seek(fh, ino, 0, os.SEEK_END))
        await close(mount, fh, ino)

    async def test_written_zeros_are_data(self, mount: Mount) -> None:
        ino, fh = await create(mount, data=bytes(8192))
        assert await mount.posix.seek(fh, ino, 0, DATA) == 0
        assert await mount.posix.seek(fh, ino, 0, HOLE) == 8192
        await close(mount, fh, ino)

    async def test_blocks_are_those_of_the_data(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount)
        await write(mount, fh, ino, 4 << 20, b"x" * 4096)
        await mount.posix.fsync(fh, ino)
        assert (await mount.posix.getattr(ino)).blocks == 8
        await close(mount, fh, ino)
        for at in (mount, other):
            found = await at.find(b"f")
            if found.blocks != 8:
                assert not at.posix.is_settled(found), "a guess must not be remembered"
            assert (await at.posix.getattr(ino)).blocks == 8
            assert at.posix.is_settled(await at.find(b"f"))
        dense = await stored(mount, b"dense", noise(3 << 20))
        assert (await mount.find(b"dense")).blocks == 3 << 11
        assert mount.posix.is_settled(await mount.find(b"dense"))
        assert (await other.posix.getattr(dense)).blocks == 3 << 11


class TestRanges(PosixSuite):
    async def test_fallocate_does_what_slices_can_say(self, mount: Mount) -> None:
        ino, fh = await create(mount, data=b"x" * 100)
        await mount.posix.allocate(fh, ino, 0, 0, 200)
        await mount.posix.allocate(fh, ino, 1, 0, 10_000)
        await mount.posix.allocate(fh, ino, 0x10, 10, 10)
        assert await read(mount, fh, ino) == b"x" * 10 + bytes(10) + b"x" * 80 + bytes(100)
        for mode in (0x08, 0x20, 0x40):
            await refused(errno.EOPNOTSUPP, mount.posix.allocate(fh, ino, mode, 0, 4096))
        await refused(errno.EINVAL, mount.posix.allocate(fh, ino, 0, 0, 0))
        await close(mount, fh, ino)

    async def test_copies_see_what_is_buffered_on_both_sides(self, mount: Mount) -> None:
        a, fa = await create(mount, b"a", data=b"0123456789")
        b, fb = await create(mount, b"b", data=b"abcdefghij")
        assert await mount.posix.copy_range(fa, a, 2, fb, b, 4, 100) == 8
        assert await read(mount, fb, b) == b"abcd23456789"
        assert await mount.posix.copy_range(fa, a, 0, fa, a, 10, 5) == 5
        assert await read(mount, fa, a) == b"012345678901234"
        await refused(errno.EINVAL, mount.posix.copy_range(fa, a, 0, fa, a, 2, 5))
        await refused(errno.EINVAL, mount.posix.copy_range(fa, a, 0, fb, b, 0, 5, 1))
        assert await mount.posix.copy_range(fa, a, 1000, fb, b, 0, 5) == 0
        for fh, ino in ((fa, a), (fb, b)):
            await close(mount, fh, ino)

    async def test_a_direct_read_at_the_end_looks_for_more(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino = await stored(mount, b"f", b"abc")
        fh, _ = await mount.posix.open(ino, os.O_RDONLY | os.O_DIRECT)
        fo, _ = await other.posix.open(ino, RW)
        await write(other, fo, ino, 3, b"def")
        await close(other, fo, ino)
        assert await read(mount, fh, ino, 0, 100, os.O_RDONLY) == b"abc"
        assert await read(mount, fh, ino, 0, 100, os.O_RDONLY | os.O_DIRECT) == b"abcdef"
        await close(mount, fh, ino)
        await settle()
