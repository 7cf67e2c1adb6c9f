# SPDX-License-Identifier: Apache-2.0
"""Every request of the kernel as a method. A server overrides what it can do; the rest is ENOSYS.

Names are bytes without NUL. `fh` is what our open, create, tmpfile or opendir answered. Flags are the kernel's. An
`Operations` object belongs to one mount. Replies are made with `gateways.fuse.wire.replies`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from gateways.fuse.api import Answer, Buffer, Call, SetAttr


def unsupported(what: str) -> OSError:
    return OSError(errno.ENOSYS, f"{what} is not supported")


class Operations:
    # -- names -----------------------------------------------------------------------------------------------------

    def lookup(self, call: Call, name: bytes) -> Answer:
        raise unsupported("lookup")

    def forget(self, call: Call, nlookup: int) -> None:
        """No answer."""

    def batch_forget(self, call: Call, items: Sequence[tuple[int, int]]) -> None:
        """(nodeid, nlookup) each. No answer."""

    def readlink(self, call: Call) -> Answer:
        raise unsupported("readlink")

    def symlink(self, call: Call, name: bytes, target: bytes) -> Answer:
        raise unsupported("symlink")

    def mknod(self, call: Call, name: bytes, mode: int, rdev: int, umask: int) -> Answer:
        raise unsupported("mknod")

    def mkdir(self, call: Call, name: bytes, mode: int, umask: int) -> Answer:
        raise unsupported("mkdir")

    def unlink(self, call: Call, name: bytes) -> Answer:
        raise unsupported("unlink")

    def rmdir(self, call: Call, name: bytes) -> Answer:
        raise unsupported("rmdir")

    def rename(self, call: Call, name: bytes, new_parent: int, new_name: bytes, flags: int) -> Answer:
        """FUSE_RENAME (flags 0) and FUSE_RENAME2; the old parent is call.nodeid."""
        raise unsupported("rename")

    def link(self, call: Call, ino: int, name: bytes) -> Answer:
        """A new name for inode `ino` in directory call.nodeid."""
        raise unsupported("link")

    # -- attributes ------------------------------------------------------------------------------------------------

    def getattr(self, call: Call, fh: int | None) -> Answer:
        raise unsupported("getattr")

    def statx(self, call: Call, fh: int | None, flags: int, mask: int) -> Answer:
        raise unsupported("statx")

    def setattr(self, call: Call, change: SetAttr) -> Answer:
        raise unsupported("setattr")

    def access(self, call: Call, mask: int) -> Answer:
        raise unsupported("access")

    def setxattr(self, call: Call, name: bytes, value: bytes, flags: int, setxattr_flags: int) -> Answer:
        raise unsupported("setxattr")

    def getxattr(self, call: Call, name: bytes, size: int) -> Answer:
        """size 0: the length is wanted (wire.replies.xattr_size)."""
        raise unsupported("getxattr")

    def listxattr(self, call: Call, size: int) -> Answer:
        raise unsupported("listxattr")

    def removexattr(self, call: Call, name: bytes) -> Answer:
        raise unsupported("removexattr")

    def ioctl(self, call: Call, fh: int, flags: int, cmd: int, arg: int, data: Buffer, out_size: int) -> Answer:
        raise unsupported("ioctl")

    def statfs(self, call: Call) -> Answer:
        raise unsupported("statfs")

    # -- directories -----------------------------------------------------------------------------------------------

    def opendir(self, call: Call, flags: int) -> Answer:
        raise unsupported("opendir")

    def readdir(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        raise unsupported("readdir")

    def readdirplus(self, call: Call, fh: int, offset: int, size: int) -> Answer:
        raise unsupported("readdirplus")

    def releasedir(self, call: Call, fh: int, flags: int) -> Answer:
        raise unsupported("releasedir")

    def fsyncdir(self, call: Call, fh: int, datasync: bool) -> Answer:
        raise unsupported("fsyncdir")

    # -- files -----------------------------------------------------------------------------------------------------

    def open(self, call: Call, flags: int, open_flags: int) -> Answer:
        raise unsupported("open")

    def create(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Answer:
        raise unsupported("create")

    def tmpfile(self, call: Call, name: bytes, flags: int, mode: int, umask: int, open_flags: int) -> Answer:
        raise unsupported("tmpfile")

    def read(
        self, call: Call, fh: int, offset: int, size: int, read_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        """flags: of the open file (O_DIRECT …), as for write. An fh that this process never gave out comes from a
        worker before us; nodeid and flags are enough to open the file again."""
        raise unsupported("read")

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        """`data` is valid until the answer is given."""
        raise unsupported("write")

    def flush(self, call: Call, fh: int, lock_owner: int) -> Answer:
        """A descriptor was closed; POSIX locks of lock_owner go."""
        raise unsupported("flush")

    def fsync(self, call: Call, fh: int, datasync: bool) -> Answer:
        raise unsupported("fsync")

    def release(self, call: Call, fh: int, flags: int, release_flags: int, lock_owner: int) -> Answer:
        """The last descriptor of an open file was closed; nobody hears an error."""
        raise unsupported("release")

    def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Answer:
        raise unsupported("fallocate")

    def lseek(self, call: Call, fh: int, offset: int, whence: int) -> Answer:
        """SEEK_DATA and SEEK_HOLE only."""
        raise unsupported("lseek")

    def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Answer:  # fmt: skip
        raise unsupported("copy_file_range")

    def poll(self, call: Call, fh: int, kh: int, flags: int, events: int) -> Answer:
        raise unsupported("poll")

    def syncfs(self, call: Call) -> Answer:
        raise unsupported("syncfs")

    # -- locks -----------------------------------------------------------------------------------------------------

    def getlk(self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int) -> Answer:
        """kind: F_RDLCK, F_WRLCK, F_UNLCK. `end` is inclusive. flags: FUSE_LK_FLOCK for flock(2)."""
        raise unsupported("getlk")

    def setlk(
        self, call: Call, fh: int, owner: int, start: int, end: int, kind: int, pid: int, flags: int, wait: bool
    ) -> Answer:  # fmt: skip
        """FUSE_SETLK and, with `wait`, FUSE_SETLKW. An interrupt cancels it (EINTR)."""
        raise unsupported("setlk")

    # -- life ------------------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """The kernel unmounted; no request will come any more."""
