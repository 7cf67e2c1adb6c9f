# SPDX-License-Identifier: Apache-2.0
"""Numbers of the kernel's FUSE protocol. Names are those of the header without the FUSE_ prefix.

Source: the kernel's public protocol header (linux/fuse.h), protocol 7.45; the comments say since when, where that is
later than 7.31, the oldest that we speak.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

KERNEL_VERSION: Final = 7
KERNEL_MINOR: Final = 45
#: The oldest protocol we speak (Linux 5.4): all structures have had their present length since then.
OLDEST_MINOR: Final = 31
ROOT_ID: Final = 1


class Opcode(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50  # 7.34
    TMPFILE = 51  # 7.37
    STATX = 52  # 7.39
    COPY_FILE_RANGE_64 = 53  # 7.45


class Init(IntFlag):
    """Flags of INIT. Bits from 32 on travel in a second word (7.36, INIT_EXT)."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


# fuse_setattr_in.valid
FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_LOCKOWNER: Final = 1 << 9
FATTR_CTIME: Final = 1 << 10
FATTR_KILL_SUIDGID: Final = 1 << 11

# fuse_open_out.open_flags
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NONSEEKABLE: Final = 1 << 2
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_STREAM: Final = 1 << 4
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6
FOPEN_PASSTHROUGH: Final = 1 << 7  # 7.40

#: fuse_open_in.open_flags: clear suid, and sgid if executable by the group (HANDLE_KILLPRIV_V2, with O_TRUNC)
OPEN_KILL_SUIDGID: Final = 1 << 0

RELEASE_FLUSH: Final = 1 << 0
RELEASE_FLOCK_UNLOCK: Final = 1 << 1

GETATTR_FH: Final = 1 << 0

#: A lock of flock(2) rather than one of fcntl(2)
LK_FLOCK: Final = 1 << 0

WRITE_CACHE: Final = 1 << 0  # from the page cache; the handle is a guess
WRITE_LOCKOWNER: Final = 1 << 1
WRITE_KILL_SUIDGID: Final = 1 << 2

READ_LOCKOWNER: Final = 1 << 1

IOCTL_COMPAT: Final = 1 << 0
IOCTL_UNRESTRICTED: Final = 1 << 1
IOCTL_RETRY: Final = 1 << 2
IOCTL_32BIT: Final = 1 << 3
IOCTL_DIR: Final = 1 << 4
IOCTL_COMPAT_X32: Final = 1 << 5

POLL_SCHEDULE_NOTIFY: Final = 1 << 0

FSYNC_FDATASYNC: Final = 1 << 0

ATTR_SUBMOUNT: Final = 1 << 0

#: fuse_setxattr_in.setxattr_flags: clear sgid with system.posix_acl_access (7.33)
SETXATTR_ACL_KILL_SGID: Final = 1 << 0

#: inval_entry: the name is looked up again, but stays (7.38)
EXPIRE_ONLY: Final = 1 << 0

#: Highest bit of a request's id: it was handed out before (7.40)
UNIQUE_RESEND: Final = 1 << 63

#: Extension of a creating request: supplementary groups (7.38)
EXT_GROUPS: Final = 32


class Notify(IntEnum):
    """Codes of messages that the server starts."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7  # 7.40
    INC_EPOCH = 8  # 7.44
    PRUNE = 9  # 7.45


# ioctls of the device: _IO*(229, n, …)
DEV_IOC_CLONE: Final = 0x8004E500
DEV_IOC_BACKING_OPEN: Final = 0x4010E501
DEV_IOC_BACKING_CLOSE: Final = 0x4004E502
