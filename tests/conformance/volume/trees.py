# SPDX-License-Identifier: Apache-2.0
"""Volume suite: recursive remove, summary, paths. Source: spec metadata-semantics §4.10, §13."""

from __future__ import annotations

import asyncio
import errno

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.quota import DIRECTORY
from core.meta.records import ROOT, TRASH
from core.meta.store import DELETE
from core.meta.tree import Summary, TreeSummary
from tests.conformance.volume.base import USER, VolumeBase


class Trees(VolumeBase):
    async def plant(self, meta: Meta) -> int:
        """/t with 3 directories, 5 names of 4 files and a symlink: 7 entries below x and y, 9 in all."""
        t, _ = await meta.mkdir(ROOT, b"t", 0o777)
        x, _ = await meta.mkdir(t, b"x", 0o777)
        y, _ = await meta.mkdir(x, b"y", 0o777)
        for parent, name, length in ((t, b"a", 5), (x, b"b", 5000), (y, b"c", 0), (y, b"d", 100_000)):
            ino, _ = await meta.create(parent, name)
            await meta.truncate(ino, length)
        await meta.link(ino, t, b"e")
        await meta.symlink(x, b"l", b"target")
        return t

    async def failed(self, call: object, code: int) -> None:
        with pytest.raises(FsError) as e:
            await call  # type: ignore[misc]
        assert e.value.errno == code, e.value

    # -- remove ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("skip_trash", [True, False])
    async def test_a_tree_goes_with_everything_in_it(self, meta: Meta, skip_trash: bool) -> None:
        t = await self.plant(meta)
        await meta.set_quota(DIRECTORY, ROOT)
        seen: list[int] = []
        assert await meta.remove_tree(ROOT, b"t", skip_trash=skip_trash, threads=3, progress=seen.append) == 9
        assert seen == list(range(1, 10))
        await self.failed(meta.lookup(ROOT, b"t"), errno.ENOENT)
        assert (await meta.get_quota(DIRECTORY, ROOT)).used_inodes == 0
        await self.idle(meta)
        if skip_trash:
            assert await meta.count_all() == (0, 0)
        else:
            (hour,) = await meta.readdir(TRASH)
            assert len(await meta.readdir(hour.ino)) == 9  # flat, each by itself
            assert (await meta.getattr(t)).in_trash

    async def test_a_file_is_a_tree_of_one(self, meta: Meta) -> None:
        await meta.create(ROOT, b"f")
        assert await meta.remove_tree(ROOT, b"f") == 1
        await self.failed(meta.remove_tree(ROOT, b"f"), errno.ENOENT)

    async def test_large_and_deep_directories_need_no_recursion(self, meta: Meta) -> None:
        t, _ = await meta.mkdir(ROOT, b"t")
        await asyncio.gather(*(meta.create(t, b"%d" % i) for i in range(2200)))
        at = t
        for _ in range(120):
            at, _ = await meta.mkdir(at, b"d")
        assert await meta.remove_tree(ROOT, b"t", skip_trash=True) == 2321

    async def test_what_the_caller_may_not_remove_stays(self, meta: Meta) -> None:
        t = await self.plant(meta)
        await self.failed(meta.remove_tree(ROOT, b"t", USER, skip_trash=True), errno.EPERM)
        z, _ = await meta.mkdir(t, b"z", 0o755)
        await meta.create(z, b"root's")
        await self.failed(meta.remove_tree(ROOT, b"t", USER), errno.EACCES)
        assert await meta.lookup(z, b"root's")

    async def test_the_trash_is_emptied_and_stays(self, meta: Meta) -> None:
        await self.plant(meta)
        await meta.remove_tree(ROOT, b"t")
        (hour,) = await meta.readdir(TRASH)
        await self.failed(meta.remove_tree(ROOT, b".trash", USER), errno.EPERM)
        assert await meta.remove_tree(TRASH, hour.name) == 9
        assert await meta.readdir(TRASH) == [hour]
        await meta.create(ROOT, b"f")
        await meta.unlink(ROOT, b"f")
        assert await meta.remove_tree(ROOT, b".trash") == 1
        assert await meta.readdir(hour.ino) == []
        await self.idle(meta)
        assert await meta.count_all() == (4096, 1)  # the hourly directory

    async def test_two_removers_share_the_work(self, meta: Meta) -> None:
        await self.plant(meta)
        done = await asyncio.gather(
            *(meta.remove_tree(ROOT, b"t", skip_trash=True) for _ in range(2)), return_exceptions=True
        )
        counts = [n for n in done if isinstance(n, int)]
        assert sum(counts) <= 9
        assert all(isinstance(n, int) or (isinstance(n, FsError) and n.errno == errno.ENOENT) for n in done)
        await self.failed(meta.lookup(ROOT, b"t"), errno.ENOENT)

    async def test_what_comes_meanwhile_goes_too(self, meta: Meta) -> None:
        t = await self.plant(meta)

        def refill(count: int) -> None:
            if count == 8:
                meta.spawn(self._create(meta, t))

        assert await meta.remove_tree(ROOT, b"t", skip_trash=True, threads=1, progress=refill) in (9, 10)
        await self.failed(meta.lookup(ROOT, b"t"), errno.ENOENT)

    @staticmethod
    async def _create(meta: Meta, parent: int) -> None:
        try:
            await meta.create(parent, b"late")
        except FsError as e:
            assert e.errno == errno.ENOENT

    async def test_cancelling_leaves_a_volume_in_order(self, meta: Meta) -> None:
        t, _ = await meta.mkdir(ROOT, b"t")
        for i in range(100):
            await meta.create(t, b"%d" % i)
        began = asyncio.Event()
        work = asyncio.create_task(
            meta.remove_tree(ROOT, b"t", skip_trash=True, threads=4, progress=lambda n: began.set())
        )
        await began.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        left = await meta.readdir(ROOT)
        if left:  # a store that never waits is done before anybody can cancel
            await meta.remove_tree(ROOT, b"t", skip_trash=True)

    # -- summary ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("strict", [True, False])
    async def test_summary_of_a_tree(self, meta: Meta, strict: bool) -> None:
        t = await self.plant(meta)
        size = 3 * 4096 + 4096 + 8192 + 4096 + 2 * 102_400 + 4096
        assert await meta.summary(t, strict=strict) == Summary(5 + 5000 + 200_000, size, 6, 3)
        assert await meta.summary(t, recursive=False) == Summary(100_005, 4096 + 4096 + 4096 + 102_400, 2, 2)
        d, _ = await meta.lookup(t, b"e")
        assert await meta.summary(d) == Summary(100_000, 102_400, 1, 0)
        await self.failed(meta.summary(99_999), errno.ENOENT)

    async def test_summary_by_statistics_costs_one_trip_for_many_directories(self, meta: Meta) -> None:
        t, _ = await meta.mkdir(ROOT, b"t")
        for i in range(50):
            d, _ = await meta.mkdir(t, b"%d" % i)
            await meta.create(d, b"f")
        with meta.store.round_trips() as n:
            assert await meta.summary(t) == Summary(0, (1 + 50 + 50) * 4096, 50, 51)
        assert n.count <= 4

    async def test_summary_counts_what_has_no_statistics(self, meta: Meta) -> None:
        t = await self.plant(meta)
        want = await meta.summary(t)
        x, _ = await meta.lookup(t, b"x")
        await meta.store.commit([], [(DELETE, k.dirstat(x), None)])
        assert await meta.summary(t) == want

    @pytest.mark.parametrize("strict", [True, False])
    async def test_tree_summary_shows_the_largest_and_sums_the_rest(self, meta: Meta, strict: bool) -> None:
        t = await self.plant(meta)
        whole = await meta.tree_summary(t, depth=2, top=2, strict=strict)
        assert whole.total == await meta.summary(t, strict=True)
        assert [(c.name, c.total.size) for c in whole.children] == [
            (b"x", 4096 + 8192 + 4096 + 4096 + 4096 + 102_400), (b"e", 102_400), (b"...", 4096),
        ]  # fmt: skip
        below: TreeSummary = whole.children[0]
        assert [(c.name, c.type, c.total.files, c.total.dirs, bool(c.children)) for c in below.children] == [
            (b"y", 2, 2, 1, False), (b"b", 1, 1, 0, False), (b"...", 1, 1, 0, False),
        ]  # fmt: skip
        assert (await meta.tree_summary(t, depth=0)).children == []
        file = await meta.tree_summary((await meta.lookup(t, b"a"))[0])
        assert file.total == Summary(5, 4096, 1, 0)

    # -- paths -----------------------------------------------------------------------------------------------------

    async def test_paths_of_everything(self, meta: Meta) -> None:
        t = await self.plant(meta)
        x, _ = await meta.lookup(t, b"x")
        d, _ = await meta.lookup(t, b"e")
        assert await meta.paths(ROOT) == [b"/"]
        assert await meta.paths(TRASH) == [b"/.trash"]
        assert await meta.paths(x) == [b"/t/x"]
        assert await meta.paths(d) == [b"/t/e", b"/t/x/y/d"]
        await meta.link(d, t, b"f")
        assert await meta.paths(d) == [b"/t/e", b"/t/f", b"/t/x/y/d"]
        a, _ = await meta.lookup(t, b"a")
        await meta.unlink(t, b"a")
        (hour,) = await meta.readdir(TRASH)
        assert await meta.paths(a) == [b"/.trash/" + hour.name + b"/%d-%d-a" % (t, a)]
        await self.failed(meta.paths(99_999), errno.ENOENT)
        meta.opened(a)
        await meta.unlink(hour.ino, b"%d-%d-a" % (t, a))
        assert await meta.paths(a) == []
        await meta.closed(a)
