# SPDX-License-Identifier: Apache-2.0
"""Kernel requests about names. Rules are in `core.vfs.posix.names`; requests that come a second time in `resent`."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from core.errors import FsError
from core.meta.records import ROOT
from gateways.fuse.api import Buffer, Call
from gateways.fuse.handlers import resent
from gateways.fuse.handlers.translate import Translate, pack, stale
from gateways.fuse.wire import replies


class NameHandlers(Translate):
    """Mixin of `PosixOperations`."""

    async def lookup(self, call: Call, name: bytes) -> Buffer:
        try:
            node = await self.posix.lookup(call.nodeid, name, self.caller(call))
            if call.nodeid != ROOT and self.posix.is_special_inode(node.ino):
                return replies.entry(node.ino, pack(node), 0.0, 0.0)  # it gives way to a user's file
            return self.entry(node)
        except FsError as e:
            if e.errno == errno.ENOENT and self.ttl.negative > 0:
                return replies.negative_entry(self.ttl.negative)
            raise

    def forget(self, call: Call, nlookup: int) -> None:
        """Next to nothing is kept per inode that the kernel knows: a number is all it takes to find it again."""
        self.posix.forget(call.nodeid)

    def batch_forget(self, call: Call, items: Sequence[tuple[int, int]]) -> None:
        for nodeid, _ in items:
            self.posix.forget(nodeid)

    async def readlink(self, call: Call) -> Buffer:
        try:
            return await self.posix.readlink(call.nodeid)
        except FsError as e:
            raise stale(e) from e

    async def symlink(self, call: Call, name: bytes, target: bytes) -> Buffer:
        caller = self.caller(call)
        try:
            node = await self.posix.symlink(call.nodeid, name, target, caller)
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            node = await resent.made_symlink(self.posix, e, call.nodeid, name, target, caller)
        return self.entry(node)

    async def mknod(self, call: Call, name: bytes, mode: int, rdev: int, umask: int) -> Buffer:
        caller, umask = self.caller(call), self.umask(umask)
        try:
            node = await self.posix.mknod(call.nodeid, name, mode, rdev, umask, caller)
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            node = await resent.made_node(self.posix, e, call.nodeid, name, mode, umask, caller, rdev=rdev)
        return self.entry(node)

    async def mkdir(self, call: Call, name: bytes, mode: int, umask: int) -> Buffer:
        caller, umask = self.caller(call), self.umask(umask)
        try:
            node = await self.posix.mkdir(call.nodeid, name, mode, umask, caller)
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            node = await resent.made_directory(self.posix, e, call.nodeid, name, mode, umask, caller)
        return self.entry(node)

    async def unlink(self, call: Call, name: bytes) -> Buffer:
        try:
            await self.posix.unlink(call.nodeid, name, self.caller(call))
        except FsError as e:
            if not call.resent:
                raise
            await resent.removed(self.posix, e, call.nodeid, name)
        return b""

    async def rmdir(self, call: Call, name: bytes) -> Buffer:
        try:
            await self.posix.rmdir(call.nodeid, name, self.caller(call))
        except FsError as e:
            if not call.resent:
                raise
            await resent.removed(self.posix, e, call.nodeid, name)
        return b""

    async def rename(self, call: Call, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Buffer:
        if call.resent and await resent.exchanged(self.posix, call.nodeid, name, new_parent, new_name, flags):
            return b""
        try:
            await self.posix.rename(call.nodeid, name, new_parent, new_name, flags, self.caller(call))
        except FsError as e:
            if not call.resent:
                raise
            await resent.renamed(self.posix, e, call.nodeid, name, new_parent, new_name, flags)
        return b""

    async def link(self, call: Call, ino: int, name: bytes) -> Buffer:
        try:
            node = await self.posix.link(ino, call.nodeid, name, self.caller(call))
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            node = await resent.linked(self.posix, e, ino, call.nodeid, name)
        return self.entry(node)
