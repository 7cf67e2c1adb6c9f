# SPDX-License-Identifier: Apache-2.0
"""Requests that come a second time, because the process that had them died before it could answer.

Whether the first try happened is decided by what is there: a name that a request would make, and that looks in every
point like what it would have made, was made by it; then the second try is a success and not "exists". Each function
takes the error of the second try and raises it again if it is a real one.
Source: the kernel's FUSE_NOTIFY_RESEND (linux/fuse.h 7.40): a resent request may have been served already.
"""

from __future__ import annotations

import errno
import stat
from typing import Final

from core.errors import FsError
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.namespace import RENAME_EXCHANGE, RENAME_WHITEOUT
from core.meta.records import CHARDEV, DIRECTORY, FILE, SYMLINK, Attr
from core.vfs.posix.names import KINDS
from core.vfs.posix.nodes import Node
from core.vfs.posix.posix import Posix

#: The first try is at most so old: a worker that dies is replaced within seconds, and clocks differ a little.
RECENT_NS: Final = 600 * 10**9


async def _there(posix: Posix, parent: int, name: bytes) -> Node | None:
    try:
        return await posix.lookup(parent, name, ROOT_CALLER)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def _recent(posix: Posix, attr: Attr) -> bool:
    return abs(posix.meta.clock_ns() - attr.ctime_ns) < RECENT_NS


async def _made(
    posix: Posix, error: FsError, parent: int, name: bytes, kind: int, mode: int, umask: int, caller: Caller
) -> Node:
    """The node that the first try made: its type, owner and mode are what the request asks for, and it is new."""
    if error.errno != errno.EEXIST:
        raise error
    node = await _there(posix, parent, name)
    if node is None or node.attr.type != kind or node.attr.uid != caller.uid or not _recent(posix, node.attr):
        raise error
    if kind != SYMLINK:
        above = (await posix.getattr(parent)).attr
        try:
            wanted = await posix.meta.new_attr(posix.real(parent), above, caller, kind, mode, umask, 0)
        except FsError:
            raise error from None
        if (node.attr.mode, node.attr.gid) != (wanted.mode, wanted.gid):
            raise error
    if kind != DIRECTORY and (node.attr.nlink != 1 or node.attr.mtime_ns != node.attr.ctime_ns):
        raise error  # somebody has done something with it already; nobody could before this answer
    return node


async def made_node(
    posix: Posix, error: FsError, parent: int, name: bytes, mode: int, umask: int, caller: Caller, *, rdev: int = 0
) -> Node:
    """mknod; mode has the type."""
    kind = KINDS.get(stat.S_IFMT(mode), FILE)
    node = await _made(posix, error, parent, name, kind, mode, umask, caller)
    if node.attr.length or ((stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and node.attr.rdev != rdev):
        raise error
    return node


async def made_file(
    posix: Posix, error: FsError, parent: int, name: bytes, mode: int, umask: int, caller: Caller
) -> Node:
    """create with O_EXCL: whoever answers has to open it. (Without O_EXCL the second try finds and opens it.)"""
    return await made_node(posix, error, parent, name, stat.S_IFREG | mode & 0o7777, umask, caller)


async def made_directory(
    posix: Posix, error: FsError, parent: int, name: bytes, mode: int, umask: int, caller: Caller
) -> Node:
    return await _made(posix, error, parent, name, DIRECTORY, mode, umask, caller)


async def made_symlink(
    posix: Posix, error: FsError, parent: int, name: bytes, target: bytes, caller: Caller
) -> Node:  # fmt: skip
    node = await _made(posix, error, parent, name, SYMLINK, 0o777, 0, caller)
    if await posix.readlink(node.ino) != target:
        raise error
    return node


async def linked(posix: Posix, error: FsError, ino: int, parent: int, name: bytes) -> Node:
    """The name leads to that very inode, whose link count changed just now."""
    if error.errno != errno.EEXIST:
        raise error
    node = await _there(posix, parent, name)
    if node is None or node.ino != ino or not _recent(posix, node.attr):
        raise error
    return node


async def removed(posix: Posix, error: FsError, parent: int, name: bytes) -> None:
    """unlink, rmdir: the name is gone, which is what was asked for."""
    if error.errno != errno.ENOENT or await _there(posix, parent, name) is not None:
        raise error


async def renamed(
    posix: Posix, error: FsError, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
) -> None:
    """The old name is gone (a whiteout is in its place, with that flag), and what has the new one got it just now."""
    whiteout = bool(flags & RENAME_WHITEOUT)
    if error.errno not in (errno.ENOENT, errno.EEXIST) or (error.errno == errno.EEXIST and not whiteout):
        raise error
    old, new = await _there(posix, parent, name), await _there(posix, new_parent, new_name)
    if new is None or not _recent(posix, new.attr):
        raise error
    if whiteout:
        if old is None or old.attr.type != CHARDEV or old.attr.rdev or new.attr.ctime_ns > old.attr.ctime_ns:
            raise error
    elif old is not None:
        raise error


async def exchanged(
    posix: Posix, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
) -> bool:  # fmt: skip
    """Asked before the second try, for it would change everything back: did the first one happen? An exchange sets
    both change times to the same nanosecond. A whiteout at the old name beside a new name that moved at its moment is
    the same for RENAME_WHITEOUT: a second try would move the whiteout."""
    if not flags & (RENAME_EXCHANGE | RENAME_WHITEOUT):
        return False
    old, new = await _there(posix, parent, name), await _there(posix, new_parent, new_name)
    if old is None or new is None or old.ino == new.ino or not _recent(posix, new.attr):
        return False
    if flags & RENAME_EXCHANGE:
        return old.attr.ctime_ns == new.attr.ctime_ns
    return old.attr.type == CHARDEV and not old.attr.rdev and 0 <= old.attr.ctime_ns - new.attr.ctime_ns < 10**9


async def xattr_was_set(posix: Posix, error: FsError, ino: int, name: bytes, value: bytes) -> None:
    """setxattr with XATTR_CREATE: the attribute is there with this value."""
    if error.errno != errno.EEXIST or await posix.getxattr(ino, name) != value:
        raise error


def xattr_was_removed(error: FsError) -> None:
    if error.errno != errno.ENODATA:
        raise error
