# SPDX-License-Identifier: Apache-2.0
"""What a kernel request is to a handler, and what a handler may answer.

`wire` makes `Call`s and arguments of bytes, `channel` runs the `Operations` method of that name and sends what it
returns. A method is either a plain function that answers at once (what needs no waiting: release, forget, cached
reads), or returns a coroutine. Errors are raised as OSError; its errno goes to the kernel.
Source: the kernel's public protocol header (linux/fuse.h, protocol 7.45).
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview
#: What follows the reply header. Several buffers leave in one writev. None: the kernel wants no answer (forget).
Reply = Buffer | Sequence[Buffer] | None
Answer = Reply | Awaitable[Reply]


class Call(NamedTuple):
    """Who asks. nodeid is the inode (1 is the root of the mount). resent: this request may have been served before,
    by a worker that died before it could answer."""

    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    resent: bool = False


class SetAttr(NamedTuple):
    """FUSE_SETATTR: `valid` says which fields count (wire.constants.FATTR_*). Times: ns since 1970."""

    valid: int
    fh: int
    size: int
    lock_owner: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    uid: int
    gid: int
