# SPDX-License-Identifier: Apache-2.0
"""The kernel forgets pages of a file before it hears that somebody else has changed it.

Told of a greater length first, it would show its readers what its last page has behind the old end: zeros that nobody
wrote. So whoever is about to answer with such attributes waits here. The kernel waits in turn for reads of those pages
that are under way, which the loop answers meanwhile; hence a thread. Nothing that holds pages or a folder's lock waits
for it (reads and writes don't), but a bound keeps a mistake from becoming a hang.
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

from gateways.fuse.server import FuseServer
from gateways.fuse.wire.constants import Notify

log = logging.getLogger("sluice.fuse")

THREADS: Final = 4
#: After this the answer goes out all the same; the pages still go.
PATIENCE_S: Final = 2.0
_MESSAGE: Final = struct.Struct("=IiQQqq")
#: The kernel doesn't know the inode, or the mount is gone.
_USUAL: Final = (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.EBADF)


class PageInvalidator:
    """For `VFS.invalidate`: `vfs.invalidate = PageInvalidator(server)`."""

    def __init__(self, server: FuseServer) -> None:
        self._server = server
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="fuse-invalidate")

    async def __call__(self, ino: int) -> None:
        fd = self._server.fd
        if fd < 0:
            return
        message = _MESSAGE.pack(_MESSAGE.size, Notify.INVAL_INODE, 0, ino, 0, 0)
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
