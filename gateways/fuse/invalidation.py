# SPDX-License-Identifier: Apache-2.0
"""The kernel forgets attributes and pages of a file that turned out to be old.

The notice is carried out while it is written, and may wait for reads of those pages that are under way, which the loop
answers meanwhile; hence threads. The one who noticed (an open, a lock) waits here before it answers; it holds no pages,
and a bound keeps a mistake from becoming a hang.

Not done before a getattr or lookup is answered: the kernel throws away sizes of answers to requests that are older than
such a notice, although stat(2) has shown them already, and drops pages by itself when size or mtime are new.
Source: the kernel's public protocol header (linux/fuse.h), FUSE_NOTIFY_INVAL_INODE.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from gateways.fuse.api import Buffer
from gateways.fuse.server import FuseServer
from gateways.fuse.wire.constants import Notify

log = logging.getLogger("sluice.fuse")

THREADS: Final = 4
#: After this the answer goes out all the same; the pages still go.
PATIENCE_S: Final = 2.0
_MESSAGE: Final = struct.Struct("=IiQQqq")
_STORE: Final = struct.Struct("=IiQQQII")
#: The kernel doesn't know the inode, or the mount is gone.
_USUAL: Final = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.EBADF)


class PageInvalidator:
    """For `VFS.invalidate`: `vfs.invalidate = PageInvalidator(server)`."""

    def __init__(self, server: FuseServer) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fuse-invalidate")

    async def __call__(self, ino: int, content: bool = True) -> None:
        fd = self._server.fd
        if fd < 0:
            return
        await self._write(fd, ino, _MESSAGE.pack(_MESSAGE.size, Notify.INVAL_INODE, 0, ino, 0 if content else -1, 0))

    async def push(self, ino: int, offset: int, data: Buffer) -> None:
        """For `VFS.push`: the kernel's pages have these bytes, and a file that was shorter ends behind them."""
        fd = self._server.fd
        if fd >= 0:
            head = _STORE.pack(_STORE.size + len(data), Notify.STORE, 0, ino, offset, len(data), 0)
            await self._write(fd, ino, head + bytes(data))

    async def _write(self, fd: int, ino: int, message: bytes) -> None:
        done = asyncio.get_running_loop().run_in_executor(self._threads, _write, fd, message)
        try:
            await asyncio.wait_for(asyncio.shield(done), PATIENCE_S)
        except TimeoutError:
            log.warning("inode %d: the kernel takes more than %g s to forget its pages", ino, PATIENCE_S)

    def close(self) -> None:
        self._threads.shutdown(wait=False)


def _write(fd: int, message: bytes) -> None:
    try:
        os.write(fd, message)
    except OSError as e:
        if e.errno not in _USUAL:
            raise
