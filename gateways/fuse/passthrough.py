# SPDX-License-Identifier: Apache-2.0
"""Passthrough: the kernel reads small files that are at hand by itself, without asking us for each page.

A mixin before the ordinary handlers. It only sees what they answer and tells `passed.PassedFiles`; what isn't passed
through costs a look into an empty table.
Source: the kernel's public protocol header (7.40), and its documentation (filesystems/fuse-passthrough).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Awaitable
from typing import Any, Final

from gateways.fuse.api import Answer, Call, Reply, SetAttr
from gateways.fuse.operations import Operations
from gateways.fuse.passed import PassedFiles

_OPENED: Final = struct.Struct("=QIi")
_INO: Final = struct.Struct("=Q")
# fuse_entry_out has the nodeid at 0 and its fuse_attr at 40, fuse_attr_out at 16
_ENTRY_SIZE: Final = 128
_IN_ENTRY: Final = 40
_IN_ATTR: Final = 16
_ATTR_HEAD: Final = struct.Struct("=QQ16xq8x4xI")  # ino, size, seconds of mtime, its ns
_DIRENT_NAMELEN: Final = struct.Struct("=I")


class PassthroughHandlers(Operations):
    """Mixin. Nothing is passed through before `attach`."""

    posix: Any
    passed: PassedFiles | None = None

    def attach(self, device: int, folder: str | None = None) -> PassedFiles:
        """device: descriptor of /dev/fuse. folder: a place of this mount's own, if another process may take it over;
        that one calls `resume`, the first one `start_afresh`."""
        self.passed = PassedFiles(self.posix, device, folder)
        return self.passed

    # -- opening and closing ----------------------------------------------------------------------------------------

    def open(self, call: Call, flags: int, open_flags: int) -> Answer:
        answer = super().open(call, flags, open_flags)
        # Also what opens for writing while nothing is passed through: another open may be, before this one is done.
        return answer if self.passed is None else self._pass_opened(call.nodeid, flags, answer)

    def create(
        self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int
    ) -> Answer:  # fmt: skip
        answer = super().create(call, name, flags, mode, umask, open_flags)
        return answer if self.passed is None else self._pass_created(flags, answer)

    def release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Answer:
        if self.passed is None or call.nodeid not in self.passed:
            return super().release(call, fh, flags, release_flags, lock_owner)
        return self._pass_release(call, fh, flags, release_flags, lock_owner)

    # -- data -------------------------------------------------------------------------------------------------------

    def read(
        self, call: Call, fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        if self.passed:
            copy = self.passed.reads_copy(call.nodeid)
            if copy is not None:
                return os.pread(copy.fd, size, offset)
        return super().read(call, fh, offset, size, read_flags, lock_owner, flags)

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        answer = super().write(call, fh, offset, data, write_flags, lock_owner, flags)
        return self._pass_changed(call.nodeid, answer) if self.passed and call.nodeid in self.passed else answer

    def flush(self, call: Call, fh: int, lock_owner: int) -> Answer:
        if self.passed and call.nodeid in self.passed:
            return self._pass_collected(
                call.nodeid, lambda: super(PassthroughHandlers, self).flush(call, fh, lock_owner)
            )
        return super().flush(call, fh, lock_owner)

    def fsync(self, call: Call, fh: int, datasync: bool) -> Answer:
        if self.passed and call.nodeid in self.passed:
            return self._pass_collected(call.nodeid, lambda: super(PassthroughHandlers, self).fsync(call, fh, datasync))
        return super().fsync(call, fh, datasync)

    # -- other changes: the copy first, then the answer ---------------------------------------------------------------

    def setattr(self, call: Call, change: SetAttr) -> Answer:
        answer = super().setattr(call, change)
        return self._pass_changed(call.nodeid, answer) if self.passed and call.nodeid in self.passed else answer

    def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Answer:
        answer = super().fallocate(call, fh, offset, length, mode)
        return self._pass_changed(call.nodeid, answer) if self.passed and call.nodeid in self.passed else answer

    def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Answer:  # fmt: skip
        if not self.passed:
            return super().copy_file_range(call, fh_in, off_in, nodeid_out, fh_out, off_out, length, flags)
        return self._pass_copied(call, fh_in, off_in, nodeid_out, fh_out, off_out, length, flags)

    # -- what the kernel is told of other clients' changes -----------------------------------------------------------

    def getattr(self, call: Call, fh: int | None) -> Answer:
        answer = super().getattr(call, fh)
        return self._pass_noticed(answer, _IN_ATTR) if self.passed and call.nodeid in self.passed else answer

    def lookup(self, call: Call, name: bytes) -> Answer:
        answer = super().lookup(call, name)
        return self._pass_noticed(answer, _IN_ENTRY) if self.passed else answer

    def readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        answer = super().readdirplus(call, fh, offset, size)
        return self._pass_listed(answer) if self.passed else answer

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _pass_opened(self, ino: int, flags: int, answer: Answer) -> Reply:
        assert self.passed is not None
        fh, how, number = _OPENED.unpack(_joined(await _waited(answer)))
        if not number:
            try:
                how, number = await self.passed.opened(ino, fh, flags, how)
            except OSError:  # no room for what the copy needs: the program gets no descriptor
                await _waited(super().release(Call(0, ino, 0, 0, 0), fh, flags, 0, 0))
                raise
        return _OPENED.pack(fh, how, number)

    async def _pass_created(self, flags: int, answer: Answer) -> Reply:
        """Of a file that is new, or was there already."""
        assert self.passed is not None
        reply = _joined(await _waited(answer))
        fh, how, number = _OPENED.unpack_from(reply, _ENTRY_SIZE)
        (ino,) = _INO.unpack_from(reply)
        if ino in self.passed:
            how, number = await self.passed.opened(ino, fh, flags, how)
        return (reply[:_ENTRY_SIZE], _OPENED.pack(fh, how, number))

    async def _pass_release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Reply:
        assert self.passed is not None
        try:
            await self.passed.closing(call.nodeid, fh)
        finally:
            reply = await _waited(super().release(call, fh, flags, release_flags, lock_owner))
        return reply

    async def _pass_changed(self, ino: int, answer: Answer) -> Reply:
        assert self.passed is not None
        reply = await _waited(answer)
        await self.passed.update(ino)
        return reply

    async def _pass_collected(self, ino: int, then: Any) -> Reply:
        assert self.passed is not None
        await self.passed.collect(ino)
        return await _waited(then())

    async def _pass_copied(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Reply:  # fmt: skip
        assert self.passed is not None
        await self.passed.collect(call.nodeid)
        reply = await _waited(
            super().copy_file_range(call, fh_in, off_in, nodeid_out, fh_out, off_out, length, flags)
        )  # fmt: skip
        await self.passed.update(nodeid_out)
        return reply

    async def _pass_noticed(self, answer: Answer, at: int) -> Reply:
        reply = _joined(await _waited(answer))
        await self._pass_compare(reply, at)
        return reply

    async def _pass_listed(self, answer: Answer) -> Reply:
        reply = _joined(await _waited(answer))
        at = 0
        while at + _ENTRY_SIZE + 24 <= len(reply):
            await self._pass_compare(reply, at + _IN_ENTRY)
            (n,) = _DIRENT_NAMELEN.unpack_from(reply, at + _ENTRY_SIZE + 16)
            at += _ENTRY_SIZE + 24 + (n + 7 & ~7)
        return reply

    async def _pass_compare(self, reply: bytes, at: int) -> None:
        assert self.passed is not None
        if len(reply) >= at + _ATTR_HEAD.size:
            ino, length, mtime_s, mtime_ns = _ATTR_HEAD.unpack_from(reply, at)
            if ino in self.passed:
                await self.passed.noticed(ino, length, mtime_s, mtime_ns)


async def _waited(answer: Answer) -> Reply:
    return await answer if isinstance(answer, Awaitable) else answer


def _joined(reply: Reply) -> bytes:
    if reply is None:
        return b""
    return bytes(reply) if isinstance(reply, bytes | bytearray | memoryview) else b"".join(reply)
