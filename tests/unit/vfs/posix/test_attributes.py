# SPDX-License-Identifier: Apache-2.0
"""chmod, chown, truncate, utimensat, access and df through a mount.

Source: metadata-semantics §2.5, §5.1; chmod(2), chown(2), truncate(2), utimensat(2).
"""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from core.meta.caller import ROOT_CALLER
from core.vfs.posix.attributes import Change, killed_mode
from tests.unit.vfs.posix.names_mount import KERNEL, ROOT, USER, Mount, PosixSuite, refused


class TestModesAndOwners(PosixSuite):
    async def test_each_field_changes_alone_and_renews_the_change_time(self, mount: Mount) -> None:
        file = await mount.touch(b"f", mode=0o644)
        for change, expected in (
            (Change(mode=0o7755), {"mode": 0o7755}),
            (Change(uid=5), {"uid": 5, "mode": 0o1755}),
            (Change(gid=6), {"gid": 6}),
            (Change(uid=7, gid=8), {"uid": 7, "gid": 8}),
            (Change(atime_ns=-1), {"atime_ns": -1}),
            (Change(mtime_ns=-(10**18) - 1), {"mtime_ns": -(10**18) - 1}),
            (Change(atime_ns=2**33 * 10**9 + 7, mtime_ns=1), {"atime_ns": 2**33 * 10**9 + 7, "mtime_ns": 1}),
        ):
            before = await mount.attr(file)
            node = await mount.posix.setattr(file, change, ROOT_CALLER)
            assert node == await mount.posix.getattr(file)
            for field in ("mode", "uid", "gid", "atime_ns", "mtime_ns"):
                assert getattr(node.attr, field) == expected.get(field, getattr(before, field)), (change, field)
            assert node.attr.ctime_ns > before.ctime_ns

    async def test_setting_what_is_set_already_renews_the_change_time(self, mount: Mount) -> None:
        file = await mount.touch(b"f", mode=0o644)
        attr = await mount.attr(file)
        for change in (
            Change(mode=0o644), Change(uid=attr.uid, gid=attr.gid), Change(mtime_ns=attr.mtime_ns)
        ):  # fmt: skip
            after = (await mount.posix.setattr(file, change, KERNEL)).attr
            assert after.ctime_ns > attr.ctime_ns
            assert (after.mode, after.uid, after.mtime_ns) == (attr.mode, attr.uid, attr.mtime_ns)
            assert after == await mount.attr(file)
            attr = after

    async def test_a_file_that_another_mount_removes_meanwhile_is_gone(self, mount: Mount, more: Any) -> None:
        """Between the look that finds nothing to change and the mark of the change."""
        ino = await mount.touch(b"f")
        seen = await mount.attr(ino)
        other = await more()
        await other.posix.unlink(ROOT, b"f", ROOT_CALLER)
        async with asyncio.timeout(5):
            await refused(errno.ENOENT, mount.posix._touch_ctime(ino, seen))

    async def test_nothing_to_change_changes_nothing(self, mount: Mount) -> None:
        """chown(-1, -1) reaches us as a request without fields."""
        file = await mount.touch(b"f")
        before = await mount.posix.getattr(file)
        assert await mount.posix.setattr(file, Change(), KERNEL) == before
        assert await mount.posix.getattr(file) == before

    async def test_now_is_one_moment(self, mount: Mount) -> None:
        file = await mount.touch(b"f")
        attr = (await mount.posix.setattr(file, Change(atime_ns="now", mtime_ns="now"), KERNEL)).attr
        assert attr.atime_ns == attr.mtime_ns > 10**18

    async def test_the_owner_change_takes_privileges_away(self, mount: Mount) -> None:
        for mode, left in ((0o6755, 0o755), (0o4644, 0o644), (0o2744, 0o2744), (0o2710, 0o710)):
            file = await mount.touch(b"f%o" % mode, mode=mode)
            assert (await mount.posix.setattr(file, Change(uid=5, kill=True), ROOT_CALLER)).attr.mode == left
        directory = await mount.mkdir(b"d", mode=0o6755)
        assert (await mount.posix.setattr(directory, Change(uid=5), ROOT_CALLER)).attr.mode == 0o6755

    async def test_writes_and_truncations_take_privileges_away(self, mount: Mount) -> None:
        file = await mount.touch(b"f", mode=0o6777)
        node = await mount.posix.setattr(file, Change(size=3, kill=True), KERNEL)
        assert (node.attr.mode, node.attr.length) == (0o777, 3)
        await mount.posix.setattr(file, Change(mode=0o6767), ROOT_CALLER)
        await mount.posix.kill_privileges(file)
        assert (await mount.attr(file)).mode == 0o2767  # the group may not execute it
        assert killed_mode(0o6010) == 0o10

    async def test_a_mount_that_checks_refuses_what_the_kernel_would(self, more: Any) -> None:
        mount = await more(check=True)
        file = await mount.touch(b"f", mode=0o600)
        for change in (Change(mode=0o666), Change(uid=1000), Change(gid=1000), Change(mtime_ns=5)):
            await refused(errno.EPERM, mount.posix.setattr(file, change, USER))
        await refused(errno.EACCES, mount.posix.setattr(file, Change(mtime_ns="now"), USER))
        await refused(errno.EACCES, mount.posix.setattr(file, Change(size=0), USER))
        await mount.posix.setattr(file, Change(size=0, opened=True), USER)  # opened before its mode changed
        for mask, code in ((4, errno.EACCES), (2, errno.EACCES), (1, errno.EACCES)):
            await refused(code, mount.posix.access(file, mask, USER))
        await mount.posix.access(file, 0, USER)
        await mount.posix.access(file, 6, ROOT_CALLER)
        await refused(errno.EACCES, mount.posix.access(file, 1, ROOT_CALLER))
        await refused(errno.ENOENT, mount.posix.access(99_999, 0, USER))

    async def test_missing_inodes_are_reported(self, mount: Mount) -> None:
        await refused(errno.ENOENT, mount.posix.getattr(4711))
        await refused(errno.ENOENT, mount.posix.setattr(4711, Change(mode=0o600), KERNEL))
        await refused(errno.ENOENT, mount.posix.setattr(4711, Change(size=1), KERNEL))


class TestSizes(PosixSuite):
    async def test_truncation_renews_the_times_even_if_the_length_stays(self, mount: Mount) -> None:
        file = await mount.touch(b"f")
        before = await mount.attr(file)
        for size in (10, 10, 0, 0):
            attr = (await mount.posix.setattr(file, Change(size=size), KERNEL)).attr
            assert attr.length == size
            assert attr.mtime_ns > before.mtime_ns
            assert attr.ctime_ns > before.ctime_ns
            before = attr

    async def test_a_size_comes_with_other_changes(self, mount: Mount) -> None:
        file = await mount.touch(b"f")
        attr = (await mount.posix.setattr(file, Change(size=5, mtime_ns=77, mode=0o600), KERNEL)).attr
        assert (attr.length, attr.mtime_ns, attr.mode) == (5, 77, 0o600)

    async def test_limits(self, mount: Mount) -> None:
        file = await mount.touch(b"f")
        await refused(errno.EFBIG, mount.posix.setattr(file, Change(size=1 << 57), KERNEL))
        attr = (await mount.posix.setattr(file, Change(size=(1 << 57) - 1), KERNEL)).attr
        assert attr.length == (1 << 57) - 1

    async def test_what_is_buffered_counts(self, mount: Mount) -> None:
        handle = await mount.client.vfs.create(ROOT, b"f")
        await handle.write(0, b"x" * 100)
        assert (await mount.attr(handle.ino)).length == 100
        assert (await mount.find(b"f")).attr.length == 100
        assert (await mount.posix.setattr(handle.ino, Change(mode=0o600), KERNEL)).attr.length == 100
        assert (await mount.posix.setattr(handle.ino, Change(size=40), KERNEL)).attr.length == 40
        assert bytes(await handle.read(0, 100)) == b"x" * 40
        await mount.posix.setattr(handle.ino, Change(mtime_ns=5), KERNEL)
        await handle.release()
        assert (await mount.attr(handle.ino)).mtime_ns == 5  # flushing afterwards doesn't undo it


class TestUsage(PosixSuite):
    async def test_df_counts(self, mount: Mount) -> None:
        before = await mount.posix.statfs(ROOT)
        await mount.touch(b"f")
        after = await mount.posix.statfs(ROOT)
        assert (after.used - before.used, after.used_inodes - before.used_inodes) == (4096, 1)

    async def test_df_of_a_slow_database_shows_what_it_showed(
        self, mount: Mount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = await mount.posix.statfs(ROOT)

        async def stuck(ino: int) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(mount.posix.meta, "statfs", stuck)
        assert await mount.posix.statfs(ROOT) == before

    async def test_fast_df_does_not_wait(self, more: Any) -> None:
        mount = await more(fast_statfs=True)
        before = await mount.posix.statfs(ROOT)
        await mount.touch(b"f")
        assert await mount.posix.statfs(ROOT) == before
        await mount.client.idle()
        assert (await mount.posix.statfs(ROOT)).used == before.used + 4096
        await mount.client.idle()
