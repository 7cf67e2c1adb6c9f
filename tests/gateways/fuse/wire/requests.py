# SPDX-License-Identifier: Apache-2.0
"""Requests as the kernel makes them, for tests: built field by field, apart from the code under test."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from gateways.fuse.wire.constants import Opcode


def request(opcode: int, body: bytes = b"", *, unique: int = 10, nodeid: int = 5, extension: bytes = b"") -> bytes:
    total = body + extension
    return (
        struct.pack("=IIQQIIIHH", 40 + len(total), opcode, unique, nodeid, 1000, 100, 4242, len(extension) // 8, 0)
        + total
    )


class Sample(NamedTuple):
    opcode: Opcode
    body: bytes
    method: str
    args: tuple[Any, ...]


def pack(layout: str, *values: int) -> bytes:
    return struct.pack("=" + layout, *values)


READ = pack("QQIIQII", 9, 4096, 8192, 2, 77, 0o2, 0)

SAMPLES = [
    Sample(Opcode.LOOKUP, b"name\0", "lookup", (b"name",)),
    Sample(Opcode.LOOKUP, b"\xff\xfe\0", "lookup", (b"\xff\xfe",)),
    Sample(Opcode.FORGET, pack("Q", 3), "forget", (3,)),
    Sample(Opcode.GETATTR, pack("IIQ", 0, 0, 9), "getattr", (None,)),
    Sample(Opcode.GETATTR, pack("IIQ", 1, 0, 9), "getattr", (9,)),
    Sample(
        Opcode.SETATTR,
        pack("IIQQQqqqIIIIIIII", 0x1F, 0, 9, 1 << 40, 77, -2, 5, -1, 500_000_000, 6, 999_999_999, 0o100644, 0, 1, 2, 0),
        "setattr",
        ((0x1F, 9, 1 << 40, 77, -1_500_000_000, 5_000_000_006, -1, 0o100644, 1, 2),),
    ),
    Sample(Opcode.READLINK, b"", "readlink", ()),
    Sample(Opcode.SYMLINK, b"new\0to/where\0", "symlink", (b"new", b"to/where")),
    Sample(Opcode.MKNOD, pack("IIII", 0o10644, 0x105, 0o22, 0) + b"p\0", "mknod", (b"p", 0o10644, 0x105, 0o22)),
    Sample(Opcode.MKDIR, pack("II", 0o755, 0o22) + b"d\0", "mkdir", (b"d", 0o755, 0o22)),
    Sample(Opcode.UNLINK, b"x\0", "unlink", (b"x",)),
    Sample(Opcode.RMDIR, b"x\0", "rmdir", (b"x",)),
    Sample(Opcode.RENAME, pack("Q", 8) + b"a\0b\0", "rename", (b"a", 8, b"b", 0)),
    Sample(Opcode.RENAME2, pack("QII", 8, 2, 0) + b"a\0b\0", "rename", (b"a", 8, b"b", 2)),
    Sample(Opcode.LINK, pack("Q", 8) + b"a\0", "link", (8, b"a")),
    Sample(Opcode.OPEN, pack("II", 0o101, 1), "open", (0o101, 1)),
    Sample(Opcode.READ, READ, "read", (9, 4096, 8192, 2, 77, 2)),
    Sample(Opcode.READ, pack("QQIIQII", 9, 0, 1, 0, 77, 0, 0), "read", (9, 0, 1, 0, 0, 0)),
    Sample(
        Opcode.WRITE, pack("QQIIQII", 9, 4096, 5, 2, 77, 1, 0) + b"hello", "write",
        (9, 4096, memoryview(b"hello"), 2, 77, 1),
    ),
    Sample(Opcode.WRITE, pack("QQIIQII", 9, 0, 0, 0, 77, 1, 0), "write", (9, 0, memoryview(b""), 0, 0, 1)),
    Sample(Opcode.STATFS, b"", "statfs", ()),
    Sample(Opcode.RELEASE, pack("QIIQ", 9, 2, 1, 77), "release", (9, 2, 1, 77)),
    Sample(Opcode.FSYNC, pack("QII", 9, 1, 0), "fsync", (9, True)),
    Sample(Opcode.SETXATTR, pack("IIII", 3, 1, 1, 0) + b"user.x\0a\0b", "setxattr", (b"user.x", b"a\0b", 1, 1)),
    Sample(Opcode.SETXATTR, pack("IIII", 0, 0, 0, 0) + b"user.x\0", "setxattr", (b"user.x", b"", 0, 0)),
    Sample(Opcode.GETXATTR, pack("II", 64, 0) + b"user.x\0", "getxattr", (b"user.x", 64)),
    Sample(Opcode.LISTXATTR, pack("II", 64, 0), "listxattr", (64,)),
    Sample(Opcode.REMOVEXATTR, b"user.x\0", "removexattr", (b"user.x",)),
    Sample(Opcode.FLUSH, pack("QIIQ", 9, 0, 0, 77), "flush", (9, 77)),
    Sample(
        Opcode.INIT, pack("IIIII11I", 7, 45, 131072, 1 << 30 | 1, 1 << 7, *[0] * 11), "init",
        (7, 45, 131072, 1 << 39 | 1 << 30 | 1),
    ),
    Sample(Opcode.INIT, pack("IIII", 7, 31, 131072, 1), "init", (7, 31, 131072, 1)),
    Sample(Opcode.OPENDIR, pack("II", 0o200000, 0), "opendir", (0o200000,)),
    Sample(Opcode.READDIR, READ, "readdir", (9, 4096, 8192)),
    Sample(Opcode.READDIRPLUS, READ, "readdirplus", (9, 4096, 8192)),
    Sample(Opcode.RELEASEDIR, pack("QIIQ", 9, 2, 0, 0), "releasedir", (9, 2)),
    Sample(Opcode.FSYNCDIR, pack("QII", 9, 0, 0), "fsyncdir", (9, False)),
    Sample(Opcode.GETLK, pack("QQQQIIII", 9, 77, 1, 2, 1, 55, 0, 0), "getlk", (9, 77, 1, 2, 1, 55, 0)),
    Sample(Opcode.SETLK, pack("QQQQIIII", 9, 77, 1, 2, 1, 55, 1, 0), "setlk", (9, 77, 1, 2, 1, 55, 1, False)),
    Sample(Opcode.SETLKW, pack("QQQQIIII", 9, 77, 1, 2, 1, 55, 0, 0), "setlk", (9, 77, 1, 2, 1, 55, 0, True)),
    Sample(Opcode.ACCESS, pack("II", 4, 0), "access", (4,)),
    Sample(
        Opcode.CREATE, pack("IIII", 0o102, 0o100644, 0o22, 0) + b"n\0", "create", (b"n", 0o102, 0o100644, 0o22, 0)
    ),
    Sample(
        Opcode.TMPFILE, pack("IIII", 0o102, 0o100600, 0o22, 0) + b"/\0", "tmpfile", (b"/", 0o102, 0o100600, 0o22, 0)
    ),
    Sample(Opcode.INTERRUPT, pack("Q", 1234), "interrupt", (1234,)),
    Sample(Opcode.DESTROY, b"", "destroy", ()),
    Sample(
        Opcode.IOCTL, pack("QIIQII", 9, 0, 0x40086602, 0x7FFF0000, 4, 8) + b"\1\2\3\4", "ioctl",
        (9, 0, 0x40086602, 0x7FFF0000, b"\1\2\3\4", 8),
    ),
    Sample(Opcode.POLL, pack("QQII", 9, 3, 1, 5), "poll", (9, 3, 1, 5)),
    Sample(
        Opcode.BATCH_FORGET, pack("II", 2, 0) + pack("QQQQ", 4, 1, 6, 7), "batch_forget", ([(4, 1), (6, 7)],)
    ),
    Sample(Opcode.FALLOCATE, pack("QQQII", 9, 1, 2, 3, 0), "fallocate", (9, 1, 2, 3)),
    Sample(Opcode.LSEEK, pack("QQII", 9, 100, 3, 0), "lseek", (9, 100, 3)),
    Sample(Opcode.COPY_FILE_RANGE, pack("7Q", 1, 2, 3, 4, 5, 6, 7), "copy_file_range", (1, 2, 3, 4, 5, 6, 7)),
    Sample(Opcode.COPY_FILE_RANGE_64, pack("7Q", 1, 2, 3, 4, 5, 6, 7), "copy_file_range", (1, 2, 3, 4, 5, 6, 7)),
    Sample(Opcode.SYNCFS, pack("Q", 0), "syncfs", ()),
    Sample(Opcode.STATX, pack("IIQII", 1, 0, 9, 0x100, 0xFFF), "statx", (9, 0x100, 0xFFF)),
    Sample(Opcode.NOTIFY_REPLY, pack("QQIIQQ", 0, 0, 0, 0, 0, 0), "notify_reply", ()),
]  # fmt: skip
