# SPDX-License-Identifier: Apache-2.0
"""Volume suite: the trash and restoring from it. Source: spec metadata-semantics §9, §14; format §1.8."""

from __future__ import annotations

import asyncio
import errno

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.namespace import RENAME_NOREPLACE, RENAME_RESTORE
from core.meta.quota import DIRECTORY
from core.meta.records import FLAG_SKIP_TRASH, ROOT, TRASH
from core.meta.restore import Restored, parse_trash_name
from tests.conformance.volume.base import USER, VolumeBase

HOUR_NS = 3600 * 10**9


class Trash(VolumeBase):
    async def hour(self, meta: Meta) -> tuple[bytes, int]:
        """The last hourly directory."""
        last = (await meta.readdir(TRASH))[-1]
        return last.name, last.ino

    async def denied(self, call: object, code: int = errno.EPERM) -> None:
        with pytest.raises(FsError) as e:
            await call  # type: ignore[misc]
        assert e.value.errno == code, e.value

    async def plant_nest(self, meta: Meta) -> tuple[int, int, int]:
        """/t/sub/deep, a file in each: the inodes of the three directories."""
        t, _ = await meta.mkdir(ROOT, b"t")
        sub, _ = await meta.mkdir(t, b"sub")
        deep, _ = await meta.mkdir(sub, b"deep")
        for parent in (t, sub, deep):
            ino, _ = await meta.create(parent, b"f%d" % parent)
            await meta.truncate(ino, 5000)
        return t, sub, deep

    # -- what goes there -----------------------------------------------------------------------------------------

    async def test_entries_keep_their_node_and_say_where_they_were(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        ino, before = await meta.create(d, b"f", 0o640, 0, USER)
        await meta.setxattr(ino, b"user.a", b"1")
        await meta.unlink(d, b"f")
        name, hour = await self.hour(meta)
        assert name == b"2027-01-15-08"
        (entry,) = await meta.readdir(hour, attrs=True)
        assert entry.name == b"%d-%d-f" % (d, ino)
        assert parse_trash_name(entry.name) == (d, ino, b"f")
        assert entry.attr is not None and entry.attr.parent == hour and entry.attr.nlink == 1
        assert entry.attr.ctime_ns > before.ctime_ns and entry.attr.mode == 0o640
        assert await meta.getxattr(ino, b"user.a") == b"1"
        assert tuple((await meta.store.read(k.dirstat(hour)))[0]) == (0, 4096, 1)

    async def test_long_names_are_cut_and_hours_follow_the_clock(self, meta: Meta) -> None:
        ino, _ = await meta.create(ROOT, b"x" * 255)
        await meta.unlink(ROOT, b"x" * 255)
        _, hour = await self.hour(meta)
        (entry,) = await meta.readdir(hour)
        assert len(entry.name) == 255 and entry.name.startswith(b"1-%d-xxx" % ino)
        await meta.create(ROOT, b"y")
        meta.clock_ns.now_ns += HOUR_NS  # type: ignore[attr-defined]
        await meta.unlink(ROOT, b"y")
        assert [e.name for e in await meta.readdir(TRASH)] == [b"2027-01-15-08", b"2027-01-15-09"]

    async def test_what_skips_the_trash(self, meta: Meta) -> None:
        for how in ("argument", "flag", "setting"):
            ino, _ = await meta.create(ROOT, b"f")
            if how == "flag":
                await meta.setattr(ino, {"flags": FLAG_SKIP_TRASH})
            elif how == "setting":
                await self.set_trash(meta, 0)
            await meta.unlink(ROOT, b"f", skip_trash=how == "argument")
            await self.denied(meta.getattr(ino), errno.ENOENT)

    async def test_a_link_that_is_there_already_is_simply_removed(self, meta: Meta) -> None:
        ino, _ = await meta.create(ROOT, b"f")
        await meta.link(ino, ROOT, b"g")
        await meta.unlink(ROOT, b"g")
        await meta.link(ino, ROOT, b"g")
        await meta.unlink(ROOT, b"g")
        assert (await meta.getattr(ino)).nlink == 2
        _, hour = await self.hour(meta)
        assert await meta.parents(ino) == {ROOT: 1, hour: 1}

    async def test_nobody_changes_what_lies_there(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d", 0o777)
        ino, _ = await meta.create(d, b"f", 0o666, 0, USER)
        await meta.unlink(d, b"f")
        name, hour = await self.hour(meta)
        (entry,) = await meta.readdir(hour)
        await self.denied(meta.create(hour, b"x"))
        await self.denied(meta.link(ino, hour, b"x"))
        await self.denied(meta.rename(hour, entry.name, hour, b"x"))
        await self.denied(meta.rename(hour, entry.name, d, b"x", 0, USER))
        await self.denied(meta.unlink(hour, entry.name, USER))
        await self.denied(meta.rmdir(TRASH, name))
        await self.denied(meta.setattr(ino, {"mode": 0o600}))
        await self.denied(meta.truncate(ino, 5))
        await self.denied(meta.unlink(ROOT, b".trash"))
        await meta.unlink(hour, entry.name)
        await self.denied(meta.getattr(ino), errno.ENOENT)

    async def test_a_directory_leaves_its_quota_and_statistics_behind(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.set_quota(DIRECTORY, d, max_inodes=3)
        await meta.rmdir(ROOT, b"d")
        assert await meta.store.read(k.quota(0, d), k.dirstat(d)) == [None, None]
        await self.denied(meta.create(d, b"x"), errno.ENOENT)

    # -- restoring by hand -----------------------------------------------------------------------------------------

    async def test_root_renames_things_out(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        ino, _ = await meta.create(d, b"f")
        await meta.unlink(d, b"f")
        _, hour = await self.hour(meta)
        (entry,) = await meta.readdir(hour)
        await meta.rename(hour, entry.name, ROOT, b"back")
        assert (await meta.getattr(ino)).parent == ROOT
        assert tuple((await meta.store.read(k.dirstat(hour)))[0]) == (0, 0, 0)

    async def test_only_restoring_moves_into_a_removed_directory(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        ino, _ = await meta.create(d, b"f")
        await meta.unlink(d, b"f")
        await meta.rmdir(ROOT, b"d")
        _, hour = await self.hour(meta)
        name = b"%d-%d-f" % (d, ino)
        await self.denied(meta.rename(hour, name, d, b"f"), errno.ENOENT)
        await meta.rename(hour, name, d, b"f", RENAME_NOREPLACE | RENAME_RESTORE)
        assert (await meta.lookup(d, b"f"))[0] == ino

    # -- restoring an hour -------------------------------------------------------------------------------------------

    async def test_an_hour_is_put_back(self, meta: Meta) -> None:
        t, sub, deep = await self.plant_nest(meta)
        await meta.set_quota(DIRECTORY, ROOT)
        want = await meta.get_quota(DIRECTORY, ROOT)
        summary = await meta.summary(t, strict=True)
        await meta.remove_tree(ROOT, b"t")
        name, hour = await self.hour(meta)
        assert len(await meta.readdir(hour)) == 6
        seen: list[int] = []
        report = await meta.restore(name, put_back=True, progress=lambda r: seen.append(r.restored))
        assert report == Restored(restored=6)
        assert seen[-1] == 6
        assert (await meta.paths(deep)) == [b"/t/sub/deep"]
        assert await meta.summary(t, strict=True) == await meta.summary(t) == summary
        assert await meta.get_quota(DIRECTORY, ROOT) == want
        wrong = await meta.check_quotas(strict=True)
        assert wrong == [], wrong
        assert await meta.readdir(hour) == []
        assert (await meta.getattr(sub)).nlink == 3

    async def test_an_hour_is_rebuilt_where_it_lies(self, meta: Meta) -> None:
        t, sub, deep = await self.plant_nest(meta)
        keep, _ = await meta.mkdir(ROOT, b"keep")
        await meta.create(keep, b"g")
        await meta.unlink(keep, b"g")
        await meta.remove_tree(ROOT, b"t")
        name, hour = await self.hour(meta)
        assert await meta.restore(name) == Restored(restored=5, skipped=2)
        left = {e.name.split(b"-")[2] for e in await meta.readdir(hour)}
        assert left == {b"t", b"g"}
        assert await meta.paths(deep) == [b"/.trash/%s/1-%d-t/sub/deep" % (name, t)]
        assert (await meta.summary(t, strict=True)).files == 3
        await meta.set_quota(DIRECTORY, ROOT)
        assert await meta.restore(name) == Restored(skipped=2)  # nothing more to do
        assert await meta.restore(name, put_back=True) == Restored(restored=2)
        assert (await meta.summary(t)) == await meta.summary(t, strict=True)
        wrong = await meta.check_quotas(strict=True)
        assert wrong == [], wrong
        assert (await meta.lookup(sub, b"deep"))[0] == deep

    async def test_what_is_there_again_is_a_conflict(self, meta: Meta) -> None:
        ino, _ = await meta.create(ROOT, b"f")
        await meta.unlink(ROOT, b"f")
        new, _ = await meta.create(ROOT, b"f")
        name, hour = await self.hour(meta)
        assert await meta.restore(name, put_back=True) == Restored(conflicts=1)
        assert (await meta.lookup(ROOT, b"f"))[0] == new
        assert (await meta.getattr(ino)).parent == hour

    async def test_what_has_no_home_fails_with_a_reason(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        ino, _ = await meta.create(d, b"f")
        await meta.unlink(d, b"f")
        await meta.rmdir(ROOT, b"d", skip_trash=True)
        name, _ = await self.hour(meta)
        report = await meta.restore(name, put_back=True)
        assert (report.failed, report.total) == (1, 1)
        assert b"%d-%d-f" % (d, ino) in report.reasons[0].encode()
        assert await meta.restore(name) == Restored(skipped=1)

    async def test_restore_refuses(self, meta: Meta) -> None:
        await self.denied(meta.restore(b"2027-01-15-08", USER))
        await self.denied(meta.restore(b"2027-01-15-08"), errno.ENOENT)
        await self.denied(meta.restore(b"yesterday"), errno.EINVAL)

    async def test_hard_links_come_back_to_all_their_places(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        ino, _ = await meta.create(d, b"f")
        await meta.link(ino, ROOT, b"g")
        await meta.unlink(d, b"f")
        await meta.unlink(ROOT, b"g")
        name, _ = await self.hour(meta)
        assert await meta.restore(name, put_back=True) == Restored(restored=2)
        assert await meta.parents(ino) == {d: 1, ROOT: 1}
        assert (await meta.getattr(ino)).nlink == 2

    async def test_two_may_restore_the_same_hour(self, meta: Meta) -> None:
        await self.plant_nest(meta)
        await meta.set_quota(DIRECTORY, ROOT)
        await meta.remove_tree(ROOT, b"t")
        name, _ = await self.hour(meta)
        one, two = await asyncio.gather(*(meta.restore(name, put_back=True, threads=3) for _ in range(2)))
        assert one.restored + two.restored == 6
        assert one.failed + two.failed == 0, (one.reasons, two.reasons)
        wrong = await meta.check_quotas(strict=True)
        assert wrong == [], wrong

    # -- expiry ------------------------------------------------------------------------------------------------------

    async def test_hours_expire_oldest_first_and_younger_ones_stay(self, meta: Meta) -> None:
        await self.set_trash(meta, 1)
        for hours in (0, 1, 30):
            meta.clock_ns.now_ns += hours * HOUR_NS  # type: ignore[attr-defined]
            await self.plant_nest(meta)
            await meta.remove_tree(ROOT, b"t")
        assert await meta.clean_trash(24 * meta.trash_days + 2) == 12
        assert len(await meta.readdir(TRASH)) == 1
        await self.idle(meta)
        assert await meta.count_all() == (4096 * 4 + 3 * 8192, 7)

    async def test_rebuilt_trees_expire_whole(self, meta: Meta) -> None:
        await self.plant_nest(meta)
        await meta.remove_tree(ROOT, b"t")
        name, _ = await self.hour(meta)
        await meta.restore(name)
        meta.clock_ns.now_ns += 100 * HOUR_NS  # type: ignore[attr-defined]
        assert await meta.clean_trash(26) == 6
        await self.idle(meta)
        assert await meta.count_all() == (0, 0)
