# SPDX-License-Identifier: Apache-2.0
"""What handlers say to the kernel: who calls, how long it may remember, sizes of attributes, chattr, df.

Source: metadata-semantics §1.3, §2.5, §5.4, §5.5, §11; linux/fuse.h.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import Any

import pytest

from core.errors import FsError
from core.meta.caller import ROOT_CALLER, Caller
from gateways.fuse.api import Call, SetAttr
from gateways.fuse.handlers import PosixOperations, Ttl
from gateways.fuse.handlers.attributes import FSGETXATTR, FSSETXATTR, GETFLAGS, SETFLAGS, change_of
from gateways.fuse.handlers.translate import supplementary_groups
from gateways.fuse.wire import constants as c
from tests.unit.vfs.posix.names_mount import ROOT, Mount, PosixSuite

CALL = Call(2, ROOT, 1000, 1000, os.getpid())


def ttls(entry: bytes) -> tuple[float, float]:
    """entry, attr"""
    _, _, e_s, a_s, e_ns, a_ns = struct.unpack_from("=QQQQII", entry)
    return e_s + e_ns / 1e9, a_s + a_ns / 1e9


async def fails(code: int, call: Any) -> None:
    with pytest.raises(OSError) as e:
        await call
    assert e.value.errno == code, e.value


class TestCallers(PosixSuite):
    async def test_the_kernel_has_checked(self, mount: Mount) -> None:
        assert PosixOperations(mount.posix).caller(CALL) == Caller(1000, (1000,), os.getpid(), False)

    async def test_squashing(self, more: Any) -> None:
        root = CALL._replace(uid=0, gid=0)
        some = PosixOperations((await more(root_squash=(65534, 65533))).posix)
        assert some.caller(root) == Caller(65534, (65533,), os.getpid())
        assert some.caller(CALL).uid == 1000
        assert some.caller(CALL).check
        everybody = PosixOperations((await more(all_squash=(5, 6))).posix)
        assert everybody.caller(root) == everybody.caller(CALL) == Caller(5, (6,), os.getpid())
        made = await everybody.mkdir(root, b"d", 0o777, 0)
        node = await everybody.posix.lookup(ROOT, b"d", ROOT_CALLER)
        assert struct.unpack_from("=Q", made)[0] == node.ino
        assert (node.attr.uid, node.attr.gid) == (5, 6)

    async def test_groups_come_from_the_process(self, more: Any) -> None:
        operations = PosixOperations((await more(check=True)).posix)
        assert operations.caller(CALL).gids == (1000, *os.getgroups())
        assert set(supplementary_groups(os.getpid())) == set(os.getgroups())
        assert supplementary_groups(2**22 + 1) == ()

    async def test_a_fixed_umask(self, more: Any, mount: Mount) -> None:
        operations = PosixOperations((await more(umask=0o027)).posix)
        await operations.mkdir(CALL, b"d", 0o777, 0o077)
        await operations.mknod(CALL, b"f", stat.S_IFREG | 0o666, 0, 0)
        assert (await mount.find(b"d")).attr.mode == 0o750
        assert (await mount.find(b"f")).attr.mode == 0o640


class TestCaching(PosixSuite):
    async def test_times_to_live(self, mount: Mount) -> None:
        operations = PosixOperations(mount.posix, Ttl(1.5, 2.5, 3.5, 4.5))
        d = await operations.mkdir(CALL, b"d", 0o777, 0)
        f = await operations.mknod(CALL, b"f", stat.S_IFREG | 0o666, 0, 0)
        assert (ttls(d), ttls(f)) == ((3.5, 1.5), (2.5, 1.5))
        assert ttls(await operations.lookup(CALL, b"f")) == (2.5, 1.5)
        none = await operations.lookup(CALL, b"none")
        assert (struct.unpack_from("=Q", none)[0], ttls(none)[0]) == (0, 4.5)
        await fails(errno.ENOENT, PosixOperations(mount.posix).lookup(CALL, b"none"))
        await fails(errno.ENAMETOOLONG, operations.lookup(CALL, b"n" * 256))

    async def test_listings(self, mount: Mount) -> None:
        operations = PosixOperations(mount.posix)
        d = await mount.mkdir(b"d")
        for i in range(200):
            await mount.touch(b"f%03d" % i, d)
        call = CALL._replace(nodeid=d)
        (fh,) = struct.unpack_from("=Q", operations.opendir(call, 0))
        offset, names = 0, list[bytes]()
        while block := await _answer(operations.readdirplus(call, fh, offset, 4096)):
            assert len(block) <= 4096
            at = 0
            while at < len(block):
                (nodeid,) = struct.unpack_from("=Q", block, at)
                ino, offset, length, kind = struct.unpack_from("=QQII", block, at + 128)
                name = block[at + 152 : at + 152 + length]
                assert nodeid == (0 if name in (b".", b"..") else ino)
                assert kind == (4 if name in (b".", b"..") else 8)
                names.append(name)
                at += 152 + -(-length // 8) * 8
        assert names == [b".", b"..", *(b"f%03d" % i for i in range(200))]
        plain = await _answer(operations.readdir(call, fh, 0, 65536))
        assert len(plain) == sum(24 + -(-len(n) // 8) * 8 for n in names)
        await fails(errno.EINVAL, operations.readdir(call, fh, 0, 10))
        operations.releasedir(call, fh, 0)
        assert operations.fsyncdir(call, fh, False) == b""

    async def test_kept_listings_are_said_to_be(self, mount: Mount) -> None:
        flags = struct.unpack_from("=QI", PosixOperations(mount.posix, readdir_cache=True).opendir(CALL, 0))[1]
        assert flags == c.FOPEN_CACHE_DIR | c.FOPEN_KEEP_CACHE


async def _answer(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else await answer


class TestAttributes(PosixSuite):
    def test_setattr_in_our_words(self) -> None:
        request = SetAttr(0, 0, 5, 0, -1, 7, 8, 0o100644, 3, 4)
        change = change_of(request)
        assert change.only_touches
        assert change.mode is change.uid is change.size is change.mtime_ns is None
        valid = c.FATTR_MODE | c.FATTR_UID | c.FATTR_SIZE | c.FATTR_ATIME | c.FATTR_MTIME | c.FATTR_MTIME_NOW
        change = change_of(request._replace(valid=valid | c.FATTR_KILL_SUIDGID | c.FATTR_FH))
        assert (change.mode, change.uid, change.gid, change.size) == (0o644, 3, None, 5)
        assert (change.atime_ns, change.mtime_ns, change.kill, change.opened) == (-1, "now", True, True)

    async def test_sizes_of_extended_attributes(self, more: Any) -> None:
        operations = PosixOperations((await more(xattr=True)).posix)
        await operations.setxattr(CALL, b"user.a", b"12345", 0, 0)
        assert struct.unpack("=II", await operations.getxattr(CALL, b"user.a", 0))[0] == 5
        assert await operations.getxattr(CALL, b"user.a", 5) == b"12345"
        await fails(errno.ERANGE, operations.getxattr(CALL, b"user.a", 4))
        assert struct.unpack("=II", await operations.listxattr(CALL, 0))[0] == 7
        assert await operations.listxattr(CALL, 7) == b"user.a\0"
        await fails(errno.ERANGE, operations.listxattr(CALL, 6))
        await operations.removexattr(CALL, b"user.a")
        await fails(errno.ENODATA, operations.getxattr(CALL, b"user.a", 0))

    async def test_without_any_attribute_the_kernel_is_told_once(self, mount: Mount) -> None:
        operations = PosixOperations(mount.posix)
        for call in (
            operations.getxattr(CALL, b"security.capability", 0),
            operations.setxattr(CALL, b"user.a", b"", 0, 0),
            operations.listxattr(CALL, 0),
            operations.removexattr(CALL, b"user.a"),
            operations.access(CALL, 4),
        ):
            await fails(errno.ENOSYS, call)

    async def test_chattr(self, more: Any) -> None:
        mount = await more(ioctl=True)
        operations, file = PosixOperations(mount.posix), await mount.touch(b"f")
        call = CALL._replace(nodeid=file, uid=0)

        async def ioctl(cmd: int, data: bytes = b"", out: int = 0) -> bytes:
            reply = await operations.ioctl(call, 0, 0, cmd, 0, data, out)
            assert struct.unpack_from("=i", reply)[0] == 0
            return bytes(reply[16:])

        assert await ioctl(GETFLAGS[0], out=4) == bytes(4)
        assert await ioctl(SETFLAGS[0], struct.pack("=I", 0x31)) == b""
        assert await ioctl(GETFLAGS[0], out=8) == struct.pack("=Q", 0x31)
        assert await ioctl(GETFLAGS[1], out=4) == struct.pack("=I", 0x31)
        assert await ioctl(FSGETXATTR, out=28) == struct.pack("=I24x", 0x18)
        await ioctl(FSSETXATTR, struct.pack("=I24x", 0x10))
        assert await ioctl(GETFLAGS[0], out=4) == struct.pack("=I", 0x21)  # skips the trash still
        await fails(errno.EINVAL, ioctl(SETFLAGS[0], b"123"))
        await fails(errno.EINVAL, ioctl(GETFLAGS[0], out=5))
        await fails(errno.EINVAL, ioctl(FSSETXATTR, b"123"))
        await fails(errno.ENOTSUP, ioctl(FSSETXATTR, struct.pack("=II20x", 0, 4096)))
        await fails(errno.ENOTTY, ioctl(0x1234))

    async def test_df(self, mount: Mount) -> None:
        blocks, free, available, files, unused, size, length, fragment = struct.unpack_from(
            "=QQQQQIII", await PosixOperations(mount.posix).statfs(CALL)
        )
        assert (size, fragment, length) == (4096, 4096, 255)
        assert blocks == 1 << 38
        assert free == available <= blocks
        assert unused <= files

    async def test_errors_carry_their_number(self, mount: Mount) -> None:
        with pytest.raises(FsError):
            await PosixOperations(mount.posix).getattr(CALL._replace(nodeid=4711), None)


class TestPrivileges(PosixSuite):
    @pytest.mark.parametrize("uid", [0, 1000])
    async def test_new_content_takes_them_away_from_all_but_root(self, mount: Mount, uid: int) -> None:
        operations = PosixOperations(mount.posix)
        for what in ("write", "fallocate", "copy_file_range"):
            file = await mount.touch(what.encode(), mode=0o6777)
            fh, _ = await mount.posix.open(file, os.O_RDWR)
            call = CALL._replace(nodeid=file, uid=uid)
            kill = 0 if uid == 0 else c.WRITE_KILL_SUIDGID
            for _ in range(2):
                if what == "write":
                    await _answer(operations.write(call, fh, 0, memoryview(b"12345"), kill, 0, os.O_RDWR))
                elif what == "fallocate":
                    await operations.fallocate(call, fh, 0, 100, 0)
                else:
                    await operations.copy_file_range(call, fh, 0, file, fh, 10, 5, 0)
            assert (await mount.attr(file)).mode == (0o6777 if uid == 0 else 0o777)
            await mount.posix.release(fh, file, 0, False)

    async def test_the_usual_file_pays_nothing(self, mount: Mount) -> None:
        operations = PosixOperations(mount.posix)
        file = await mount.touch(b"f", mode=0o777)
        fh, _ = await mount.posix.open(file, os.O_RDWR)
        call = CALL._replace(nodeid=file)
        with mount.posix.meta.store.round_trips() as trips:
            await _answer(operations.write(call, fh, 0, memoryview(b"1"), c.WRITE_KILL_SUIDGID, 0, os.O_RDWR))
        assert trips.count == 0
        await mount.posix.release(fh, file, 0, False)
