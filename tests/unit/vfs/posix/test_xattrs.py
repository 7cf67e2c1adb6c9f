# SPDX-License-Identifier: Apache-2.0
"""Extended attributes, ACLs and chattr through a mount. Source: metadata-semantics §5.4–§5.6; acl(5)."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from core.meta.acl import Rule, to_xattr
from core.meta.caller import ROOT_CALLER, Caller
from core.vfs.posix.attributes import Change
from core.vfs.posix.xattrs import FS_APPEND, FS_IMMUTABLE, FS_SECRM
from tests.unit.vfs.posix.names_mount import KERNEL, ROOT, USER, Mount, PosixSuite, refused

ACCESS, DEFAULT = b"system.posix_acl_access", b"system.posix_acl_default"
CREATE, REPLACE = 1, 2
RULE = to_xattr(Rule(owner=7, group=5, mask=7, other=1, users=((1000, 6),), groups=((50, 4),)))


class TestAttributes(PosixSuite):
    @pytest.fixture
    async def mount(self, more: Any) -> Mount:
        made: Mount = await more(xattr=True)
        return made

    async def test_set_get_list_remove(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f")
        await posix.setxattr(file, b"user.a", b"1", 0, KERNEL)
        await posix.setxattr(file, b"trusted.b", b"\0" * 65536, CREATE, KERNEL)
        await posix.setxattr(file, b"security.evm", b"", 0, KERNEL)
        assert await posix.getxattr(file, b"trusted.b") == b"\0" * 65536
        assert await posix.getxattr(file, b"security.evm") == b""
        assert await posix.listxattr(file, ROOT_CALLER) == [b"security.evm", b"trusted.b", b"user.a"]
        await refused(errno.EEXIST, posix.setxattr(file, b"user.a", b"2", CREATE, KERNEL))
        await posix.setxattr(file, b"user.a", b"2", REPLACE, KERNEL)
        await refused(errno.ENODATA, posix.setxattr(file, b"user.c", b"2", REPLACE, KERNEL))
        await refused(errno.ERANGE, posix.setxattr(file, b"user.c", b"x" * 65537, 0, KERNEL))
        await refused(errno.ERANGE, posix.setxattr(file, b"user." + b"c" * 251, b"x", 0, KERNEL))
        await refused(errno.EINVAL, posix.setxattr(file, b"user.c", b"x", 3, KERNEL))
        assert await posix.listxattr(file, KERNEL) == [b"security.evm", b"user.a"]
        await refused(errno.ENOENT, posix.setxattr(4711, b"user.a", b"1", 0, KERNEL))
        before = await mount.attr(file)
        await posix.removexattr(file, b"user.a", KERNEL)
        assert (await mount.attr(file)).ctime_ns > before.ctime_ns
        await refused(errno.ENODATA, posix.removexattr(file, b"user.a", KERNEL))
        await refused(errno.ENODATA, posix.getxattr(file, b"user.a"))

    async def test_names_of_other_doors_can_be_read_only(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f")
        await posix.meta.setxattr(file, b"s3-etag", b"1")
        assert await posix.getxattr(file, b"s3-etag") == b"1"
        assert await posix.listxattr(file, ROOT_CALLER) == []
        for name in (b"s3-etag", b"user.", b"user", b".a"):
            await refused(errno.ENOTSUP, posix.setxattr(file, name, b"1", 0, ROOT_CALLER))

    async def test_switches(self, more: Any, mount: Mount) -> None:
        file = await mount.touch(b"f")
        names = {
            b"user.a": "xattr", b"trusted.a": "xattr", b"security.capability": "cap", b"security.selinux": "selinux",
            ACCESS: "acl", b"system.other": "",
        }  # fmt: skip
        for on in ("xattr", "cap", "selinux", "acl"):
            posix = (await more(**{on: True})).posix
            for name, switch in names.items():
                if switch == on or (on, switch) == ("cap", "xattr"):
                    value = RULE if name == ACCESS else b"v"
                    await posix.setxattr(file, name, value, 0, ROOT_CALLER)
                    assert await posix.getxattr(file, name) == value
                    assert name in await posix.listxattr(file, ROOT_CALLER)
                else:
                    await refused(errno.ENOTSUP, posix.setxattr(file, name, b"v", 0, ROOT_CALLER))
                    await refused(errno.ENOTSUP, posix.removexattr(file, name, ROOT_CALLER))
                    await refused(errno.ENODATA, posix.getxattr(file, name))
                    assert name not in await posix.listxattr(file, ROOT_CALLER)


class TestACLs(PosixSuite):
    @pytest.fixture
    async def mount(self, more: Any) -> Mount:
        made: Mount = await more(acl=True)
        return made

    async def test_an_access_acl_makes_the_mode(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f", caller=KERNEL)
        await posix.setxattr(file, ACCESS, RULE, 0, KERNEL, kill_sgid=False)
        assert await posix.getxattr(file, ACCESS) == RULE
        assert (await mount.attr(file)).mode == 0o771
        await posix.setattr(file, Change(mode=0o640), KERNEL)  # chmod sets the mask
        changed = to_xattr(Rule(owner=6, group=5, mask=4, other=0, users=((1000, 6),), groups=((50, 4),)))
        assert await posix.getxattr(file, ACCESS) == changed
        await posix.removexattr(file, ACCESS, KERNEL)
        await refused(errno.ENODATA, posix.getxattr(file, ACCESS))
        await posix.removexattr(file, ACCESS, KERNEL)
        await posix.setxattr(file, ACCESS, to_xattr(Rule(owner=7, group=5, other=0)), 0, KERNEL)
        assert (await mount.attr(file)).mode == 0o750
        await refused(errno.ENODATA, posix.getxattr(file, ACCESS))  # says no more than the mode
        await refused(errno.EINVAL, posix.setxattr(file, ACCESS, b"\2\0\0\0abc", 0, KERNEL))

    async def test_the_group_bit_goes_when_the_kernel_says_so(self, mount: Mount) -> None:
        file = await mount.touch(b"f", mode=0o2755, caller=Caller(1000, (77,), 0, False))
        who = Caller(1000, (1000,), 0, False)  # 77 is one of the other groups
        await mount.posix.setxattr(file, ACCESS, RULE, 0, who, kill_sgid=False)
        assert (await mount.attr(file)).mode == 0o2771
        await mount.posix.setxattr(file, ACCESS, RULE, 0, who, kill_sgid=True)
        assert (await mount.attr(file)).mode == 0o771

    async def test_a_default_acl_decides_instead_of_the_umask(self, mount: Mount) -> None:
        posix, d = mount.posix, await mount.mkdir(b"d")
        rule = Rule(owner=7, group=5, mask=7, other=0, users=((1000, 7),))
        await posix.setxattr(d, DEFAULT, to_xattr(rule), 0, ROOT_CALLER)
        file = await posix.mknod(d, b"f", 0o100666, 0, 0o077, KERNEL)
        assert file.attr.mode == 0o660
        expected = Rule(owner=6, group=5, mask=6, other=0, users=((1000, 7),))
        assert await posix.getxattr(file.ino, ACCESS) == to_xattr(expected)
        sub = await posix.mkdir(d, b"sub", 0o755, 0o077, KERNEL)
        assert sub.attr.mode == 0o750
        assert await posix.getxattr(sub.ino, DEFAULT) == to_xattr(rule)
        link = await posix.symlink(d, b"l", b"x", KERNEL)
        await refused(errno.ENODATA, posix.getxattr(link.ino, ACCESS))
        assert await posix.listxattr(sub.ino, KERNEL) == [ACCESS, DEFAULT]
        minimal = to_xattr(Rule(owner=7, group=4, other=0))
        await posix.setxattr(d, DEFAULT, minimal, 0, ROOT_CALLER)
        assert (await posix.mknod(d, b"g", 0o100777, 0, 0o077, KERNEL)).attr.mode == 0o740

    async def test_asking_for_an_acl_that_is_not_there_costs_nothing(self, mount: Mount) -> None:
        posix, d = mount.posix, await mount.mkdir(b"d")
        file = await mount.touch(b"f", d)
        await mount.find(b"f", d)
        await mount.list(d, plus=True)
        with posix.meta.store.round_trips() as trips:
            await refused(errno.ENODATA, posix.getxattr(file, ACCESS))
        assert trips.count == 0
        await posix.setxattr(file, ACCESS, RULE, 0, ROOT_CALLER)
        assert await posix.getxattr(file, ACCESS) == RULE
        await posix.removexattr(file, ACCESS, ROOT_CALLER)
        await mount.find(b"f", d)
        await refused(errno.ENODATA, posix.getxattr(file, ACCESS))

    async def test_only_the_owner_changes_an_acl_where_we_check(self, more: Any) -> None:
        mount = await more(acl=True, check=True)
        file = await mount.touch(b"f")
        await refused(errno.EPERM, mount.posix.setxattr(file, ACCESS, RULE, 0, USER, kill_sgid=False))
        await refused(errno.EPERM, mount.posix.removexattr(file, ACCESS, USER))


class TestFlags(PosixSuite):
    @pytest.fixture
    async def mount(self, more: Any) -> Mount:
        made: Mount = await more(ioctl=True, xattr=True)
        return made

    async def test_flags_are_kept_and_shown(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f")
        assert await posix.get_flags(file) == 0
        for flags in (FS_IMMUTABLE, FS_APPEND, FS_SECRM, FS_IMMUTABLE | FS_APPEND | FS_SECRM, 0):
            await posix.set_flags(file, flags, ROOT_CALLER)
            assert await posix.get_flags(file) == flags
        await refused(errno.ENOTSUP, posix.set_flags(file, 0x80, ROOT_CALLER))
        await posix.meta.setattr(file, {"flags": 0x08})  # a Windows client's
        await posix.set_flags(file, FS_SECRM, ROOT_CALLER)
        assert (await mount.attr(file)).flags == 0x28

    async def test_an_immutable_file_does_not_change(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f")
        await posix.set_flags(file, FS_IMMUTABLE, ROOT_CALLER)
        for call in (
            posix.setattr(file, Change(mode=0o600), ROOT_CALLER),
            posix.setattr(file, Change(uid=1), ROOT_CALLER),
            posix.setattr(file, Change(mtime_ns=1), ROOT_CALLER),
            posix.setattr(file, Change(mtime_ns="now"), ROOT_CALLER),
            posix.setattr(file, Change(size=1), ROOT_CALLER),
            posix.link(file, ROOT, b"l", ROOT_CALLER),
            posix.unlink(ROOT, b"f", ROOT_CALLER),
            posix.rename(ROOT, b"f", ROOT, b"g", 0, ROOT_CALLER),
            posix.setxattr(file, b"user.a", b"", 0, ROOT_CALLER),
            posix.removexattr(file, b"user.a", ROOT_CALLER),
        ):
            await refused(errno.EPERM, call)
        await posix.set_flags(file, 0, ROOT_CALLER)
        await posix.unlink(ROOT, b"f", ROOT_CALLER)

    async def test_an_append_only_file_can_be_touched(self, mount: Mount) -> None:
        posix, file = mount.posix, await mount.touch(b"f")
        await posix.set_flags(file, FS_APPEND, ROOT_CALLER)
        await posix.setattr(file, Change(mtime_ns="now", atime_ns="now"), ROOT_CALLER)
        for change in (Change(mtime_ns=1), Change(mode=0o600), Change(size=0)):
            await refused(errno.EPERM, posix.setattr(file, change, ROOT_CALLER))

    async def test_a_frozen_directory_keeps_its_entries(self, mount: Mount) -> None:
        posix, d = mount.posix, await mount.mkdir(b"d")
        await mount.touch(b"f", d)
        await posix.set_flags(d, FS_APPEND, ROOT_CALLER)
        await mount.touch(b"g", d)
        await refused(errno.EPERM, posix.unlink(d, b"f", ROOT_CALLER))
        await refused(errno.EPERM, posix.rmdir(ROOT, b"d", ROOT_CALLER))
        await posix.set_flags(d, FS_IMMUTABLE, ROOT_CALLER)
        await refused(errno.EPERM, mount.touch(b"h", d))
        await refused(errno.EPERM, posix.rename(d, b"f", ROOT, b"f", 0, ROOT_CALLER))

    async def test_only_root_where_we_check_and_only_if_switched_on(self, more: Any, mount: Mount) -> None:
        file = await mount.touch(b"f", caller=USER)
        await refused(errno.EPERM, mount.posix.set_flags(file, FS_IMMUTABLE, USER))
        off = await more()
        await refused(errno.ENOTTY, off.posix.get_flags(file))
        await refused(errno.ENOTTY, off.posix.set_flags(file, 0, ROOT_CALLER))
