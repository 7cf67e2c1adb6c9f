# SPDX-License-Identifier: Apache-2.0
"""Locks of a mount: who holds them, what ends them, and what they make visible."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Any

from core.meta.caller import ROOT_CALLER
from tests.unit.chunk.doubles import settle
from tests.unit.vfs.posix.names_mount import ROOT, Mount, PosixSuite, refused
from tests.unit.vfs.posix.test_files import RW, close, create, read, write

READ, WRITE, UNLOCK = 0, 1, 2
END = 2**63 - 1


class TestLocks(PosixSuite):
    async def test_closing_any_descriptor_drops_the_locks_of_its_owner(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, first = await create(mount)
        second, _ = await mount.posix.open(ino, os.O_RDONLY)
        await mount.posix.setlk(first, ino, 7, 0, END, WRITE, 100, wait=False)
        far, _ = await other.posix.open(ino, RW)
        await refused(errno.EAGAIN, other.posix.setlk(far, ino, 7, 5, 9, READ, 1, wait=False))
        await close(mount, second, ino, owner=8)
        await refused(errno.EAGAIN, other.posix.setlk(far, ino, 7, 5, 9, READ, 1, wait=False))
        third, _ = await mount.posix.open(ino, os.O_RDONLY)
        await close(mount, third, ino, owner=7)
        await other.posix.setlk(far, ino, 7, 5, 9, READ, 1, wait=False)
        await close(other, far, ino, owner=7)
        await close(mount, first, ino, owner=7)
        assert not mount.posix.locked and not mount.posix.lockers

    async def test_locks_of_an_open_file_go_with_it(self, mount: Mount) -> None:
        """The kernel sends no unlock for them, and flushes with the owner of the process."""
        ino, fh = await create(mount)
        other, _ = await mount.posix.open(ino, RW)
        await mount.posix.setlk(fh, ino, 0xF11E, 0, END, WRITE, 0, wait=False)
        await mount.posix.flush(fh, ino, 1)
        await refused(errno.EAGAIN, mount.posix.setlk(other, ino, 0xF11F, 0, 0, READ, 0, wait=False))
        assert not mount.posix.release_nowait(fh, ino, 0, False)
        await mount.posix.release(fh, ino, 0, False)
        await mount.posix.setlk(other, ino, 0xF11F, 0, 0, READ, 0, wait=False)
        await mount.posix.release(other, ino, 0, False)
        assert not (await mount.client.meta.list_locks(ino)).plocks

    async def test_who_is_in_the_way(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount)
        await mount.posix.setlk(fh, ino, 7, 10, 19, WRITE, 1234, wait=False)
        assert await mount.posix.getlk(ino, 8, 0, END, READ) == (WRITE, 10, 19, 1234)
        assert await other.posix.getlk(ino, 8, 0, END, READ) == (WRITE, 10, 19, 0)
        assert (await mount.posix.getlk(ino, 8, 0, 9, WRITE))[0] == UNLOCK
        await refused(errno.EINVAL, mount.posix.getlk(ino, 8, 0, 9, 3))
        await close(mount, fh, ino, owner=7)

    async def test_waiting_ends_when_it_is_granted_or_cancelled(self, mount: Mount) -> None:
        ino, fh = await create(mount)
        await mount.posix.setlk(fh, ino, 1, 0, END, WRITE, 1, wait=False)
        one = asyncio.ensure_future(mount.posix.setlk(fh, ino, 2, 0, END, WRITE, 2, wait=True))
        two = asyncio.ensure_future(mount.posix.setlk(fh, ino, 3, 0, END, WRITE, 3, wait=True))
        await settle()
        two.cancel()
        await asyncio.gather(two, return_exceptions=True)
        assert not one.done()
        await mount.posix.setlk(fh, ino, 1, 0, END, UNLOCK, 1, wait=False)
        await one
        assert (await mount.posix.getlk(ino, 9, 0, 0, WRITE))[3] == 2
        await mount.posix.release(fh, ino, 0, False)
        assert not (await mount.client.meta.list_locks(ino)).plocks

    async def test_flock_goes_with_the_handle(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount)
        await mount.posix.flock(ino, 5, WRITE, wait=False)
        await refused(errno.EAGAIN, other.posix.flock(ino, 5, READ, wait=False))
        await mount.posix.flock(ino, 5, READ, wait=False)
        await other.posix.flock(ino, 5, READ, wait=False)
        await other.posix.flock(ino, 5, UNLOCK, wait=False)
        await mount.posix.flush(fh, ino, 1)
        await refused(errno.EAGAIN, other.posix.flock(ino, 5, WRITE, wait=False))
        await mount.posix.release(fh, ino, 5, True)
        await other.posix.flock(ino, 5, WRITE, wait=False)
        await other.posix.flock(ino, 5, UNLOCK, wait=False)

    async def test_a_lock_shows_what_its_last_holder_wrote(self, mount: Mount, more: Any) -> None:
        other, told = await more(), []

        async def invalidate(ino: int, content: bool) -> None:
            told.append(content)

        other.client.vfs.invalidate = invalidate
        ino, fh = await create(mount, data=b"old")
        await mount.posix.fsync(fh, ino)
        far, _ = await other.posix.open(ino, RW)
        assert await read(other, far, ino) == b"old"
        await mount.posix.setlk(fh, ino, 1, 0, END, WRITE, 1, wait=False)
        await write(mount, fh, ino, 0, b"new")
        told.clear()
        waiting = asyncio.ensure_future(other.posix.setlk(far, ino, 1, 0, END, WRITE, 1, wait=True))
        await settle()
        await mount.posix.setlk(fh, ino, 1, 0, END, UNLOCK, 1, wait=False)
        await waiting
        assert told == [True]
        assert await read(other, far, ino) == b"new"
        await close(other, far, ino)
        await close(mount, fh, ino)

    async def test_special_files_and_readers_have_none(self, mount: Mount) -> None:
        ino, fh = await create(mount)
        mount.client.meta.sid, sid = 0, mount.client.meta.sid
        await refused(errno.ENOSYS, mount.posix.setlk(fh, ino, 1, 0, END, WRITE, 1, wait=False))
        mount.client.meta.sid = sid
        await close(mount, fh, ino)
        await mount.posix.unlink(ROOT, b"f", ROOT_CALLER)
