# SPDX-License-Identifier: Apache-2.0
"""A small file system in memory, with which codec, channel and mount are tested for real.

Half of its methods answer at once, half are coroutines, so that both ways through the channel are taken. Names that
begin with "slow" wait for `gate` when they are read, written or created.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import stat
import time
from collections.abc import Sequence

from gateways.fuse.api import Answer, Call, Reply, SetAttr
from gateways.fuse.operations import Operations
from gateways.fuse.wire import constants as c, replies


class Node:
    def __init__(self, ino: int, mode: int, uid: int = 0, gid: int = 0) -> None:
        self.ino = ino
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 1
        self.rdev = 0
        self.data = bytearray()
        self.names: dict[bytes, int] = {}
        self.xattrs: dict[bytes, bytes] = {}
        self.atime = self.mtime = self.ctime = time.time_ns()


class MemoryFs(Operations):
    def __init__(self, attr_ttl: float = 0.0) -> None:
        self.ttl = attr_ttl
        self.nodes: dict[int, Node] = {1: Node(1, stat.S_IFDIR | 0o755)}
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.locked: dict[int, int] = {}
        self.unlocked = asyncio.Condition()
        self.forgotten: list[tuple[int, int]] = []
        self.destroyed = 0
        self.last = 1
        self.secret = "secret content"

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _attr(self, n: Node) -> bytes:
        size = len(n.data)
        return replies.pack_attr(
            n.ino, size, -(-size // 512), n.atime, n.mtime, n.ctime, n.mode, n.nlink, n.uid, n.gid, n.rdev
        )  # fmt: skip

    def _node(self, ino: int) -> Node:
        try:
            return self.nodes[ino]
        except KeyError:
            raise OSError(errno.ESTALE, "gone") from None

    def _child(self, parent: int, name: bytes) -> Node:
        found = self._node(parent).names.get(name)
        if found is None:
            raise OSError(errno.ENOENT, "no such name")
        return self.nodes[found]

    def _make(self, call: Call, name: bytes, mode: int) -> Node:
        parent = self._node(call.nodeid)
        if name in parent.names:
            raise OSError(errno.EEXIST, "exists")
        self.last += 1
        node = self.nodes[self.last] = Node(self.last, mode, call.uid, call.gid)
        parent.names[name] = node.ino
        parent.mtime = time.time_ns()
        return node

    def _entry(self, node: Node) -> bytes:
        return replies.entry(node.ino, self._attr(node), self.ttl, self.ttl)

    async def _slow(self, name: bytes) -> None:
        if name.startswith(b"slow"):
            self.reached.set()
            await self.gate.wait()

    def _name_of(self, ino: int) -> bytes:
        return next((name for name, each in self.nodes[1].names.items() if each == ino), b"")

    # -- names -----------------------------------------------------------------------------------------------------

    def lookup(self, call: Call, name: bytes) -> Answer:
        return self._entry(self._child(call.nodeid, name))

    def forget(self, call: Call, nlookup: int) -> None:
        self.forgotten.append((call.nodeid, nlookup))

    def batch_forget(self, call: Call, items: Sequence[tuple[int, int]]) -> None:
        self.forgotten.extend(items)

    async def mkdir(self, call: Call, name: bytes, mode: int, umask: int) -> Reply:
        await self._slow(name)
        return self._entry(self._make(call, name, stat.S_IFDIR | mode & ~umask))

    def mknod(self, call: Call, name: bytes, mode: int, rdev: int, umask: int) -> Answer:
        node = self._make(call, name, mode & ~umask)
        node.rdev = rdev
        return self._entry(node)

    async def symlink(self, call: Call, name: bytes, target: bytes) -> Reply:
        node = self._make(call, name, stat.S_IFLNK | 0o777)
        node.data += target
        return self._entry(node)

    def readlink(self, call: Call) -> Answer:
        return bytes(self._node(call.nodeid).data)

    def link(self, call: Call, ino: int, name: bytes) -> Answer:
        node = self._node(ino)
        self._node(call.nodeid).names[name] = ino
        node.nlink += 1
        return self._entry(node)

    def unlink(self, call: Call, name: bytes) -> Answer:
        self._child(call.nodeid, name).nlink -= 1
        del self._node(call.nodeid).names[name]
        return b""

    def rmdir(self, call: Call, name: bytes) -> Answer:
        if self._child(call.nodeid, name).names:
            raise OSError(errno.ENOTEMPTY, "not empty")
        del self._node(call.nodeid).names[name]
        return None

    async def rename(self, call: Call, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Reply:
        await asyncio.sleep(0)
        node = self._child(call.nodeid, name)
        if flags & 1 and new_name in self._node(new_parent).names:
            raise OSError(errno.EEXIST, "exists")
        del self._node(call.nodeid).names[name]
        self._node(new_parent).names[new_name] = node.ino
        return b""

    # -- attributes ------------------------------------------------------------------------------------------------

    def getattr(self, call: Call, fh: int | None) -> Answer:
        return replies.attr(self._attr(self._node(call.nodeid)), self.ttl)

    async def setattr(self, call: Call, change: SetAttr) -> Reply:
        node = self._node(call.nodeid)
        await asyncio.sleep(0)
        if change.valid & c.FATTR_SIZE:
            del node.data[change.size :]
            node.data.extend(bytes(change.size - len(node.data)))
        if change.valid & c.FATTR_MODE:
            node.mode = change.mode
        if change.valid & c.FATTR_UID:
            node.uid = change.uid
        if change.valid & c.FATTR_GID:
            node.gid = change.gid
        if change.valid & c.FATTR_ATIME:
            node.atime = change.atime_ns
        if change.valid & c.FATTR_MTIME:
            node.mtime = change.mtime_ns
        return replies.attr(self._attr(node), self.ttl)

    def statx(self, call: Call, fh: int | None, flags: int, mask: int) -> Answer:
        n = self._node(call.nodeid)
        return replies.statx(
            n.ino, len(n.data), 1, n.atime, n.mtime, n.ctime, n.mode, n.nlink, n.uid, n.gid, n.rdev, self.ttl,
            btime_ns=-1_500_000_000,
        )  # fmt: skip

    def setxattr(self, call: Call, name: bytes, value: bytes, flags: int, setxattr_flags: int) -> Answer:
        self._node(call.nodeid).xattrs[name] = value
        return b""

    def getxattr(self, call: Call, name: bytes, size: int) -> Answer:
        value = self._node(call.nodeid).xattrs.get(name)
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        if size == 0:
            return replies.xattr_size(len(value))
        if len(value) > size:
            raise OSError(errno.ERANGE, "too small")
        return value

    def listxattr(self, call: Call, size: int) -> Answer:
        names = b"".join(name + b"\0" for name in self._node(call.nodeid).xattrs)
        return replies.xattr_size(len(names)) if size == 0 else names

    def removexattr(self, call: Call, name: bytes) -> Answer:
        self._node(call.nodeid).xattrs.pop(name)
        return b""

    def statfs(self, call: Call) -> Answer:
        return replies.statfs(1 << 30, 1 << 29, 1 << 28, 1000, 900, 4096, 255, 4096)

    def ioctl(self, call: Call, fh: int, flags: int, cmd: int, arg: int, data: bytes, out_size: int) -> Answer:
        if cmd == 0x80086601:  # FS_IOC_GETFLAGS
            return replies.ioctl(0, 0, (0x10).to_bytes(8, "little")[:out_size])
        raise OSError(errno.ENOTTY, "unknown")

    # -- directories -----------------------------------------------------------------------------------------------

    def opendir(self, call: Call, flags: int) -> Answer:
        return replies.opened(7, 0)

    def readdir(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        found = replies.DirBuffer(size)
        for at, (name, ino) in list(enumerate(self._node(call.nodeid).names.items()))[offset:]:
            if not found.add(ino, at + 1, self.nodes[ino].mode >> 12, name):
                break
        return found.bytes()

    async def readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Reply:
        found = replies.DirBuffer(size)
        for at, (name, ino) in list(enumerate(self._node(call.nodeid).names.items()))[offset:]:
            node = self.nodes[ino]
            if not found.add_plus(self._entry(node), ino, at + 1, node.mode >> 12, name):
                break
        return found.bytes()

    def releasedir(self, call: Call, fh: int, flags: int) -> Answer:
        return b""

    # -- files -----------------------------------------------------------------------------------------------------

    def open(self, call: Call, flags: int, open_flags: int) -> Answer:
        if flags & os.O_TRUNC:
            self._node(call.nodeid).data.clear()
        name, how = self._name_of(call.nodeid), 0
        if name.startswith((b"direct", b"slow")):
            how = c.FOPEN_DIRECT_IO
        elif name.startswith(b"kept"):
            how = c.FOPEN_KEEP_CACHE
        return replies.opened(call.nodeid, how)

    async def create(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Reply:
        await self._slow(name)
        node = self._make(call, name, stat.S_IFREG | mode & ~umask)
        return replies.created(self._entry(node), replies.opened(node.ino, 0))

    async def tmpfile(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Reply:
        self.last += 1
        node = self.nodes[self.last] = Node(self.last, stat.S_IFREG | mode & ~umask)
        node.nlink = 0
        return replies.created(self._entry(node), replies.opened(node.ino, 0))

    async def read(
        self, call: Call, fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int
    ) -> Reply:  # fmt: skip
        name = self._name_of(call.nodeid)
        await self._slow(name)
        if name == b"broken":
            raise RuntimeError(self.secret)
        piece = bytes(self._node(call.nodeid).data[offset : offset + size])
        middle = len(piece) // 2
        return [piece[:middle], memoryview(piece)[middle:]] if len(piece) > 5000 else piece

    async def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Reply:  # fmt: skip
        await self._slow(self._name_of(call.nodeid))
        await asyncio.sleep(0)  # other requests are read meanwhile; `data` must stay
        node = self._node(call.nodeid)
        node.data.extend(bytes(max(0, offset - len(node.data))))
        node.data[offset : offset + len(data)] = data
        return replies.written(len(data))

    async def flush(self, call: Call, fh: int, lock_owner: int) -> Reply:
        return await self._unlock(call.nodeid, lock_owner)

    async def fsync(self, call: Call, fh: int, datasync: bool) -> Reply:
        return b""

    async def release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Reply:
        return await self._unlock(call.nodeid, lock_owner) if release_flags & c.RELEASE_FLOCK_UNLOCK else b""

    def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Answer:
        node = self._node(call.nodeid)
        node.data.extend(bytes(max(0, offset + length - len(node.data))))
        return b""

    def lseek(self, call: Call, fh: int, offset: int, whence: int) -> Answer:
        size = len(self._node(call.nodeid).data)
        if offset >= size:
            raise OSError(errno.ENXIO, "behind the end")
        return replies.lseek(offset if whence == os.SEEK_DATA else size)

    def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Answer:  # fmt: skip
        piece = self._node(call.nodeid).data[off_in : off_in + length]
        self._node(nodeid_out).data[off_out : off_out + len(piece)] = piece
        return replies.written(len(piece))

    # -- locks: one whole-file lock per inode ------------------------------------------------------------------------

    def getlk(self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int) -> Answer:
        holder = self.locked.get(call.nodeid)
        if holder in (None, owner):
            return replies.lock(0, 0, fcntl.F_UNLCK, 0)
        return replies.lock(0, (1 << 63) - 1, fcntl.F_WRLCK, 4711)

    async def setlk(
        self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int, wait: bool
    ) -> Reply:  # fmt: skip
        if kind == fcntl.F_UNLCK:
            return await self._unlock(call.nodeid, owner)
        async with self.unlocked:
            if self.locked.get(call.nodeid, owner) != owner and not wait:
                raise OSError(errno.EAGAIN, "held by somebody else")
            self.reached.set()
            await self.unlocked.wait_for(lambda: self.locked.get(call.nodeid, owner) == owner)
            self.locked[call.nodeid] = owner
            return b""

    async def _unlock(self, ino: int, owner: int) -> bytes:
        async with self.unlocked:
            if self.locked.get(ino) == owner:
                del self.locked[ino]
                self.unlocked.notify_all()
        return b""

    def destroy(self) -> None:
        self.destroyed += 1
