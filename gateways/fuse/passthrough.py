# SPDX-License-Identifier: Apache-2.0
"""Passthrough: the kernel reads files that lie in the cache by itself, without asking us for each page.

A mixin before the ordinary handlers; what isn't passed through costs one look into an empty table. An inode is passed
through while it is open for reading only, its bytes are one block that is at hand, and nobody on this mount has it open
otherwise. What the kernel demands, and what follows (filesystems/fuse-passthrough, fuse-io):

- Ordinary and passthrough descriptors of one inode exclude each other (open fails with EIO); direct ones are always
  possible. So who opens an inode for writing while it is passed through gets a direct descriptor.
- A descriptor reads its backing file for ever. So the backing file is a copy of its own (`backing.Mirror`), and every
  change, ours before it is answered, others' before the kernel hears of them, is brought into it.
- A mapping outlives the descriptor without a word to us. So the copy is kept up to date until nobody has it open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from core.errors import FsError
from core.meta.records import CHUNK_SIZE
from core.meta.slices import pieces_for
from core.vfs.handles import Handle, OpenFile
from gateways.fuse.api import Answer, Call, Reply, SetAttr
from gateways.fuse.backing import Backing, Mirror
from gateways.fuse.operations import Operations
from gateways.fuse.wire.constants import (
    FOPEN_DIRECT_IO,
    FOPEN_KEEP_CACHE,
    FOPEN_PARALLEL_DIRECT_WRITES,
    FOPEN_PASSTHROUGH,
)

log = logging.getLogger("sluice.fuse")

#: Shorter files are read by one or two requests; the two calls of a passthrough open cost as much.
MIN_LENGTH: Final = 64 << 10
#: Copies that nobody has open are kept for the next open.
KEPT_BYTES: Final = 256 << 20
#: Others' changes are looked for this often, seldomer in files that haven't changed for long.
LOOK_S: Final = 1.0
LOOK_MAX_S: Final = 30.0

_OPENED: Final = struct.Struct("=QIi")
_INO: Final = struct.Struct("=Q")
# fuse_entry_out: nodeid at 0, its fuse_attr at 40, whose size is at 8 and whose mtime (s, ns) at 32 and 52
_ENTRY_SIZE: Final = 128
_ATTR_IN_ENTRY: Final = 40
_ATTR_IN_ATTR: Final = 16
_ATTR_HEAD: Final = struct.Struct("=QQ16xq8x4xI")  # ino, size, mtime, its ns
_PLUS_NAMELEN: Final = struct.Struct("=I")
_DISABLING: Final = (errno.EPERM, errno.ENOTTY, errno.ELOOP, errno.EOPNOTSUPP, errno.ENOSYS)


class _Passed:
    """One inode that the kernel reads by itself, or will as soon as `ready` says so."""

    def __init__(self, mirror: Mirror, file: OpenFile) -> None:
        self.mirror = mirror
        self.file = file  # lives as long as a descriptor of ours is open
        self.backing: Backing | None = None
        self.users: set[int] = set()  # descriptors that read it
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.held: Handle | None = None  # ours, while only mappings are left
        self.told: tuple[int, int, int] = (-1, 0, 0)  # length and mtime that the copy is known to go with
        self.look_s = 0.0


class PassthroughHandlers(Operations):
    """Mixin. `attach` gives it the device; until then, and where the kernel or our rights say no, nothing happens."""

    posix: Any

    def attach(self, device: int, folder: str | None = None) -> None:
        """device: descriptor of /dev/fuse. folder: where copies go (unnamed files); best the cache directory."""
        self._device = device
        self._folder = folder

    _device = -1
    _folder: str | None = None
    _ticker: asyncio.Task[None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._passed: dict[int, _Passed] = {}
        self._kept: OrderedDict[int, Mirror] = OrderedDict()
        self._kept_bytes = 0
        self._stale_pages: set[int] = set()  # the kernel's pages may be older than writes of direct descriptors
        self._direct_only: dict[int, set[int]] = {}  # inode → descriptors of an earlier process, perhaps passed through
        self._copiers = ThreadPoolExecutor(2, thread_name_prefix="sluice-passthrough")

    def adopt_readers(self) -> None:
        """After a take-over: inodes that an earlier process may have passed through. Until those descriptors are
        closed, the kernel would refuse ordinary ones."""
        for kept in self.posix.keeper.handles():
            if not kept.directory and kept.flags & os.O_ACCMODE == os.O_RDONLY:
                self._direct_only.setdefault(kept.ino, set()).add(kept.fh)

    # -- opening and closing ----------------------------------------------------------------------------------------

    def open(self, call: Call, flags: int, open_flags: int) -> Answer:
        answer = super().open(call, flags, open_flags)
        if self._device < 0 or not (self._passed or self._direct_only or self._stale_pages or _only_reads(flags)):
            return answer
        return self._open(call.nodeid, flags, answer)

    def create(
        self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int
    ) -> Answer:  # fmt: skip
        answer = super().create(call, name, flags, mode, umask, open_flags)
        return self._create(flags, answer) if self._passed or self._direct_only else answer

    def release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Answer:
        ino = call.nodeid
        if ino in self._direct_only:
            self._direct_only[ino].discard(fh)
            if not self._direct_only[ino]:
                del self._direct_only[ino]
        passed = self._passed.get(ino)
        if passed is None or fh not in passed.users:
            return super().release(call, fh, flags, release_flags, lock_owner)
        return self._release(passed, call, fh, flags, release_flags, lock_owner)

    def destroy(self) -> None:
        self.detach()
        super().destroy()

    def detach(self) -> None:
        """Stop passing anything through, and close all copies. Open descriptors go on reading theirs."""
        self._device = -1
        if self._ticker is not None:
            self._ticker.cancel()
        for passed in self._passed.values():
            if passed.backing is not None:
                passed.backing.close()
            passed.mirror.close()
        for mirror in self._kept.values():
            mirror.close()
        self._passed.clear()
        self._kept.clear()
        self._copiers.shutdown(wait=False)

    # -- changes: the copy first, then the answer --------------------------------------------------------------------

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        answer = super().write(call, fh, offset, data, write_flags, lock_owner, flags)
        return self._changed(call.nodeid, answer) if call.nodeid in self._passed else answer

    def setattr(self, call: Call, change: SetAttr) -> Answer:
        answer = super().setattr(call, change)
        return self._changed(call.nodeid, answer) if call.nodeid in self._passed else answer

    def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Answer:
        answer = super().fallocate(call, fh, offset, length, mode)
        return self._changed(call.nodeid, answer) if call.nodeid in self._passed else answer

    def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Answer:  # fmt: skip
        answer = super().copy_file_range(call, fh_in, off_in, nodeid_out, fh_out, off_out, length, flags)
        return self._changed(nodeid_out, answer) if nodeid_out in self._passed else answer

    # -- what the kernel is told of other clients' changes -----------------------------------------------------------

    def getattr(self, call: Call, fh: int | None) -> Answer:
        answer = super().getattr(call, fh)
        return self._noticed(answer, _ATTR_IN_ATTR) if call.nodeid in self._passed else answer

    def lookup(self, call: Call, name: bytes) -> Answer:
        answer = super().lookup(call, name)
        return self._noticed(answer, _ATTR_IN_ENTRY) if self._passed else answer

    def readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        answer = super().readdirplus(call, fh, offset, size)
        return self._listed(answer) if self._passed else answer

    # -- helpers: opening -------------------------------------------------------------------------------------------

    async def _open(self, ino: int, flags: int, answer: Answer) -> Reply:
        reply = _joined(await _waited(answer))
        fh, how, backing_id = _OPENED.unpack(reply)
        how, backing_id = await self._mode(ino, fh, flags, how, backing_id)
        return _OPENED.pack(fh, how, backing_id)

    async def _create(self, flags: int, answer: Answer) -> Reply:
        reply = _joined(await _waited(answer))
        fh, how, backing_id = _OPENED.unpack_from(reply, _ENTRY_SIZE)
        (ino,) = _INO.unpack_from(reply)
        how, backing_id = await self._mode(ino, fh, flags, how, backing_id, new=False)
        return (reply[:_ENTRY_SIZE], _OPENED.pack(fh, how, backing_id))

    async def _mode(
        self, ino: int, fh: int, flags: int, how: int, backing_id: int, *, new: bool = True
    ) -> tuple[int, int]:
        """Flags of the answer for a descriptor that was just opened, and the number of its backing file."""
        direct = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES
        if ino in self._direct_only:
            return direct, 0
        passed = self._passed.get(ino)
        if passed is None and new and _only_reads(flags) and not how & FOPEN_DIRECT_IO:
            passed = self._begin(ino, fh)
            if passed is not None:
                try:
                    await self._prepare(ino, passed)
                except BaseException:
                    self._give_up(ino, passed)
                    raise
        reads = _only_reads(flags) and not how & FOPEN_DIRECT_IO
        if passed is not None and reads and await asyncio.shield(passed.ready):
            if passed.held is None or len(passed.file.handles) == 2:  # ours, for the mappings, and the new one
                assert passed.backing is not None
                passed.users.add(fh)
                await self._let_go(passed)
                return FOPEN_PASSTHROUGH, passed.backing.id
        elif passed is not None and passed.held is None:
            if not reads:
                self._stale_pages.add(ino)
            return direct, 0
        if ino in self._stale_pages and not how & FOPEN_DIRECT_IO:
            self._stale_pages.discard(ino)
            how &= ~FOPEN_KEEP_CACHE
        return how, backing_id

    def _begin(self, ino: int, fh: int) -> _Passed | None:
        """May this descriptor, the inode's only one, be passed through? No await: nobody else may open it meanwhile."""
        handle = self.posix.handles.get(fh)
        if not isinstance(handle, Handle) or len(handle.file.handles) != 1 or handle.file.writer is not None:
            return None
        length = handle.file.length
        if not MIN_LENGTH <= length <= self.posix.vfs.slices.block_size:
            return None
        mirror = self._kept.pop(ino, None)
        if mirror is None:
            try:
                mirror = Mirror(self.posix.vfs.slices, self._copiers, self._folder)
            except OSError as e:
                log.warning("no file for passthrough in %s: %s", self._folder, e.strerror)
                return None
        else:
            self._kept_bytes -= mirror.length
        passed = self._passed[ino] = _Passed(mirror, handle.file)
        return passed

    async def _prepare(self, ino: int, passed: _Passed) -> None:
        """Fill the copy and tell the kernel; `ready` says whether that went well."""
        if not await self._at_hand(passed.file):
            self._give_up(ino, passed)
            return
        try:
            await passed.mirror.update(passed.file)
            passed.backing = Backing(self._device, passed.mirror.fd)
        except FsError as e:
            log.debug("inode %d is not passed through: %s", ino, e)
        except OSError as e:
            if e.errno in _DISABLING:
                log.warning("passthrough is off: %s", e.strerror)
                self._device = -1
        if passed.backing is None:
            self._give_up(ino, passed)
            return
        passed.ready.set_result(True)
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    def _give_up(self, ino: int, passed: _Passed) -> None:
        if not passed.ready.done():
            passed.ready.set_result(False)
        if self._passed.get(ino) is passed:
            del self._passed[ino]
            self._keep(ino, passed.mirror)

    async def _at_hand(self, file: OpenFile) -> bool:
        """Is every byte here, so that a copy costs no download?"""
        slices = self.posix.vfs.slices
        for piece in pieces_for(await file.state.records(0), 0, min(file.state.length, CHUNK_SIZE)):
            if not piece.id:
                continue
            n = min(piece.size, slices.block_size)
            here = slices.local_range(piece.id, piece.size, piece.off, piece.length) is not None
            here = here or (slices.cache is not None and piece.size == n and slices.cache.has((piece.id, 0, n)))
            if not here and slices.read_cached(piece.id, piece.size, piece.off, piece.length) is None:
                return False
        return True

    # -- helpers: closing -------------------------------------------------------------------------------------------

    async def _release(
        self, passed: _Passed, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int
    ) -> Reply:  # fmt: skip
        ino = call.nodeid
        if passed.users == {fh} and passed.mirror.busy():
            with contextlib.suppress(OSError):
                passed.held = await self.posix.vfs.open(self.posix.real(ino))
        passed.users.discard(fh)
        if not passed.users and passed.held is None:
            self._end(ino, passed)
        return await _waited(super().release(call, fh, flags, release_flags, lock_owner))

    def _end(self, ino: int, passed: _Passed) -> None:
        if self._passed.get(ino) is passed:
            del self._passed[ino]
        if passed.backing is not None:
            passed.backing.close()
        self._keep(ino, passed.mirror)

    def _keep(self, ino: int, mirror: Mirror) -> None:
        old = self._kept.pop(ino, None)
        if old is not None:
            self._kept_bytes -= old.length
            old.close()
        self._kept[ino] = mirror
        self._kept_bytes += mirror.length
        while self._kept_bytes > KEPT_BYTES:
            _, last = self._kept.popitem(last=False)
            self._kept_bytes -= last.length
            last.close()

    async def _let_go(self, passed: _Passed) -> None:
        held, passed.held = passed.held, None
        if held is not None:
            await held.release()

    # -- helpers: changes -------------------------------------------------------------------------------------------

    async def _changed(self, ino: int, answer: Answer) -> Reply:
        reply = await _waited(answer)
        passed = self._passed.get(ino)
        if passed is not None:
            passed.told = (-1, 0, 0)
            await self._update(ino, passed)
        return reply

    async def _noticed(self, answer: Answer, at: int) -> Reply:
        reply = _joined(await _waited(answer))
        await self._compare(reply, at)
        return reply

    async def _listed(self, answer: Answer) -> Reply:
        reply = _joined(await _waited(answer))
        at = 0
        while at + _ENTRY_SIZE + 24 <= len(reply):
            await self._compare(reply, at + _ATTR_IN_ENTRY)
            (n,) = _PLUS_NAMELEN.unpack_from(reply, at + _ENTRY_SIZE + 16)
            at += _ENTRY_SIZE + 24 + (n + 7 & ~7)
        return reply

    async def _compare(self, reply: bytes, at: int) -> None:
        """The kernel is about to hear of these attributes: what it reads by itself must go with them."""
        if len(reply) < at + _ATTR_HEAD.size:
            return
        ino, *seen = _ATTR_HEAD.unpack_from(reply, at)
        passed = self._passed.get(ino)
        if passed is not None and passed.told != tuple(seen):
            await self._update(ino, passed)
            passed.told = (seen[0], seen[1], seen[2])

    async def _update(self, ino: int, passed: _Passed) -> None:
        if not await asyncio.shield(passed.ready):
            return
        try:
            await passed.mirror.update(passed.file)
        except FsError as e:
            # Its readers keep what they had, as pages in memory would; the next change tries again.
            log.error("inode %d: what its readers see by passthrough is old now: %s", ino, e)

    async def _tick(self) -> None:
        """Other clients' changes of what is read without asking us."""
        while self._passed:
            await asyncio.sleep(LOOK_S)
            now = time.time()
            for ino, passed in list(self._passed.items()):
                if passed.held is not None and not passed.users and not passed.mirror.busy():
                    self._end(ino, passed)
                    await self._let_go(passed)
                elif passed.look_s <= now and passed.ready.done():
                    try:
                        attr = await self.posix.vfs.getattr(self.posix.real(ino))
                    except FsError:
                        continue
                    age = now - attr.mtime_ns / 1e9
                    passed.look_s = now + min(max(LOOK_S, age / 10), LOOK_MAX_S)
                    await self._update(ino, passed)


def _only_reads(flags: int) -> bool:
    return flags & (os.O_ACCMODE | os.O_TRUNC | os.O_DIRECT) == os.O_RDONLY


async def _waited(answer: Answer) -> Reply:
    return await answer if isinstance(answer, Awaitable) else answer


def _joined(reply: Reply) -> bytes:
    if reply is None:
        return b""
    return bytes(reply) if isinstance(reply, bytes | bytearray | memoryview) else b"".join(reply)


__all__ = ["PassthroughHandlers"]
