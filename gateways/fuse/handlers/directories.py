# SPDX-License-Identifier: Apache-2.0
"""Kernel requests on open directories. Source: linux/fuse.h; what is listed is decided in
`core.vfs.posix.directories`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from core.errors import FsError
from core.vfs.posix.directories import Listed
from gateways.fuse.api import Answer, Buffer, Call
from gateways.fuse.handlers.translate import BLOCK_SIZE, MODES, Translate, stale
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import FOPEN_CACHE_DIR, FOPEN_KEEP_CACHE

_DT_DIR: Final = 4


class DirectoryHandlers(Translate):
    """Mixin of `PosixOperations`."""

    def opendir(self, call: Call, flags: int) -> Answer:
        fh = self.posix.opendir_nowait(call.nodeid, flags)
        return self._opened(fh) if fh is not None else self._opendir(call, flags)

    async def _opendir(self, call: Call, flags: int) -> Buffer:
        try:
            return self._opened(await self.posix.opendir(call.nodeid, flags, self.caller(call)))
        except FsError as e:
            raise stale(e) from e

    def _opened(self, fh: int) -> bytes:
        return replies.opened(fh, FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE if self.readdir_cache else 0)

    def readdir(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        found = self.posix.readdir_nowait(fh, offset, False)
        return _names(found, size) if found is not None else self._readdir(call, fh, offset, size)

    async def _readdir(self, call: Call, fh: int, offset: int, size: int) -> Buffer:
        return _names(await self.posix.readdir(fh, call.nodeid, offset, False), size)

    def readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        found = self.posix.readdir_nowait(fh, offset, True)
        return self._nodes(found, fh, size) if found is not None else self._readdirplus(call, fh, offset, size)

    async def _readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Buffer:
        return self._nodes(await self.posix.readdir(fh, call.nodeid, offset, True), fh, size)

    def _nodes(self, found: Iterator[Listed], fh: int, size: int) -> bytes:
        # What was read ahead is believed for the rest of its time only; steps, so that few different values occur.
        age = -(-self.posix.listing_age_s(fh) // 0.05) * 0.05
        ttl = self.ttl
        attr_ttl = max(0.0, ttl.attr - age)
        file_ttl, dir_ttl = max(0.0, ttl.entry - age), max(0.0, ttl.dir_entry - age)
        out = replies.DirBuffer(size)
        none, settled, add = True, self.posix.is_settled, out.add_node
        for name, ino, kind, next_offset, node in found:
            if node is None:
                fits = out.add_plus(replies.NO_ENTRY, ino, next_offset, kind, name)
            else:
                _, a, blocks = node
                fits = add(
                    ino, a, MODES[a.type] | a.mode, blocks, dir_ttl if kind == _DT_DIR else file_ttl,
                    attr_ttl if settled(node) else 0.0, next_offset, kind, name, BLOCK_SIZE,
                )  # fmt: skip
            if not fits:
                if none:
                    raise FsError(errno.EINVAL, f"a listing with room for {size} bytes has none for one entry")
                break
            none = False
        return out.bytes()

    def releasedir(self, call: Call, fh: int, flags: int) -> Answer:
        self.posix.releasedir(fh)
        return b""

    def fsyncdir(self, call: Call, fh: int, datasync: bool) -> Answer:
        return b""  # what was answered is in the database


def _names(found: Iterator[Listed], size: int) -> bytes:
    out = replies.DirBuffer(size)
    none = True
    for name, ino, kind, next_offset, _ in found:
        if not out.add(ino, next_offset, kind, name):
            if none:
                raise FsError(errno.EINVAL, f"a listing with room for {size} bytes has none for one entry")
            break
        none = False
    return out.bytes()
