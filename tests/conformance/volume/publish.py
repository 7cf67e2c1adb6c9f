# SPDX-License-Identifier: Apache-2.0
"""Publish: one transaction from stored content to a visible file, and what it costs."""

from __future__ import annotations

import errno

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import Exists
from core.meta.caller import Condition
from core.meta.meta import Meta
from core.meta.namespace import SymlinkInPath
from core.meta.publish import Content, GuardChanged, ImplicitDirs
from core.meta.records import ROOT, Slice
from tests.conformance.volume.base import NOW, VolumeBase


class Publishing(VolumeBase):
    async def test_publish_makes_everything_in_two_trips(self, meta: Meta) -> None:
        await meta.publish(ROOT, [b"warm"], Content(0, {}))
        dirs = ImplicitDirs(0o755, 0, {b"s3-ext": b"{}"})
        with meta.store.round_trips() as n:
            made = await meta.publish(
                ROOT, [b"a", b"b", b"c", b"f"], self.content(9001, 10), mode=0o640, xattrs={b"s3-etag": b"x"},
                mtime_ns=NOW, parents=dirs,
            )  # fmt: skip
        assert n.count == 2
        found = await meta.store.resolve(ROOT, [b"a", b"b", b"c", b"f"], xattrs=True, chunk=True)
        assert found.steps[-1].attr == made.attr
        assert (made.attr.length, made.attr.mtime_ns, made.attr.mode) == (10, NOW, 0o640)
        assert found.xattrs == {b"s3-etag": b"x"}
        assert [s.attr.nlink for s in found.steps] == [3, 3, 2, 1]
        assert await meta.listxattr(found.steps[1].entry.ino) == [b"s3-ext"]

    async def test_publish_into_a_known_directory_takes_one_trip(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        await meta.publish(ROOT, [b"d", b"first"], self.content(9000, 10))
        with meta.store.round_trips() as n:
            new = await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert n.count == 1
        with meta.store.round_trips() as n:
            over = await meta.publish(ROOT, [b"d", b"f"], self.content(9002, 20))
        assert n.count <= 5  # the first use of the trash makes its directory
        assert over.replaced and (await meta.getattr(new.ino)).in_trash
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9003, 30))
        assert n.count == 1

    async def test_publish_over_what_others_have_changed_takes_two_trips(self, meta: Meta) -> None:
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await meta.mkdir(ROOT, b"d")
        for warm in (8998, 8999):
            await meta.publish(ROOT, [b"d", b"warm"], self.content(warm, 10))
        d, _ = await meta.lookup(ROOT, b"d")

        async def replaced() -> int:
            return (await other.publish(ROOT, [b"d", b"f"], self.content(9100, 11))).ino

        async def changed() -> int:
            ino, _ = await other.lookup(d, b"f")
            await other.setattr(ino, {"mode": 0o600})
            return ino

        async def made_by_others() -> int:
            await other.rename(d, b"f", d, b"g")
            return (await other.create(d, b"f"))[0]

        await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        for at, change in enumerate((replaced, changed, made_by_others)):
            old = await change()
            with meta.store.round_trips() as n:
                await meta.publish(ROOT, [b"d", b"f"], self.content(9200 + at, 12))
            assert n.count == 2, change.__name__
            assert (await meta.getattr(old)).in_trash
        await other.unlink(d, b"f")
        with meta.store.round_trips() as n:
            made = await meta.publish(ROOT, [b"d", b"f"], self.content(9300, 13))
        assert n.count == 2
        assert not made.replaced

    async def test_publish_notices_that_a_known_path_leads_elsewhere_now(self, meta: Meta) -> None:
        """Another client moved the directory away and made a new one of the same name."""
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await meta.mkdir(ROOT, b"d")
        await meta.publish(ROOT, [b"d", b"warm"], self.content(9000, 10))
        await other.rename(ROOT, b"d", ROOT, b"old")
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert e.value.errno == errno.ENOENT
        new, _ = await other.mkdir(ROOT, b"d")
        made = await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10))
        assert made.attr.parent == new
        await other.setattr(new, {"mode": 0o2755, "gid": 9})
        made = await meta.publish(ROOT, [b"d", b"g"], self.content(9004, 10))
        assert made.attr.gid == 9
        await other.setattr(new, {"flags": 1})
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"d", b"h"], self.content(9005, 10))
        assert e.value.errno == errno.EPERM
        await other.setattr(new, {"flags": 0})

    async def test_publish_replaces_and_trashes(self, meta: Meta) -> None:
        old = await meta.publish(ROOT, [b"f"], self.content(9001, 10))
        new = await meta.publish(ROOT, [b"f"], self.content(9002, 20))
        assert new.replaced and new.ino != old.ino
        assert (await meta.getattr(old.ino)).in_trash
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"f"], self.content(9003, 30))
        assert n.count == 1
        await self.set_trash(meta, 0)
        await meta.publish(ROOT, [b"f"], self.content(9004, 40))
        await self.idle(meta)
        assert self.removed == [(9003, 30)]

    async def test_publish_conditions(self, meta: Meta) -> None:
        made = await meta.publish(ROOT, [b"f"], Content(0, {}), condition=Condition(absent=True))
        with pytest.raises(Exists):
            await meta.publish(ROOT, [b"f"], Content(0, {}), condition=Condition(absent=True))
        seen = Condition(ino=made.ino, mtime_ns=made.attr.mtime_ns, ctime_ns=made.attr.ctime_ns)
        await meta.publish(ROOT, [b"f"], Content(0, {}), condition=seen)
        for name in (b"f", b"gone"):
            with pytest.raises(FsError) as e:
                await meta.publish(ROOT, [name], Content(0, {}), condition=seen)
            assert e.value.errno == errno.ESTALE

    async def test_publish_errors(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        await meta.create(ROOT, b"f")
        for names, code in (
            ([b"none", b"x"], errno.ENOENT), ([b"f", b"x"], errno.ENOTDIR), ([b"d"], errno.EISDIR),
            ([], errno.EISDIR), ([b".trash"], errno.EPERM),
        ):  # fmt: skip
            with pytest.raises(FsError) as e:
                await meta.publish(ROOT, names, Content(0, {}))
            assert e.value.errno == code
        await meta.publish(ROOT, [b"d"], Content(0, {}), replace_empty_dir=True)
        await meta.mkdir(ROOT, b"e")
        e_ino, _ = await meta.lookup(ROOT, b"e")
        await meta.create(e_ino, b"x")
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"e"], Content(0, {}), replace_empty_dir=True)
        assert e.value.errno == errno.EISDIR

    async def test_pieces_of_a_shared_slice_are_counted(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        for at in range(3):
            piece = Content(10, {0: [Slice(0, 8001, 30, at * 10, 10)]}, fresh=((8001, 30, 3),))
            await meta.publish(ROOT, [b"f%d" % at], piece)
        for at in range(3):
            assert self.removed == []
            await meta.unlink(ROOT, b"f%d" % at)
            await self.idle(meta)
        assert self.removed == [(8001, 30)]

    async def test_copies_share_slices(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        src = await meta.publish(ROOT, [b"src"], self.content(8001, 100))
        (raw,) = await meta.store.read(k.chunk(src.ino, 0))
        copy = Content(60, {0: [Slice(0, 8001, 100, 40, 60)]}, shared=((8001, 100, 1),), sources=((src.ino, 0, raw),))
        await meta.publish(ROOT, [b"dst"], copy)
        await meta.unlink(ROOT, b"src")
        await self.idle(meta)
        assert self.removed == []
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"late"], copy)
        assert e.value.errno == errno.ESTALE
        await meta.unlink(ROOT, b"dst")
        await self.idle(meta)
        assert self.removed == [(8001, 100)]

    async def test_a_file_hands_on_what_isnt_its_content(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        old = await meta.publish(
            ROOT, [b"d", b"f"], self.content(9001, 10), mode=0o640, xattrs={b"user.kept": b"1", b"s3-etag": b"x"}
        )
        await meta.setattr(old.ino, {"uid": 7, "gid": 8})
        new = await meta.publish(
            ROOT, [b"d", b"f"], self.content(9002, 20), xattrs={b"s3-meta": b"{}"}, inherit=(b"s3-etag",)
        )
        assert new.replaced and (new.attr.mode, new.attr.uid, new.attr.gid, new.attr.length) == (0o640, 7, 8, 20)
        assert await meta.getattr(new.ino) == new.attr
        found = await meta.store.resolve(ROOT, [b"d", b"f"], xattrs=True)
        assert found.xattrs == {b"user.kept": b"1", b"s3-meta": b"{}"}
        await self.idle(meta)
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9003, 30), inherit=(b"s3-etag",))
        assert n.count <= 2
        fresh = await meta.publish(ROOT, [b"d", b"g"], self.content(9004, 1), mode=0o600, inherit=(b"s3-etag",))
        assert not fresh.replaced and (fresh.attr.mode, fresh.attr.uid) == (0o600, 0)

    async def test_only_a_file_hands_on(self, meta: Meta) -> None:
        await meta.symlink(ROOT, b"link", b"elsewhere")
        await meta.mkdir(ROOT, b"dir")
        with pytest.raises(SymlinkInPath):
            await meta.publish(ROOT, [b"link"], self.content(9001, 10), inherit=())
        with pytest.raises(FsError) as e:
            await meta.publish(ROOT, [b"dir"], self.content(9002, 10), inherit=())
        assert e.value.errno == errno.EISDIR

    async def test_what_a_publish_rests_upon_must_still_be_so(self, meta: Meta) -> None:
        await meta.mkdir(ROOT, b"d")
        watched, _ = await meta.mkdir(ROOT, b"watched")
        await meta.publish(ROOT, [b"d", b"warm"], self.content(9000, 10))
        seen = (k.node(watched), await meta.getattr(watched))
        with meta.store.round_trips() as n:
            await meta.publish(ROOT, [b"d", b"f"], self.content(9001, 10), guards=[seen])
        assert n.count == 1
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await other.publish(ROOT, [b"watched", b"came"], Content(0, {}))
        with pytest.raises(GuardChanged):
            await meta.publish(ROOT, [b"d", b"f"], self.content(9002, 20), guards=[seen])
        assert (await meta.lookup(ROOT, b"d"))[0]
        kept = await meta.store.resolve(ROOT, [b"d", b"f"])
        assert kept.steps[-1].attr is not None and kept.steps[-1].attr.length == 10
        now = (k.node(watched), await meta.getattr(watched))
        await meta.publish(ROOT, [b"d", b"f"], self.content(9003, 30), guards=[now])
        await meta.remove_tree(ROOT, b"watched", skip_trash=True)
        with pytest.raises(GuardChanged):
            await meta.publish(ROOT, [b"d", b"f"], self.content(9004, 40), guards=[now])
