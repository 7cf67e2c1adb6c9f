# SPDX-License-Identifier: Apache-2.0
"""What all handlers share: who calls, and nodes as the kernel wants them.

Source: metadata-semantics §1.3 (callers), §11 (how long the kernel may cache); cli §4.1.
"""

from __future__ import annotations

import errno
import stat
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.caller import Caller
from core.meta.records import DIRECTORY, INTERNAL_BASE, TRASH, Attr
from core.vfs.posix.nodes import Node
from core.vfs.posix.posix import Posix
from gateways.fuse.api import Call
from gateways.fuse.handlers.growth import Growth
from gateways.fuse.operations import Operations
from gateways.fuse.wire import replies

#: Special files never change their name or mode.
INTERNAL_TTL_S: Final = 3600.0
BLOCK_SIZE: Final = 65536


def stale(e: FsError) -> FsError:
    """What to say when the inode of a request is gone, or the directory of a name that it makes: a name led there when
    the kernel looked it up, and may lead elsewhere now. At ESTALE the kernel walks the whole path once more, without
    believing what it remembers, and its caller hears ENOENT if there is nothing."""
    return FsError(errno.ESTALE, e.strerror or "") if e.errno == errno.ENOENT else e


class Ttl(NamedTuple):
    """Seconds that the kernel may believe what it was told."""

    attr: float = 1.0
    entry: float = 1.0
    dir_entry: float = 1.0
    negative: float = 0.0


def supplementary_groups(pid: int) -> tuple[int, ...]:
    """Of a process, or thread, as the kernel knows it at this moment; none if it is gone or in another namespace.

    Read each time it is needed: a process may give up a group, and must not keep what it gave it.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as f:
            for line in f:
                if line.startswith(b"Groups:"):
                    return tuple(map(int, line[7:].split()))
    except (OSError, ValueError):
        pass
    return ()


class Translate(Operations):
    """Base of the handlers. posix: the mount. readdir_cache: the kernel may keep listings."""

    def __init__(self, posix: Posix, ttl: Ttl | None = None, *, readdir_cache: bool = False) -> None:
        self.posix = posix
        self.ttl = ttl or Ttl()
        self.readdir_cache = readdir_cache
        self.growth = Growth()
        self._config = posix.config
        self._checks = posix.config.check or posix.config.squashes

    # -- the caller --------------------------------------------------------------------------------------------------

    def caller(self, call: Call) -> Caller:
        """Who asks, after squashing. Where the kernel has checked permissions, nobody does it again."""
        if not self._checks:
            return Caller(call.uid, (call.gid,), call.pid, False)
        squash = self._config.all_squash or (self._config.root_squash if call.uid == 0 else None)
        if squash is not None:
            return Caller(squash[0], (squash[1],), call.pid)
        return self.checked_caller(call)

    @staticmethod
    def checked_caller(call: Call) -> Caller:
        """Who asks, with all groups, for what the kernel has not checked."""
        groups = supplementary_groups(call.pid) if call.uid else ()
        return Caller(call.uid, (call.gid, *groups), call.pid)

    def umask(self, umask: int) -> int:
        return umask if self._config.umask is None else self._config.umask

    # -- nodes -------------------------------------------------------------------------------------------------------

    def entry(self, node: Node) -> bytes:
        """fuse_entry_out: what a name leads to."""
        ino, a, _ = node
        if INTERNAL_BASE <= ino < TRASH:
            return replies.entry(ino, pack(node), INTERNAL_TTL_S, INTERNAL_TTL_S)
        ttl = self.ttl
        return replies.entry(
            ino, pack(node), ttl.dir_entry if a.type == DIRECTORY else ttl.entry,
            ttl.attr if self.posix.is_settled(node) else 0.0,
        )  # fmt: skip

    def attr(self, node: Node) -> bytes:
        """fuse_attr_out."""
        return replies.attr(pack(node), self.ttl.attr if self.posix.is_settled(node) else 0.0)


def pack(node: Node) -> bytes:
    """fuse_attr."""
    ino, a, blocks = node
    return replies.pack_attr(
        ino, a.length, blocks, a.atime_ns, a.mtime_ns, a.ctime_ns, MODES[a.type] | a.mode, a.nlink, a.uid, a.gid,
        a.rdev, BLOCK_SIZE,
    )  # fmt: skip


#: Type bits of a stored type; the first is of none.
MODES: Final = (
    0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK
)  # fmt: skip
assert all(Attr(kind, 0, 0, 0, 0, 0, 0, 0, 0).st_mode == mode for kind, mode in enumerate(MODES))
