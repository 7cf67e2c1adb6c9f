# SPDX-License-Identifier: Apache-2.0
"""Volume suite: directory, user and group quotas. Source: spec metadata-semantics §3."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.namespace import RENAME_EXCHANGE
from core.meta.quota import DIRECTORY, GROUP, USER
from core.meta.records import ROOT, TRASH, DirStat, Quota, Slice
from core.meta.store import ADD, DELETE, PUT
from tests.conformance.volume.base import USER as OWNER, VolumeBase

MIB = 1 << 20


class Quotas(VolumeBase):
    async def refused(self, call: Awaitable[object], code: int = errno.EDQUOT) -> str:
        with pytest.raises(FsError) as e:
            await call
        assert e.value.errno == code, e.value
        return str(e.value)

    async def used(self, meta: Meta, kind: int, ident: int) -> tuple[int, int]:
        quota = await meta.get_quota(kind, ident)
        return quota.used_space, quota.used_inodes

    async def assert_exact(self, meta: Meta) -> None:
        """What is stored equals a recount that trusts nothing."""
        await self.idle(meta)
        assert await meta.check_quotas(strict=True) == []

    @asynccontextmanager
    async def second_client(self, meta: Meta) -> AsyncIterator[Meta]:
        """Another client of the same volume."""
        client = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        client.use_format(meta.format)
        await client.new_session("other", heartbeat_s=0)
        try:
            yield client
        finally:
            await self.idle(client)
            await client.end_session()

    async def slice_of(self, meta: Meta, ino: int, length: int, at: int = 0) -> None:
        slice_id = await meta.slice_ids.take()
        await meta.write_slices(ino, 0, [Slice(at, slice_id, length, 0, length)], meta.clock_ns())

    # -- directories ---------------------------------------------------------------------------------------------

    async def test_a_new_directory_quota_counts_what_is_there_without_the_directory(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        sub, _ = await meta.mkdir(d, b"sub")
        f, _ = await meta.create(sub, b"f")
        await meta.truncate(f, 10_000)
        await meta.link(f, d, b"again")
        quota = await meta.set_quota(DIRECTORY, d, max_space=MIB, max_inodes=100)
        assert quota == Quota(MIB, 100, 4096 + 2 * 12288, 3)
        assert await meta.get_quota(DIRECTORY, d) == quota
        await self.assert_exact(meta)

    async def test_limits_change_one_by_one_and_usage_stays(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.set_quota(DIRECTORY, d, max_inodes=10)
        await meta.create(d, b"f")
        assert await meta.set_quota(DIRECTORY, d, max_space=MIB) == Quota(MIB, 10, 4096, 1)
        assert await meta.set_quota(DIRECTORY, d, max_inodes=0) == Quota(MIB, 0, 4096, 1)
        assert [tuple(entry) async for entry in meta.iter_quotas()] == [(DIRECTORY, d, Quota(MIB, 0, 4096, 1))]
        await meta.delete_quota(DIRECTORY, d)
        await self.refused(meta.get_quota(DIRECTORY, d), errno.ENOENT)
        await self.refused(meta.delete_quota(DIRECTORY, d), errno.ENOENT)
        await meta.create(d, b"g")
        assert [entry async for entry in meta.iter_quotas()] == []

    async def test_what_cannot_have_a_quota(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        await self.refused(meta.set_quota(DIRECTORY, f, max_inodes=1), errno.ENOTDIR)
        await self.refused(meta.set_quota(DIRECTORY, 99_999, max_inodes=1), errno.ENOENT)
        await self.refused(meta.set_quota(DIRECTORY, TRASH, max_inodes=1), errno.EPERM)
        await self.refused(meta.set_quota(USER, 0, max_inodes=1), errno.EINVAL)
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.rmdir(ROOT, b"d")
        assert (await meta.getattr(d)).in_trash
        await self.refused(meta.set_quota(DIRECTORY, d, max_inodes=1), errno.EPERM)

    async def test_creation_is_refused_at_every_level(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(a, b"b")
        await meta.set_quota(DIRECTORY, a, max_inodes=3)
        await meta.set_quota(DIRECTORY, b, max_space=8192)
        await meta.create(b, b"1")
        await meta.symlink(b, b"2", b"target")
        await self.refused(meta.create(b, b"3"))
        await self.refused(meta.mkdir(a, b"3"))
        await self.refused(meta.publish(a, [b"x"], self.content(77, 100)))
        await meta.create(ROOT, b"elsewhere")
        await meta.unlink(b, b"1")
        await meta.mkdir(b, b"3")
        assert await self.used(meta, DIRECTORY, a) == (3 * 4096, 3)
        assert await self.used(meta, DIRECTORY, b) == (2 * 4096, 2)
        await self.assert_exact(meta)

    async def test_growth_is_refused_and_shrinking_is_not(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        f, _ = await meta.create(d, b"f")
        await meta.set_quota(DIRECTORY, d, max_space=64 << 10)
        await self.slice_of(meta, f, 40_000)
        await self.refused(self.slice_of(meta, f, 40_000, at=40_000))
        await self.refused(meta.truncate(f, 1 << 20))
        await self.slice_of(meta, f, 30_000, at=5)  # nothing grows
        await meta.truncate(f, 64 << 10)
        await meta.set_quota(DIRECTORY, d, max_space=4096)
        await meta.truncate(f, 8192)
        await self.refused(meta.truncate(f, 8193))
        await meta.truncate(f, 0)
        assert await self.used(meta, DIRECTORY, d) == (4096, 1)
        await self.assert_exact(meta)

    async def test_a_full_volume_and_a_full_quota_say_so_differently(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.set_quota(DIRECTORY, d, max_inodes=1)
        await meta.create(d, b"f")
        assert "quota of directory" in await self.refused(meta.create(d, b"g"))
        meta.use_format(meta.format.changed(inodes=2))
        assert "volume" in await self.refused(meta.create(ROOT, b"g"), errno.ENOSPC)
        await meta.set_quota(USER, 1000, max_inodes=1)
        meta.use_format(meta.format.changed(inodes=3, user_group_quota=True))
        await meta.mkdir(ROOT, b"own", 0o777)
        await self.refused(meta.create(ROOT, b"g", caller=OWNER), errno.ENOSPC)
        meta.use_format(meta.format.changed(inodes=0, user_group_quota=True))
        await meta.create(ROOT, b"g", caller=OWNER)
        meta.use_format(meta.format.changed(inodes=4, user_group_quota=True))
        await self.refused(meta.create(ROOT, b"h", caller=OWNER))  # the user first, then the volume

    async def test_links_count_in_each_directory_and_are_tested(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        f, _ = await meta.create(a, b"f")
        await meta.set_quota(DIRECTORY, a)
        await meta.set_quota(DIRECTORY, b, max_space=16384)
        await meta.link(f, b, b"1")
        await meta.link(f, b, b"2")
        await meta.truncate(f, 8192)  # grows twice in b
        assert await self.used(meta, DIRECTORY, b) == (16384, 2)
        await self.refused(meta.truncate(f, 8193))
        await self.refused(meta.link(f, b, b"3"))
        await meta.unlink(b, b"1", skip_trash=True)
        await self.assert_exact(meta)
        await meta.unlink(b, b"2")
        assert await self.used(meta, DIRECTORY, b) == (0, 0)
        await self.assert_exact(meta)

    async def test_renames_between_domains_move_whole_trees(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        tree, _ = await meta.mkdir(a, b"tree")
        sub, _ = await meta.mkdir(tree, b"sub")
        f, _ = await meta.create(sub, b"f")
        await meta.truncate(f, 20_000)
        for d in (a, b, tree):
            await meta.set_quota(DIRECTORY, d)
        whole = (4096 + 4096 + 20480, 3)
        assert await self.used(meta, DIRECTORY, a) == whole
        await meta.rename(a, b"tree", b, b"tree")
        assert await self.used(meta, DIRECTORY, a) == (0, 0)
        assert await self.used(meta, DIRECTORY, b) == whole
        assert await self.used(meta, DIRECTORY, tree) == (4096 + 20480, 2)
        await meta.set_quota(DIRECTORY, a, max_inodes=2)
        await self.refused(meta.rename(b, b"tree", a, b"tree"))
        await meta.set_quota(DIRECTORY, a, max_inodes=3)
        await meta.rename(b, b"tree", a, b"tree")
        await meta.create(b, b"g")
        await meta.rename(a, b"tree", b, b"g", RENAME_EXCHANGE)
        assert await self.used(meta, DIRECTORY, a) == (4096, 1)
        assert await self.used(meta, DIRECTORY, b) == whole
        await meta.rename(sub, b"f", a, b"tree")  # over a file
        assert await self.used(meta, DIRECTORY, a) == (20480, 1)
        await self.assert_exact(meta)

    async def test_clones_and_copies_are_charged_and_refused(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        tree, _ = await meta.mkdir(a, b"tree")
        f, _ = await meta.create(tree, b"f")
        await self.slice_of(meta, f, 20_000)
        b, _ = await meta.mkdir(ROOT, b"b")
        await meta.set_quota(DIRECTORY, b, max_space=40_000)
        await meta.clone(tree, b, b"one")
        assert await self.used(meta, DIRECTORY, b) == (4096 + 20480, 2)
        await self.refused(meta.clone(tree, b, b"two"))
        await self.refused(meta.clone(f, b, b"two"))
        g, _ = await meta.create(b, b"g")
        await meta.copy_file_range(f, 0, g, 0, 4096)
        await self.refused(meta.copy_file_range(f, 0, g, 0, 20_000))
        await self.refused(meta.fallocate(g, 0, 0, 30_000))
        assert await self.used(meta, DIRECTORY, b) == (4096 + 20480 + 4096, 3)
        await self.assert_exact(meta)

    async def test_trees_of_many_and_deep_directories_are_measured_and_moved(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        tree, _ = await meta.mkdir(a, b"tree")
        for n in range(150):
            await meta.mkdir(tree, b"%d" % n)
        deep = tree
        for _ in range(100):
            deep, _ = await meta.mkdir(deep, b"deep")
        for d in (a, b, tree):
            await meta.set_quota(DIRECTORY, d)
        assert await self.used(meta, DIRECTORY, a) == (251 * 4096, 251)
        await meta.rename(a, b"tree", b, b"tree")
        await meta.create(deep, b"f")
        assert await self.used(meta, DIRECTORY, b) == (252 * 4096, 252)
        assert (await meta.quota_limits(deep))[0].used_inodes == 251
        await self.assert_exact(meta)
        assert await meta.remove_tree(b, b"tree", skip_trash=True) == 252
        assert await self.used(meta, DIRECTORY, b) == (0, 0)

    async def test_a_removed_directory_takes_its_quota_along(self, meta: Meta) -> None:
        for how in ("rmdir", "rename"):
            d, _ = await meta.mkdir(ROOT, b"d")
            await meta.set_quota(DIRECTORY, d, max_inodes=5)
            if how == "rmdir":
                await meta.rmdir(ROOT, b"d")
            else:
                await meta.mkdir(ROOT, b"e")
                await meta.rename(ROOT, b"e", ROOT, b"d")
            await self.refused(meta.get_quota(DIRECTORY, d), errno.ENOENT)

    async def test_limits_on_the_way_up_are_told_nearest_first(self, meta: Meta) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(a, b"b")
        f, _ = await meta.create(b, b"f")
        await meta.set_quota(DIRECTORY, ROOT, max_space=MIB)
        await meta.set_quota(DIRECTORY, b, max_inodes=7)
        assert [q.max_inodes for q in await meta.quota_limits(f)] == [7, 0]
        assert [q.max_space for q in await meta.quota_limits(a)] == [MIB]
        assert (await meta.quota_limits(a))[0].used_inodes == 3
        assert await meta.quota_limits(TRASH) == []

    async def test_directory_statistics_are_switched_on_for_the_first_quota(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.create(d, b"f")
        plain = meta.format.changed(dir_stats=False)
        await meta.store.commit([], [(PUT, k.setting(), plain.to_json())])
        meta.use_format(plain)
        await meta.create(d, b"g")  # nobody keeps statistics now
        assert await meta.set_quota(DIRECTORY, d, max_inodes=9) == Quota(0, 9, 8192, 2)
        assert meta.dir_stats
        await meta.recount_directory(ROOT)
        await meta.reload_format()
        assert meta.dir_stats

    async def test_a_recount_sees_what_leaves_no_trace_in_the_times(self, meta: Meta) -> None:
        """Directories that change often keep their times for a while (semantics §1.7)."""
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.set_quota(DIRECTORY, d)
        await meta.store.commit([], [(DELETE, k.dirstat(d), None)])
        meta.skip_dir_mtime_ns = 3600 * 10**9
        count = meta.sum_entries

        async def slow(ino: int) -> DirStat:
            meta.sum_entries = count  # type: ignore[method-assign]
            stat = await count(ino)
            await meta.create(d, b"late")
            return stat

        meta.sum_entries = slow  # type: ignore[method-assign]
        await meta.recount_directory(d)
        assert tuple((await meta.store.read(k.dirstat(d)))[0]) == (0, 4096, 1)
        await self.assert_exact(meta)

    async def test_a_directory_that_never_rests_gets_no_statistics(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.store.commit([], [(DELETE, k.dirstat(d), None)])
        count, names = meta.sum_entries, iter(range(99))

        async def slow(ino: int) -> DirStat:
            stat = await count(ino)
            await meta.create(d, b"%d" % next(names))
            return stat

        meta.sum_entries = slow  # type: ignore[method-assign]
        await meta.recount_directory(d)
        assert (await meta.store.read(k.dirstat(d)))[0] is None
        meta.sum_entries = count  # type: ignore[method-assign]
        await meta.create(d, b"last")  # finds none, and has it counted
        await self.idle(meta)
        assert (await meta.store.read(k.dirstat(d)))[0].inodes == len(await meta.readdir(d))

    async def test_two_renames_of_one_tree_measure_it_each(self, meta: Meta) -> None:
        for name in (b"a", b"b"):
            into, _ = await meta.mkdir(ROOT, name)
            await meta.set_quota(DIRECTORY, into)
        t, _ = await meta.mkdir(ROOT, b"t")
        at = t
        for _ in range(5):
            at, _ = await meta.mkdir(at, b"d")
            await meta.create(at, b"f")
        await asyncio.gather(*(meta.rename(ROOT, b"t", meta_dir, b"t") for meta_dir in (2, 3)), return_exceptions=True)
        await self.assert_exact(meta)

    # -- users and groups ----------------------------------------------------------------------------------------

    async def test_a_user_is_refused_whoever_pays(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        f, _ = await meta.create(d, b"f", caller=OWNER)
        quota = await meta.set_quota(USER, 1000, max_space=16384, max_inodes=2)
        assert quota == Quota(16384, 2, 4096, 1)
        await self.slice_of(meta, f, 10_000)
        await self.refused(self.slice_of(meta, f, 10_000, at=10_000))
        await self.refused(meta.truncate(f, 20_000))  # root writes, the owner pays
        await meta.truncate(f, 1)
        await meta.create(d, b"g", caller=OWNER)
        await self.refused(meta.create(d, b"h", caller=OWNER))
        await self.refused(meta.link(f, d, b"h", caller=OWNER))
        await meta.create(d, b"h")  # root's own
        await meta.unlink(d, b"g", caller=OWNER)
        await self.refused(meta.create(d, b"i", caller=OWNER))  # the trash still holds it
        await self.assert_exact(meta)

    async def test_a_group_limits_its_members_and_chown_moves_the_charge(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d", 0o777)
        d, _ = await meta.lookup(ROOT, b"d")
        await meta.set_quota(GROUP, 7, max_inodes=2)
        member = Caller(1001, (7,))
        for name in (b"1", b"2"):
            await meta.create(d, name, caller=member)
        await self.refused(meta.create(d, b"3", caller=member))
        link, _ = await meta.symlink(d, b"l", b"x", caller=OWNER)
        f, _ = await meta.lookup(d, b"1")
        await meta.setattr(f, {"gid": 8})
        await meta.setattr(link, {"uid": 1001, "gid": 8})
        assert await self.used(meta, GROUP, 7) == (4096, 1)
        await meta.create(d, b"3", caller=member)
        await self.assert_exact(meta)

    async def test_hard_links_trash_and_open_files_count_once_until_they_are_gone(self, meta: Meta) -> None:
        await meta.set_quota(USER, 1000, max_inodes=100)
        f, _ = await meta.create(ROOT, b"f", caller=OWNER)
        await meta.link(f, ROOT, b"g")
        await meta.link(f, ROOT, b"h")
        assert await self.used(meta, USER, 1000) == (4096, 1)
        await meta.unlink(ROOT, b"g", skip_trash=True)
        await meta.unlink(ROOT, b"h")
        assert await self.used(meta, USER, 1000) == (4096, 1)
        await self.assert_exact(meta)
        g, _ = await meta.create(ROOT, b"x", caller=OWNER)
        meta.opened(g)
        await meta.unlink(ROOT, b"x", skip_trash=True)
        assert await self.used(meta, USER, 1000) == (8192, 2)
        await self.assert_exact(meta)
        await meta.closed(g)
        assert await self.used(meta, USER, 1000) == (4096, 1)
        await self.assert_exact(meta)

    async def test_deleting_an_owners_quota_keeps_the_usage(self, meta: Meta) -> None:
        await meta.set_quota(USER, 1000, max_inodes=1)
        await meta.create(ROOT, b"f", caller=OWNER)
        await meta.delete_quota(USER, 1000)
        await self.refused(meta.get_quota(USER, 1000), errno.ENOENT)
        await meta.create(ROOT, b"g", caller=OWNER)
        assert [entry async for entry in meta.iter_quotas()] == []
        assert await meta.set_quota(USER, 1000, max_inodes=5) == Quota(-1, 5, 8192, 2)
        await self.assert_exact(meta)

    async def test_expired_hours_of_the_trash_cost_nobody(self, meta: Meta) -> None:
        await meta.set_quota(USER, 1000, max_inodes=5)
        await meta.create(ROOT, b"f", caller=OWNER)
        await meta.unlink(ROOT, b"f")
        await self.assert_exact(meta)
        meta.clock_ns.now_ns += 5 * 86400 * 10**9  # type: ignore[attr-defined]
        assert await meta.clean_trash(24) == 1
        await self.assert_exact(meta)
        assert await self.used(meta, USER, 1000) == (0, 0)

    # -- recounts ------------------------------------------------------------------------------------------------

    async def test_wrong_usage_is_found_and_set_right(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        await meta.create(d, b"f", caller=OWNER)
        await meta.set_quota(DIRECTORY, d, max_inodes=5)
        await meta.set_quota(USER, 1000, max_inodes=5)
        await meta.store.commit(
            [],
            [
                (ADD, k.quota(DIRECTORY, d), (8192, 3)),
                (ADD, k.quota(USER, 1000), (-4096, -7)),
                (PUT, k.quota(USER, 4242), Quota(-1, -1, 4096, 1)),
            ],
        )
        found = {(c.kind, c.ident): tuple(c.missing) for c in await meta.check_quotas()}
        assert found == {
            (DIRECTORY, d): (-8192, -3, True), (USER, 1000): (4096, 7, True), (USER, 4242): (-4096, -1, True),
        }  # fmt: skip
        assert (await meta.get_quota(DIRECTORY, d)).used_inodes == 4  # looking changes nothing
        assert all(c.repaired for c in await meta.check_quotas(repair=True))
        await self.assert_exact(meta)
        assert await self.used(meta, USER, 1000) == (4096, 1)
        await meta.unlink(d, b"f")

    async def test_what_a_juicefs_client_has_not_written_yet_is_not_missing(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.set_quota(DIRECTORY, d, max_inodes=50)
        info = b'{"Version": "1.4.1+2026-07-01.abcdef", "HostName": "other"}'
        expiry = meta.clock_ns() // 10**9 + 1000
        await meta.store.commit([], [(PUT, k.session(4711), expiry), (PUT, k.sessioninfo(4711), info)])
        meta.foreign_flush_s = 0.01
        await meta.store.commit([], [(ADD, k.dirstat(d), DirStat(0, 4096, 1))])  # its quota follows later

        async def flush() -> None:
            await asyncio.sleep(0.02)
            await meta.store.commit([], [(ADD, k.quota(DIRECTORY, d), (4096, 1))])

        later = asyncio.create_task(flush())
        assert not (await meta.check_quota(d, repair=True)).missing
        await later
        assert await self.used(meta, DIRECTORY, d) == (4096, 1)
        await meta.store.commit([], [(ADD, k.dirstat(d), DirStat(0, -4096, -1))])
        assert tuple((await meta.check_quota(d, repair=True)).missing) == (-4096, -1, True)  # that one lasts
        await meta.store.commit([], [(1, k.session(4711), None), (1, k.sessioninfo(4711), None)])
        await self.assert_exact(meta)

    async def test_strict_repair_sets_statistics_right_too(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        sub, _ = await meta.mkdir(d, b"sub")
        await meta.create(sub, b"f")
        await meta.set_quota(DIRECTORY, d, max_inodes=5)
        await meta.store.commit([], [(ADD, k.dirstat(sub), DirStat(5, 4096, 2)), (ADD, k.quota(DIRECTORY, d), (1, 1))])
        found = await meta.check_quota(d, strict=True)
        assert tuple(found.missing) == (-1, -1, True)
        await meta.check_quota(d, strict=True, repair=True)
        assert await self.used(meta, DIRECTORY, d) == (8192, 2)
        assert tuple((await meta.store.read(k.dirstat(sub)))[0]) == (0, 4096, 1)

    async def test_statistics_that_are_missing_are_counted(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.create(d, b"f")
        await meta.store.commit([], [(1, k.dirstat(d), None)])
        assert (await meta.set_quota(DIRECTORY, d)).used_inodes == 1
        assert tuple((await meta.store.read(k.dirstat(d)))[0]) == (0, 4096, 1)

    # -- several clients -----------------------------------------------------------------------------------------

    async def test_what_another_client_changed_before_it_knew_is_counted_when_it_knows(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        async with self.second_client(meta) as other:
            await meta.set_quota(DIRECTORY, d, max_inodes=5)
            await other.create(d, b"unknown")
            assert await self.used(meta, DIRECTORY, d) == (0, 0)
            settling = asyncio.create_task(meta.settle_quotas(poll_s=0.01, timeout_s=30))
            await asyncio.sleep(0)
            while not settling.done():
                meta.clock_ns.now_ns += 2_000_000_000  # type: ignore[attr-defined]
                await other.refresh()
                await asyncio.sleep(0.02)  # lets the poll of settle_quotas run
            assert settling.result() == []
            assert await self.used(meta, DIRECTORY, d) == (4096, 1)
            await other.create(d, b"known")
            assert await self.used(meta, DIRECTORY, d) == (8192, 2)
        await self.assert_exact(meta)

    async def test_a_silent_client_is_named(self, meta: Meta) -> None:
        async with self.second_client(meta) as other:
            assert await meta.settle_quotas(poll_s=0.01, timeout_s=0.05) == [other.sid]

    async def test_a_moved_directory_is_charged_where_it_is_by_clients_that_remember_another_place(
        self, meta: Meta
    ) -> None:
        a, _ = await meta.mkdir(ROOT, b"a")
        b, _ = await meta.mkdir(ROOT, b"b")
        mid, _ = await meta.mkdir(a, b"mid")
        deep, _ = await meta.mkdir(mid, b"deep")
        for d in (a, b):
            await meta.set_quota(DIRECTORY, d)
        async with self.second_client(meta) as other:
            f, _ = await other.create(deep, b"1")  # it knows the way up now
            await meta.rename(a, b"mid", b, b"mid")
            await other.create(deep, b"2")
            await other.truncate(f, 50_000)
            await other.unlink(deep, b"2")
        await self.assert_exact(meta)
        assert await self.used(meta, DIRECTORY, a) == (0, 0)

    async def test_nobody_is_refused_on_old_news(self, meta: Meta) -> None:
        full, _ = await meta.mkdir(ROOT, b"full")
        moved, _ = await meta.mkdir(full, b"moved")
        await meta.create(full, b"f")
        await meta.set_quota(DIRECTORY, full, max_inodes=2)
        async with self.second_client(meta) as other:
            await self.refused(other.create(full, b"g"))
            await meta.unlink(full, b"f")
            await other.create(full, b"g")
            await self.refused(other.create(moved, b"h"))
            await meta.rename(full, b"moved", ROOT, b"moved")
            await other.create(moved, b"h")
            await meta.reload_usage()
            await self.refused(meta.rename(ROOT, b"moved", full, b"moved"))
        await self.assert_exact(meta)

    async def test_usage_is_exact_after_any_mix_of_operations_by_two_clients(self, meta: Meta) -> None:
        seed = random.randrange(1 << 30)
        print(f"seed {seed}")
        rng = random.Random(seed)
        dirs = [ROOT]
        for name in (b"a", b"b", b"c"):
            d, _ = await meta.mkdir(ROOT, name)
            dirs.append(d)
            dirs.append((await meta.mkdir(d, b"sub"))[0])
        await meta.set_quota(USER, 1000, max_inodes=1000)
        for d in dirs[:4]:
            await meta.set_quota(DIRECTORY, d, max_inodes=200)
        names = [bytes([c]) for c in b"pqrstu"]

        async def step(client: Meta, caller: Caller) -> None:
            d, e = rng.choice(dirs), rng.choice(dirs)
            name, to = rng.choice(names), rng.choice(names)
            what = rng.randrange(9)
            try:
                if what == 0:
                    await client.create(d, name, 0o666, 0, caller)
                elif what == 1:
                    dirs.append((await client.mkdir(d, name, 0o777, 0, caller))[0])
                elif what in (2, 3):
                    await client.rename(d, rng.choice([name, b"sub"]), e, to, rng.choice([0, 0, RENAME_EXCHANGE]))
                elif what == 4:
                    await client.unlink(d, name, skip_trash=rng.random() < 0.5)
                elif what == 5:
                    await client.rmdir(d, name, skip_trash=rng.random() < 0.5)
                else:
                    ino, _ = await client.lookup(d, name)
                    if what == 6:
                        await client.link(ino, e, to)
                    elif what == 7:
                        await client.truncate(ino, rng.randrange(100_000))
                    else:
                        await client.setattr(ino, {"uid": rng.choice([0, 1000]), "gid": rng.choice([0, 7])})
            except FsError as error:
                assert error.errno != errno.EIO, error

        async with self.second_client(meta) as other:
            callers = (Caller(), Caller(1000, (7,), 0, False))
            await asyncio.gather(*(self._steps(step, c, caller) for c in (meta, other) for caller in callers))
            await self.idle(other)
        await self.assert_exact(meta)

    @staticmethod
    async def _steps(step, client: Meta, caller: Caller) -> None:  # type: ignore[no-untyped-def]
        for _ in range(60):
            await step(client, caller)

    async def test_a_quota_is_counted_exactly_while_others_write(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        subs = [(await meta.mkdir(d, b"%d" % i))[0] for i in range(5)]
        for sub in subs:
            for i in range(20):
                await meta.create(sub, b"old%d" % i)
        stop = asyncio.Event()

        async def busy(number: int) -> None:
            rng = random.Random(number)
            count = 0
            while not stop.is_set():
                name = b"%d-%d" % (number, count)
                count += 1
                where = rng.choice(subs)
                ino, _ = await meta.create(where, name)
                await meta.truncate(ino, rng.randrange(50_000))
                if rng.random() < 0.5:
                    await meta.rename(where, name, rng.choice(subs), name)
                elif rng.random() < 0.7:
                    await meta.unlink(where, name, skip_trash=True)
                await asyncio.sleep(0)

        workers = [asyncio.create_task(busy(n)) for n in range(3)]
        try:
            for _ in range(3):
                await meta.set_quota(DIRECTORY, d, max_inodes=1_000_000)
                for _ in range(20):
                    await asyncio.sleep(0)
                checked = await meta.check_quota(d)
                assert tuple(checked.missing) == (0, 0, True)
                await meta.store.commit([], [(ADD, k.quota(DIRECTORY, d), (4096, -3))])
                await meta.check_quota(d, repair=True)
                checked = await meta.check_quota(d)
                assert tuple(checked.missing) == (0, 0, True)
                await meta.delete_quota(DIRECTORY, d)
            await meta.set_quota(DIRECTORY, d, max_inodes=1_000_000)
        finally:
            stop.set()
            await asyncio.gather(*workers)
        await self.assert_exact(meta)
