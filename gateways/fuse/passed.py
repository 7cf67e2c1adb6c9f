# SPDX-License-Identifier: Apache-2.0
"""Which inodes the kernel reads by itself, and everything that keeps what it reads right.

What the kernel demands, and what follows (filesystems/fuse-passthrough, fuse-io; tried on 6.18):
- Ordinary and passthrough descriptors of one inode exclude each other: the open fails with EIO, a direct one as well
  unless it names the same backing file. So from the first passthrough descriptor of an inode to the last, all are:
  readers read the copy, writers are direct, so that every write comes to us.
- A descriptor reads its backing file for ever, and a mapping outlives the descriptor without a word to us. So the copy
  is brought up to date with every change until nobody has it open: ours before they are answered, others' before the
  kernel hears of them. What a writer stores through a mapping is found by comparing, when it flushes, syncs or closes,
  and once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from core.errors import FsError
from core.meta.records import CHUNK_SIZE
from core.meta.slices import pieces_for
from core.vfs.handles import Handle, OpenFile
from gateways.fuse.backing import Mirror, Place, close_backing, open_backing
from gateways.fuse.wire.constants import FOPEN_DIRECT_IO, FOPEN_PASSTHROUGH

log = logging.getLogger("sluice.fuse")

#: Shorter files are read by one or two requests; the calls of a passthrough open cost as much.
MIN_LENGTH: Final = 64 << 10
#: Copies that nobody has open are kept for the next open.
KEPT_BYTES: Final = 256 << 20
#: Others' changes are looked for this often, seldomer in files that haven't changed for long.
LOOK_S: Final = 1.0
LOOK_MAX_S: Final = 30.0

_OFF: Final = (errno.EPERM, errno.ENOTTY, errno.ELOOP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Passed:
    """One inode that the kernel reads by itself, or will as soon as `ready` says so."""

    def __init__(self, mirror: Mirror, number: int = 0) -> None:
        self.mirror = mirror
        self.number = number  # of the backing file
        self.users: set[int] = set()
        self.writers: set[int] = set()
        self.stores = False  # somebody may have mapped it for writing
        self.held: Handle | None = None  # ours, while there are only mappings, or descriptors of an earlier process
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.told = (-1, 0, 0)  # length and mtime that the copy is known to go with
        self.look_s = 0.0


class PassedFiles:
    """posix: whose `vfs`, `handles` and `keeper` are used. device: descriptor of /dev/fuse. folder: see `Place`."""

    def __init__(self, posix: Any, device: int, folder: str | None = None) -> None:
        self.on = True
        self._posix = posix
        self._device = device
        self._place = Place(folder)
        self._table: dict[int, Passed] = {}
        self._kept: OrderedDict[int, Mirror] = OrderedDict()
        self._kept_bytes = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="sluice-passthrough")
        self._ticker: asyncio.Task[None] | None = None

    def __contains__(self, ino: int) -> bool:
        return ino in self._table

    def __len__(self) -> int:
        return len(self._table)

    def reads_copy(self, ino: int) -> Mirror | None:
        """What a direct descriptor reads, too: stores through mappings are there first."""
        passed = self._table.get(ino)
        return passed.mirror if passed is not None and passed.stores else None

    # -- life -------------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """After an earlier process: go on with what it passed through."""
        users: dict[int, set[int]] = {}
        writers: dict[int, set[int]] = {}
        for kept in self._posix.keeper.handles():
            if not kept.directory:
                users.setdefault(kept.ino, set()).add(kept.fh)
                if kept.flags & os.O_ACCMODE != os.O_RDONLY:
                    writers.setdefault(kept.ino, set()).add(kept.fh)
        for ino, number, fd, shadow in self._place.left():
            mirror = Mirror(fd, self._posix.vfs.slices, self._threads, shadow)
            if ino not in users and shadow is None and not mirror.busy():
                self._drop(mirror, number)
                continue
            stores = shadow is not None or ino in writers
            passed = self._table[ino] = Passed(mirror, number)
            passed.users, passed.writers = users.get(ino, set()), writers.get(ino, set())
            passed.stores = stores
            passed.ready.set_result(True)
            try:
                await self._file(ino, passed)
            except FsError as e:
                if e.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                if not passed.users:  # removed, and only a mapping was left of it
                    del self._table[ino]
                    self._drop(mirror, number)
                continue
            try:
                await self.collect(ino)  # the copy may be the only place where they are
            except OSError as e:
                log.warning("inode %d: what was stored through mappings is not in the volume yet: %s", ino, e.strerror)
            await self.update(ino)
            if stores:
                await mirror.watch(self._place)
        self._watch()

    def start_afresh(self) -> None:
        """A new mount: what lies in the folder belongs to nobody."""
        self._place.clear()

    async def finish(self) -> None:
        """The mount is over: what was stored until the last mapping went, and nobody has looked at since, is taken."""
        for ino in list(self._table):
            try:
                await self.collect(ino)
            except OSError as e:
                log.error("inode %d: what was stored through mappings at last is lost: %s", ino, e.strerror or e)
        self.close()

    def close(self) -> None:
        """Give the copies up. Descriptors that read them go on, for good or until a later process resumes."""
        self.on = False
        if self._ticker is not None:
            self._ticker.cancel()
        for mirror in self._kept.values():
            self._place.close(mirror.fd)
        for passed in self._table.values():
            self._place.close(passed.mirror.fd, keep=True)
            if passed.mirror.shadow is not None:
                self._place.close(passed.mirror.shadow, keep=True)
        self._kept.clear()
        self._table.clear()
        self._threads.shutdown(wait=False)

    # -- opening and closing ----------------------------------------------------------------------------------------

    async def opened(self, ino: int, fh: int, flags: int, how: int) -> tuple[int, int]:
        """Flags of the answer for a descriptor that was just opened, and the number of its backing file."""
        reads = flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
        passed = self._table.get(ino)
        if passed is None and reads and not how & FOPEN_DIRECT_IO:
            passed = self._begin(ino, fh)
            if passed is not None:
                await self._prepare(ino, passed)
        if passed is None or not await asyncio.shield(passed.ready) or self._table.get(ino) is not passed:
            return how, 0  # the last one: closed by everybody while we waited, so nobody reads the copy any more
        held, passed.held = passed.held, None
        passed.users.add(fh)
        if not reads:
            passed.writers.add(fh)
        if held is not None:
            await held.release()
        if not reads:
            if not passed.stores:
                try:
                    await passed.mirror.watch(self._place)
                except OSError:
                    await self.closing(ino, fh)
                    raise
                passed.stores = True
            if flags & os.O_TRUNC:
                await self.update(ino)
        direct = FOPEN_DIRECT_IO if how & FOPEN_DIRECT_IO or not reads else 0
        return FOPEN_PASSTHROUGH | direct, passed.number

    async def closing(self, ino: int, fh: int) -> None:
        """Before the handle of a descriptor is released."""
        passed = self._table.get(ino)
        if passed is None or fh not in passed.users:
            return
        # Looked at first: what was stored until the last mapping went is there when we collect.
        mapped = passed.mirror.busy()
        await self.collect(ino)
        if passed.users == {fh} and mapped:
            flags = os.O_RDWR if passed.stores else os.O_RDONLY
            with contextlib.suppress(OSError):
                await self._hold(ino, passed, flags)
        # From here on nothing waits: who closes or opens it at the same time finds all of this done, or nothing.
        passed.users.discard(fh)
        passed.writers.discard(fh)
        if passed.users:
            return
        if passed.held is not None and mapped:
            self._watch()
            return
        held, passed.held = passed.held, None
        self._end(ino, passed)
        if held is not None:
            await held.release()

    # -- changes ----------------------------------------------------------------------------------------------------

    async def update(self, ino: int) -> None:
        """The inode may have changed: the copy must, too."""
        passed = self._table.get(ino)
        if passed is None or not await asyncio.shield(passed.ready):
            return
        passed.told = (-1, 0, 0)
        try:
            await passed.mirror.update(await self._file(ino, passed))
        except OSError as e:
            # Readers keep what they had, as pages in memory would; the next change tries again. A file that another
            # client replaced or removed comes to this, too, when its blocks are gone.
            log.warning("inode %d: who reads it by passthrough sees what it was before: %s", ino, e.strerror or e)

    async def noticed(self, ino: int, length: int, mtime_s: int, mtime_ns: int) -> None:
        """The kernel is about to hear of these attributes: what it reads by itself must go with them."""
        passed = self._table.get(ino)
        if passed is not None and passed.told != (length, mtime_s, mtime_ns):
            await self.update(ino)
            passed.told = (length, mtime_s, mtime_ns)

    async def collect(self, ino: int) -> None:
        """Take over what was stored through mappings."""
        passed = self._table.get(ino)
        if passed is None or not passed.stores or not passed.ready.done():
            return
        found = await passed.mirror.stored()
        if not found:
            return
        handle = next((h for fh in passed.writers if isinstance(h := self._posix.handles.get(fh), Handle)), None)
        if handle is None:
            handle = await self._hold(ino, passed, os.O_RDWR)
        for offset, data in found:
            # Mapped bytes behind the end, which was here when they were stored, went with it.
            fitting = data[: max(0, handle.file.length - offset)]
            if fitting:
                await handle.file.for_writing().write(offset, fitting)
        await passed.mirror.taken(found)
        await handle.flush()
        await self.update(ino)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _begin(self, ino: int, fh: int) -> Passed | None:
        """May this descriptor, the inode's only one, be passed through? No await: nobody else may open it meanwhile."""
        handle = self._posix.handles.get(fh)
        if not self.on or not isinstance(handle, Handle) or len(handle.file.handles) != 1:
            return None
        file = handle.file
        if self._posix.meta.open_files.get(file.ino, 0) > 1:
            return None  # a process before us opened it, too, and nobody has used that descriptor since
        if file.writer is not None or not MIN_LENGTH <= file.length <= self._posix.vfs.slices.block_size:
            return None
        mirror = self._kept.pop(ino, None)
        if mirror is not None:
            self._kept_bytes -= mirror.length
        else:
            try:
                mirror = Mirror(self._place.new(), self._posix.vfs.slices, self._threads)
            except OSError as e:
                log.warning("passthrough is off: no files can be made in %s: %s", self._place.folder, e.strerror)
                self.on = False
                return None
        passed = self._table[ino] = Passed(mirror)
        passed.users.add(fh)
        return passed

    async def _file(self, ino: int, passed: Passed) -> OpenFile:
        """The inode's, which one of its descriptors or ours keeps open: those of an earlier process don't, until they
        are used."""
        for fh in passed.users:
            handle = self._posix.handles.get(fh)
            if isinstance(handle, Handle):
                return handle.file
        return (await self._hold(ino, passed, os.O_RDWR if passed.stores else os.O_RDONLY)).file

    async def _hold(self, ino: int, passed: Passed, flags: int) -> Handle:
        held = passed.held
        if held is not None and (held.writable or flags == os.O_RDONLY):
            return held
        handle: Handle = await self._posix.vfs.reopen(self._posix.real(ino), flags)
        held, passed.held = passed.held, handle
        if held is not None:
            await held.release()
        return handle

    async def _prepare(self, ino: int, passed: Passed) -> None:
        """Fill the copy and tell the kernel; `ready` says whether that went well."""
        try:
            file = await self._file(ino, passed)
            if await self._at_hand(file):
                await passed.mirror.update(file)
                passed.number = open_backing(self._device, passed.mirror.fd)
                self._place.used(passed.mirror.fd, ino, passed.number)
                passed.ready.set_result(True)
                self._watch()
        except FsError as e:
            log.debug("inode %d is not passed through: %s", ino, e)
        except OSError as e:
            if e.errno in _OFF and not passed.number:
                log.warning("passthrough is off: the kernel takes no file of %s: %s", self._place.folder, e.strerror)
                self.on = False
            else:
                log.warning("inode %d is not passed through: %s", ino, e.strerror)
        finally:
            if not passed.ready.done():
                passed.ready.set_result(False)
                self._end(ino, passed)

    async def _at_hand(self, file: OpenFile) -> bool:
        """Is every byte here, so that a copy costs no download?"""
        slices = self._posix.vfs.slices
        for piece in pieces_for(await file.state.records(0), 0, min(file.state.length, CHUNK_SIZE)):
            if not piece.id:
                continue
            n = min(piece.size, slices.block_size)
            here = slices.local_range(piece.id, piece.size, piece.off, piece.length) is not None
            here = here or (slices.cache is not None and piece.size == n and slices.cache.has((piece.id, 0, n)))
            if not here and slices.read_cached(piece.id, piece.size, piece.off, piece.length) is None:
                return False
        return True

    def _end(self, ino: int, passed: Passed) -> None:
        if self._table.get(ino) is passed:
            del self._table[ino]
        if passed.mirror.shadow is not None:
            self._place.close(passed.mirror.shadow)
            passed.mirror.shadow = None
        if passed.number:
            # The name first: no later process may believe in a number that the kernel doesn't know any more.
            self._place.idle(passed.mirror.fd)
            close_backing(self._device, passed.number)
        self._kept[ino] = passed.mirror
        self._kept_bytes += passed.mirror.length
        while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_BYTES // MIN_LENGTH:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.length
            self._place.close(oldest.fd)

    def _drop(self, mirror: Mirror, number: int) -> None:
        """Nobody needs this copy of an earlier process."""
        for fd in (mirror.shadow, mirror.fd):
            if fd is not None:
                self._place.close(fd)
        close_backing(self._device, number)

    def _watch(self) -> None:
        if self._table and (self._ticker is None or self._ticker.done()):
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        """Other clients' changes of what is read without asking us; mappings that are gone."""
        while self._table:
            await asyncio.sleep(LOOK_S)
            now = time.time()
            for ino, passed in list(self._table.items()):
                if not passed.ready.done():
                    continue
                try:
                    await self._look(ino, passed, now)
                except (FsError, OSError) as e:
                    log.debug("inode %d: %s", ino, e)

    async def _look(self, ino: int, passed: Passed, now: float) -> None:
        held = passed.held
        # Looked at first: what was stored until the last mapping went is there when we collect.
        over = held is not None and not passed.mirror.busy()
        await self.collect(ino)
        if over and held is not None and passed.held is held:
            passed.held = None
            if not passed.users:
                self._end(ino, passed)
            await held.release()
        elif passed.look_s <= now:
            attr = await self._posix.vfs.getattr(self._posix.real(ino))
            passed.look_s = now + min(max(LOOK_S, (now - attr.mtime_ns / 1e9) / 10), LOOK_MAX_S)
            await self.noticed(ino, attr.length, *divmod(attr.mtime_ns, 1_000_000_000))
