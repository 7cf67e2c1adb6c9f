# SPDX-License-Identifier: Apache-2.0
"""What we tell the kernel unasked: forget these pages, look that name up again, hand out unanswered requests again.

The kernel carries a notice out while we write it, and waits for locks that requests in flight hold: of a folder, during
a create or rename in it; of pages, during a read. Such requests end when we answer them, so a notice written by the
loop could wait for the loop. Threads of this module write them. The methods return at once; a handler must not wait for
`settled` either.
Source: the kernel's public protocol header (linux/fuse.h).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import struct
import threading
from collections.abc import Iterable
from typing import Final

from gateways.fuse.api import Buffer
from gateways.fuse.session import Negotiated
from gateways.fuse.wire.constants import EXPIRE_ONLY, Init, Notify

log = logging.getLogger("sluice.fuse")

#: Notices that wait for different locks should not wait for each other.
THREADS: Final = 2
#: Notices that may wait. When the kernel is that slow, single ones aren't worth it any more; caches expire anyway.
MOST_WAITING: Final = 100_000
CLOSE_TIMEOUT_S: Final = 2.0

_OUT: Final = struct.Struct("=IiQ")
_INODE: Final = struct.Struct("=Qqq")
_ENTRY: Final = struct.Struct("=QII")
_DELETE: Final = struct.Struct("=QQII")
_STORE: Final = struct.Struct("=QQII")
_PRUNE: Final = struct.Struct("=II8x")
_POLL: Final = struct.Struct("=Q")

#: The kernel doesn't know the inode or name, or can't drop it now; or the mount is gone.
_USUAL: Final = frozenset(
    (errno.ENOENT, errno.ENOTDIR, errno.EBUSY, errno.ENOTEMPTY, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED)
)


class Notifier:
    """sent, dropped, failed: how many notices."""

    def __init__(self, fd: int, negotiated: Negotiated) -> None:
        self._fd = fd
        self._negotiated = negotiated
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting: set[bytes] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.sent = 0
        self.dropped = 0
        self.failed = 0

    # -- notices ---------------------------------------------------------------------------------------------------

    def inval_inode(self, ino: int, offset: int = 0, length: int = 0) -> None:
        """Attributes, and the pages of a range, are not what the kernel remembers. length 0: up to the end; offset -1:
        attributes only."""
        self._put(Notify.INVAL_INODE, _INODE.pack(ino, offset, length))

    def inval_entry(self, parent: int, name: bytes, *, expire_only: bool = False) -> None:
        """The kernel has to look this name up again. expire_only: what is open below it stays as it is (7.38; on older
        kernels the name goes)."""
        flags = EXPIRE_ONLY if expire_only and self._negotiated.has(Init.HAS_EXPIRE_ONLY) else 0
        self._put(Notify.INVAL_ENTRY, _ENTRY.pack(parent, len(name), flags) + name + b"\0")

    def delete(self, parent: int, ino: int, name: bytes) -> None:
        """Somebody else removed this name: watchers (inotify) hear of it."""
        self._put(Notify.DELETE, _DELETE.pack(parent, ino, len(name), 0) + name + b"\0")

    def store(self, ino: int, offset: int, data: Buffer) -> None:
        """Put bytes into the kernel's page cache. Longer data is cut into pieces that the kernel takes."""
        view = memoryview(data).cast("B")
        step = self._negotiated.max_write
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            self._put(Notify.STORE, _STORE.pack(ino, offset + start, len(piece), 0) + bytes(piece))

    def poll_wakeup(self, kh: int) -> None:
        self._put(Notify.POLL, _POLL.pack(kh))

    def inc_epoch(self) -> bool:
        """All names have to be looked up again. False: the kernel can't (before 7.44)."""
        if self._negotiated.minor < 44:
            return False
        self._put(Notify.INC_EPOCH, b"")
        return True

    def prune(self, inodes: Iterable[int]) -> bool:
        """Forget inodes that nobody uses, to save memory on both sides. False: the kernel can't (before 7.45)."""
        if self._negotiated.minor < 45:
            return False
        found = list(inodes)
        step = self._negotiated.max_write // 8
        for start in range(0, len(found), step):
            piece = found[start : start + step]
            self._put(Notify.PRUNE, _PRUNE.pack(len(piece), 0) + struct.pack(f"={len(piece)}Q", *piece))
        return True

    def resend(self) -> bool:
        """Every request that was handed out and not answered comes again, marked (7.40). Only for a server that has
        just taken over and runs none of them. It takes no lock, so it is written at once. False: the kernel can't."""
        if not self._negotiated.has(Init.HAS_RESEND):
            return False
        try:
            os.write(self._fd, _message(Notify.RESEND, b""))
        except OSError as e:
            log.warning("the kernel refused to hand out requests again: %s", e.strerror)
            return False
        self.sent += 1
        return True

    # -- sending ---------------------------------------------------------------------------------------------------

    def _put(self, code: int, body: bytes) -> None:
        message = _message(code, body)
        # A notice that waits already says the same. (One that is being written doesn't: it may be past the change.)
        if self._closed or message in self._waiting:
            return
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.add(message)
        self._queue.put(message)
        if len(self._threads) < THREADS:
            thread = threading.Thread(target=self._work, name="fuse-notify", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            # Before writing: what is put from now on must be written again.
            self._waiting.discard(message)
            try:
                os.write(self._fd, message)
                self.sent += 1
            except OSError as e:
                if e.errno not in _USUAL:
                    self.failed += 1
                    if self.failed & (self.failed - 1) == 0:
                        log.warning(
                            "notice %d was refused by the kernel: %s", -_OUT.unpack_from(message)[1], e.strerror
                        )

    async def settled(self) -> None:
        """Until what was put before has been carried out; for tests and for work outside of requests."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            await asyncio.to_thread(thread.join)

    async def close(self) -> None:
        """Send no more. A thread that the kernel holds ends with the mount."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join, CLOSE_TIMEOUT_S)


def _message(code: int, body: bytes) -> bytes:
    # A notice has id 0 and its code where answers have the error.
    return _OUT.pack(_OUT.size + len(body), code, 0) + body
