# SPDX-License-Identifier: Apache-2.0
"""Requests that come again after a worker died: each is served twice, the second time marked as resent.

What the first try did must be a success; what somebody else did must stay the error that it is. Source: the kernel's
FUSE_NOTIFY_RESEND (linux/fuse.h 7.40).
"""

from __future__ import annotations

import errno
import stat
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.errors import FsError
from core.meta.acl import Rule, to_xattr
from core.meta.caller import ROOT_CALLER
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from gateways.fuse.api import Call
from gateways.fuse.handlers import PosixOperations
from tests.unit.vfs.posix.names_mount import ROOT, Mount, PosixSuite

FIRST = Call(2, ROOT, 1000, 1000, 1)
AGAIN = FIRST._replace(resent=True)
Twice = Callable[..., Awaitable[Any]]


def nodeid(entry: bytes) -> int:
    return int(struct.unpack_from("=Q", entry)[0])


class TestResent(PosixSuite):
    @pytest.fixture
    async def mount(self, more: Any) -> Mount:
        made: Mount = await more(xattr=True, acl=True)
        return made

    @pytest.fixture
    def operations(self, mount: Mount) -> PosixOperations:
        return PosixOperations(mount.posix)

    @pytest.fixture
    def twice(self, operations: PosixOperations) -> Twice:
        async def serve(name: str, *args: Any) -> Any:
            first = await getattr(operations, name)(FIRST, *args)
            second = await getattr(operations, name)(AGAIN, *args)
            if name not in ("unlink", "rmdir", "rename", "setxattr", "removexattr", "link"):
                assert nodeid(first) == nodeid(second)
            return second

        return serve

    async def refused(self, code: int, operations: PosixOperations, name: str, *args: Any) -> None:
        with pytest.raises(FsError) as e:
            await getattr(operations, name)(AGAIN, *args)
        assert e.value.errno == code, e.value

    async def test_what_was_made_is_answered_again(self, twice: Twice, mount: Mount) -> None:
        await twice("mkdir", b"d", 0o1777, 0o022)
        await twice("mknod", b"f", stat.S_IFREG | 0o666, 0, 0o027)
        await twice("mknod", b"p", stat.S_IFIFO | 0o666, 5, 0o027)
        await twice("symlink", b"l", b"target")
        assert await mount.names() == [b"d", b"f", b"l", b"p"]

    async def test_what_was_made_under_a_default_acl_is_answered_again(self, twice: Twice, mount: Mount) -> None:
        rule = to_xattr(Rule(owner=7, group=5, mask=7, other=0, users=((5, 7),)))
        await mount.posix.setxattr(ROOT, b"system.posix_acl_default", rule, 0, ROOT_CALLER)
        await twice("mkdir", b"d", 0o777, 0o077)
        await twice("mknod", b"f", stat.S_IFREG | 0o666, 0, 0o077)
        assert (await mount.find(b"f")).attr.mode == 0o660

    async def test_what_was_made_in_a_set_group_id_directory_is_answered_again(
        self, mount: Mount, operations: PosixOperations
    ) -> None:
        d = (await mount.posix.mkdir(ROOT, b"d", 0o2777, 0, ROOT_CALLER)).ino
        for call in (FIRST, AGAIN):
            await operations.mkdir(call._replace(nodeid=d), b"e", 0o777, 0)
            await operations.mknod(call._replace(nodeid=d), b"f", stat.S_IFREG | 0o666, 0, 0)
        assert (await mount.find(b"e", d)).attr.gid == 0

    async def test_what_others_made_exists(self, mount: Mount, operations: PosixOperations) -> None:
        await mount.mkdir(b"d", mode=0o755)  # root's
        await mount.posix.mknod(ROOT, b"f", stat.S_IFREG | 0o600, 0, 0, ROOT_CALLER)
        await operations.symlink(FIRST, b"l", b"one")
        await operations.mknod(FIRST, b"m", stat.S_IFREG | 0o600, 0, 0)
        await self.refused(errno.EEXIST, operations, "mkdir", b"d", 0o755, 0)
        await self.refused(errno.EEXIST, operations, "mknod", b"f", stat.S_IFREG | 0o600, 0, 0)
        await self.refused(errno.EEXIST, operations, "symlink", b"l", b"other")
        await self.refused(errno.EEXIST, operations, "mknod", b"m", stat.S_IFREG | 0o644, 0, 0)
        await self.refused(errno.EEXIST, operations, "mkdir", b"m", 0o600, 0)
        await self.refused(errno.EEXIST, operations, "mknod", b".trash", stat.S_IFREG, 0, 0)

    async def test_what_is_old_or_in_use_was_not_made_now(self, mount: Mount, operations: PosixOperations) -> None:
        await operations.mknod(FIRST, b"f", stat.S_IFREG | 0o600, 0, 0)
        ino = (await mount.find(b"f")).ino
        await mount.posix.link(ino, ROOT, b"g", ROOT_CALLER)
        await self.refused(errno.EEXIST, operations, "mknod", b"f", stat.S_IFREG | 0o600, 0, 0)
        await operations.mkdir(FIRST, b"d", 0o700, 0)
        mount.posix.meta.clock_ns.now_ns += 3600 * 10**9  # type: ignore[attr-defined]
        await self.refused(errno.EEXIST, operations, "mkdir", b"d", 0o700, 0)
        await self.refused(errno.EEXIST, operations, "link", ino, b"g")

    async def test_what_was_removed_is_gone(self, twice: Twice, mount: Mount, operations: PosixOperations) -> None:
        await mount.touch(b"f")
        await mount.mkdir(b"d")
        await twice("unlink", b"f")
        await twice("rmdir", b"d")
        assert await mount.names() == []
        await mount.mkdir(b"d")
        await self.refused(errno.EISDIR, operations, "unlink", b"d")
        with pytest.raises(FsError) as e:
            await operations.unlink(FIRST, b"f")
        assert e.value.errno == errno.ENOENT

    async def test_what_was_linked_has_the_name(self, twice: Twice, mount: Mount, operations: PosixOperations) -> None:
        ino, other = await mount.touch(b"f"), await mount.touch(b"o")
        await twice("link", ino, b"g")
        assert (await mount.attr(ino)).nlink == 2
        await self.refused(errno.EEXIST, operations, "link", other, b"g")

    async def test_what_was_renamed_has_the_new_name(
        self, twice: Twice, mount: Mount, operations: PosixOperations
    ) -> None:
        ino, other = await mount.touch(b"f"), await mount.touch(b"o")
        await twice("rename", b"f", ROOT, b"g", 0)
        await twice("rename", b"g", ROOT, b"h", RENAME_NOREPLACE)
        assert (await mount.find(b"h")).ino == ino
        await twice("rename", b"h", ROOT, b"o", 0)  # replaces
        assert (await mount.find(b"o")).ino == ino != other
        assert await mount.names() == [b"o"]
        await self.refused(errno.ENOENT, operations, "rename", b"none", ROOT, b"nowhere", 0)
        await mount.touch(b"x")
        await self.refused(errno.EEXIST, operations, "rename", b"x", ROOT, b"o", RENAME_NOREPLACE)

    async def test_an_exchange_happens_once(self, twice: Twice, mount: Mount) -> None:
        a, b = await mount.touch(b"a"), await mount.mkdir(b"b")
        await twice("rename", b"a", ROOT, b"b", RENAME_EXCHANGE)
        assert ((await mount.find(b"a")).ino, (await mount.find(b"b")).ino) == (b, a)

    async def test_an_exchange_that_did_not_happen_happens(self, mount: Mount, operations: PosixOperations) -> None:
        a, b = await mount.touch(b"a"), await mount.mkdir(b"b")
        await operations.rename(AGAIN, b"a", ROOT, b"b", RENAME_EXCHANGE)
        assert ((await mount.find(b"a")).ino, (await mount.find(b"b")).ino) == (b, a)

    async def test_a_whiteout_is_laid_once(self, twice: Twice, mount: Mount) -> None:
        a = await mount.touch(b"a")
        await twice("rename", b"a", ROOT, b"b", RENAME_WHITEOUT)
        assert (await mount.find(b"b")).ino == a
        assert stat.S_ISCHR((await mount.find(b"a")).attr.st_mode)

    async def test_attributes_set_and_removed(self, twice: Twice, mount: Mount, operations: PosixOperations) -> None:
        await twice("setxattr", b"user.a", b"1", 1, 0)
        await twice("setxattr", b"user.a", b"2", 2, 0)
        await self.refused(errno.EEXIST, operations, "setxattr", b"user.a", b"other", 1, 0)
        await twice("removexattr", b"user.a")
        await self.refused(errno.ENODATA, operations, "setxattr", b"user.a", b"1", 2, 0)
