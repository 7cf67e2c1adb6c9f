# SPDX-License-Identifier: Apache-2.0
"""Attributes, extended attributes, ACLs. Source: spec metadata-semantics §5."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest

from core.errors import FsError
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.records import ROOT
from tests.conformance.volume.base import USER, VolumeBase


class Attributes(VolumeBase):
    async def test_setattr(self, meta: Meta) -> None:
        f, before = await meta.create(ROOT, b"f", 0o6755, 0, USER)
        with meta.store.round_trips() as n:
            attr = await meta.setattr(f, {"mtime_ns": -5_000_000_001, "atime_ns": 4_102_444_800_123_456_789})
        assert n.count <= 2
        assert (attr.mtime_ns, attr.atime_ns) == (-5_000_000_001, 4_102_444_800_123_456_789)
        assert await meta.getattr(f) == attr
        assert attr.ctime_ns > before.ctime_ns
        assert await meta.setattr(f, {"mtime_ns": -5_000_000_001}) == attr
        attr = await meta.setattr(f, {"uid": 5})
        assert (attr.uid, attr.mode) == (5, 0o755)
        for changes, code in (
            ({"uid": 7}, errno.EPERM), ({"gid": 7}, errno.EPERM), ({"mode": 0}, errno.EPERM),
            ({"mtime_ns": "now"}, errno.EACCES),
        ):  # fmt: skip
            with pytest.raises(FsError) as e:
                await meta.setattr(f, changes, USER)
            assert e.value.errno == code

    async def test_xattrs(self, meta: Meta) -> None:
        f, before = await meta.create(ROOT, b"f")
        await meta.setxattr(f, b"user.a", b"\0\xff")
        await meta.set_xattrs(f, {b"user.b": b"2", b"user.none": None})
        assert await meta.listxattr(f) == [b"user.a", b"user.b"]
        assert await meta.getxattr(f, b"user.a") == b"\0\xff"
        for call, code in (
            (meta.setxattr(f, b"user.a", b"x", 1), errno.EEXIST),
            (meta.setxattr(f, b"user.z", b"x", 2), errno.ENODATA),
            (meta.setxattr(f, b"", b"x"), errno.EINVAL),
            (meta.setxattr(f, b"n" * 256, b"x"), errno.ERANGE),
            (meta.setxattr(f, b"n", bytes(65537)), errno.ERANGE),
            (meta.removexattr(f, b"user.z"), errno.ENODATA),
            (meta.getxattr(f, b"user.z"), errno.ENODATA),
        ):
            with pytest.raises(FsError) as e:
                await call
            assert e.value.errno == code
        await meta.removexattr(f, b"user.a")
        assert await meta.listxattr(f) == [b"user.b"]
        assert (await meta.getattr(f)).ctime_ns == before.ctime_ns

    async def test_an_xattr_is_updated_by_many_at_once_without_losing_one(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")

        def added(letter: bytes) -> Callable[[bytes | None], bytes | None]:
            return lambda old: (old or b"") + letter

        await asyncio.gather(*(meta.update_xattr(f, b"list", added(bytes([97 + n]))) for n in range(8)))
        assert sorted(await meta.getxattr(f, b"list")) == list(range(97, 105))
        assert await meta.update_xattr(f, b"list", lambda old: None) is None
        assert await meta.listxattr(f) == []
        with pytest.raises(FsError) as e:
            await meta.update_xattr(f + 1000, b"list", added(b"x"))
        assert e.value.errno == errno.ENOENT

    async def test_acl_rules_are_inherited_and_decide(self, meta: Meta) -> None:
        from core.meta import acl

        d, _ = await meta.mkdir(ROOT, b"d", 0o750)
        rule = acl.Rule(7, 5, 7, 0, users=((1000, 7),))
        await meta.setxattr(d, acl.XATTR_ACCESS, acl.to_xattr(rule))
        await meta.setxattr(d, acl.XATTR_DEFAULT, acl.to_xattr(rule))
        assert await meta.getxattr(d, acl.XATTR_ACCESS) == acl.to_xattr(rule)
        f, attr = await meta.create(d, b"f", 0o666, 0o077, USER)
        assert attr.mode == 0o660
        assert acl.from_xattr(await meta.getxattr(f, acl.XATTR_ACCESS)).users == ((1000, 7),)
        sub, attr = await meta.mkdir(d, b"sub", 0o777, 0, USER)
        assert await meta.getxattr(sub, acl.XATTR_DEFAULT) == acl.to_xattr(rule)
        with pytest.raises(FsError):
            await meta.create(d, b"g", caller=Caller(1001, (1001,)))
        assert (await meta.getattr(d)).mode == 0o770
