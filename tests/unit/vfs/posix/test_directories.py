# SPDX-License-Identifier: Apache-2.0
"""Listings: every entry once whatever happens meanwhile, positions that stay true, few round trips.

Source: readdir(3), telldir(3), rewinddir(3); metadata-semantics §4.8.
"""

from __future__ import annotations

import errno
import os
import random
from typing import Any

import pytest

from core.meta import keys as k
from core.meta.caller import ROOT_CALLER
from core.meta.records import Entry
from core.meta.store import PUT, Write
from core.vfs.posix import listing as listings
from core.vfs.posix.attributes import Change
from core.vfs.posix.listing import position
from tests.unit.vfs.posix.names_mount import KERNEL, ROOT, USER, Mount, PosixSuite, own_names, refused


async def fill(mount: Mount, parent: int, count: int) -> list[bytes]:
    """Many entries of one node, written straight into the store."""
    mount.checked = False
    target = await mount.touch(b"target")
    names = [b"file-%06d" % i for i in range(count)]
    for at in range(0, count, 5000):
        writes: list[Write] = [(PUT, k.entry(parent, name), Entry(1, target)) for name in names[at : at + 5000]]
        await mount.posix.meta.store.commit([], writes)
    return names


class Reader:
    """Reads a directory as the kernel does: a few entries per request, then on from the last one taken."""

    def __init__(self, mount: Mount, ino: int, *, plus: bool = False, each: int = 7) -> None:
        self.mount, self.ino, self.plus, self.each = mount, ino, plus, each
        self.fh = mount.posix.opendir_nowait(ino, 0) or 0
        self.offset = 0
        self.told: dict[bytes, int] = {}  # name -> position behind it

    async def some(self) -> list[bytes]:
        found = self.mount.posix.readdir_nowait(self.fh, self.offset, self.plus)
        if found is None:
            found = await self.mount.posix.readdir(self.fh, self.ino, self.offset, self.plus)
        taken = []
        for entry in found:
            taken.append(entry.name)
            self.told[entry.name] = self.offset = entry.next_offset
            if len(taken) == self.each:
                break
        return taken

    async def rest(self) -> list[bytes]:
        names: list[bytes] = []
        while some := await self.some():
            names += some
        return names


class TestListings(PosixSuite):
    async def test_a_large_directory_takes_few_trips_and_shows_everything_once(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        names = await fill(mount, d, 20_000)
        for plus in (False, True):
            reader = Reader(mount, d, plus=plus, each=200)
            with mount.posix.meta.store.round_trips() as trips:
                found = await reader.rest()
            assert found == [b".", b"..", *names]
            assert trips.count <= 2 + 20_000 // 2048 + 3
            listing = mount.posix.directories[reader.fh]
            assert len(listing.entries) <= max(listings.PAGES)
            mount.posix.releasedir(reader.fh)

    async def test_opening_and_listing_a_small_directory_is_one_wait(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        await mount.touch(b"f", d)
        with mount.posix.meta.store.round_trips() as trips:
            reader = Reader(mount, d, plus=True)
            assert await reader.rest() == [b".", b"..", b"f"]
        assert trips.count == 2  # at the same time

    async def test_attributes_come_with_the_names(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        made = {name: await mount.touch(name, d) for name in (b"a", b"b")}
        made[b"c"] = await mount.mkdir(b"c", d)
        for entry in await mount.list(d, plus=True):
            if entry.name in made:
                assert entry.node == await mount.posix.getattr(made[entry.name])
                assert entry.type == (4 if entry.name == b"c" else 8)
        assert all(e.node is None for e in await mount.list(d))

    async def test_removing_what_was_listed_leaves_nothing_out(self, mount: Mount) -> None:
        """rm -r: reads some, removes them, reads on."""
        d = await mount.mkdir(b"d")
        names = {b"f%d" % i for i in range(700)}
        for name in names:
            await mount.touch(name, d)
        reader, seen = Reader(mount, d, plus=True, each=50), list[bytes]()
        while some := await reader.some():
            for name in own_names_of(some):
                await mount.posix.unlink(d, name, ROOT_CALLER)
                seen.append(name)
        assert len(seen) == len(names) and set(seen) == names
        await mount.posix.rmdir(ROOT, b"d", ROOT_CALLER)

    async def test_what_is_removed_ahead_is_not_shown(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        names = [b"f%03d" % i for i in range(600)]
        for name in names:
            await mount.touch(name, d)
        reader = Reader(mount, d, plus=True)
        first = await reader.some()
        for name in names[50:300]:
            await mount.posix.unlink(d, name, ROOT_CALLER)
        assert own_names_of(first + await reader.rest()) == names[:50] + names[300:]

    async def test_a_page_of_which_everything_was_removed_is_not_the_end(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        names = [b"f%03d" % i for i in range(400)]
        for name in names:
            await mount.touch(name, d)
        reader = Reader(mount, d)
        first = own_names_of(await reader.some())
        for name in names[len(first) : 300]:
            await mount.posix.unlink(d, name, ROOT_CALLER)
        assert await reader.rest() == names[300:]

    async def test_names_that_stay_are_shown_once_while_others_come_and_go(
        self, mount: Mount, rng: random.Random
    ) -> None:
        d = await mount.mkdir(b"d")
        stay = {b"s%05d" % rng.randrange(10**5) for _ in range(900)}
        go = {b"g%05d" % rng.randrange(10**5) for _ in range(400)} | {b"x%05d" % rng.randrange(10**5) for _ in range(9)}
        for name in stay | go:
            await mount.touch(name, d)
        reader, seen, new = Reader(mount, d, plus=True, each=31), list[bytes](), 0
        while some := await reader.some():
            seen += some
            for _ in range(8):
                if go and rng.random() < 0.6:
                    await mount.posix.unlink(d, go.pop(), ROOT_CALLER)
                else:
                    new += 1
                    await mount.touch(b"%sn%05d" % (rng.choice([b"a", b"s", b"z"]), rng.randrange(10**9)), d)
        assert len(seen) == len(set(seen))
        assert stay <= set(seen)

    async def test_a_replaced_name_shows_what_is_there_now(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        for i in range(20):
            await mount.touch(b"f%02d" % i, d)
        new = await mount.touch(b"new")
        reader = Reader(mount, d, plus=True, each=5)
        await reader.some()
        await mount.posix.rename(ROOT, b"new", d, b"f15", 0, ROOT_CALLER)
        found = {e.name: e for e in await mount.posix.readdir(reader.fh, d, reader.offset, True)}
        assert found[b"f15"].ino == new
        assert found[b"f15"].node == await mount.posix.getattr(new)

    async def test_attributes_that_changed_since_they_were_read_are_not_shown(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        inos = [await mount.touch(b"f%02d" % i, d) for i in range(20)]
        reader = Reader(mount, d, plus=True, each=3)
        await reader.some()
        await mount.posix.setattr(inos[9], Change(mode=0o600), ROOT_CALLER)
        fh, _ = await mount.posix.open(inos[10], os.O_WRONLY)
        await mount.posix.handles[fh].write(0, b"new")
        await mount.posix.release(fh, inos[10], 0, False)
        found = {e.name: e for e in await mount.posix.readdir(reader.fh, d, reader.offset, True)}
        assert found[b"f09"].node is None  # the kernel asks for these
        assert found[b"f10"].node is None
        assert found[b"f11"].node is not None

    async def test_attributes_that_were_read_long_ago_are_read_again(
        self, mount: Mount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        d = await mount.mkdir(b"d")
        for i in range(20):
            await mount.touch(b"f%02d" % i, d)
        reader = Reader(mount, d, plus=True, each=5)
        await reader.some()
        mount.posix.directories[reader.fh].read_at -= 2
        assert mount.posix.listing_age_s(reader.fh) >= 2
        assert mount.posix.readdir_nowait(reader.fh, reader.offset, True) is None
        assert len(await reader.rest()) == 17
        assert mount.posix.listing_age_s(reader.fh) < 1


class TestPositions(PosixSuite):
    async def test_going_back_shows_what_followed(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        names = await fill(mount, d, 3000)
        reader = Reader(mount, d, each=100)
        everything = await reader.rest()
        for name in (b".", names[0], names[255], names[256], names[1500], b"..", names[2999], names[10]):
            reader.offset = reader.told[name]
            assert await reader.rest() == everything[everything.index(name) + 1 :]
        reader.offset = 0
        assert await reader.rest() == everything

    async def test_a_position_outlives_its_name(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        names = [b"f%03d" % i for i in range(500)]
        for name in names:
            await mount.touch(name, d)
        reader = Reader(mount, d)
        await reader.rest()
        told = dict(reader.told)
        for name in (names[100], names[101], names[400]):
            await mount.posix.unlink(d, name, ROOT_CALLER)
        for at in (100, 101, 400, 5):
            reader.offset = told[names[at]]
            assert (await reader.some())[0] == names[{100: 102}.get(at, at + 1)]

    async def test_positions_of_names_that_were_given_up_are_found_again(
        self, mount: Mount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listings, "KEPT_NAMES", 100)
        d = await mount.mkdir(b"d")
        names = await fill(mount, d, 6000)
        reader = Reader(mount, d, each=500)
        await reader.rest()
        pages = mount.posix.directories[reader.fh].pages
        assert pages[0].names is None and pages[-1].names is not None
        told = dict(reader.told)
        for at in (3, 700, 2000, 5000):
            reader.offset = told[names[at]]
            assert (await reader.some())[0] == names[at + 1]

    async def test_another_process_goes_on_where_one_left(self, mount: Mount, more: Any) -> None:
        """A worker that takes a mount over, or an NFS server: the handle is unknown, the position isn't."""
        d = await mount.mkdir(b"d")
        names = await fill(mount, d, 5000)
        reader = Reader(mount, d, each=300)
        first = [name for _ in range(5) for name in await reader.some()]
        reader.mount = await more()
        assert first + await reader.rest() == [b".", b"..", *names]
        reader = Reader(mount, d, each=1)
        assert await reader.some() == [b"."]
        reader.mount = await more()
        assert (await reader.rest())[:2] == [b"..", names[0]]

    async def test_reading_each_piece_through_a_handle_of_its_own_finds_the_place_at_once(self, mount: Mount) -> None:
        """As NFS servers do."""
        d = await mount.mkdir(b"d")
        names = await fill(mount, d, 6000)
        offset, seen, most = 0, list[bytes](), 0
        while True:
            reader = Reader(mount, d, each=500)
            reader.offset = offset
            with mount.posix.meta.store.round_trips() as trips:
                some = await reader.some()
            offset = reader.offset
            mount.posix.releasedir(reader.fh)
            if not some:
                break
            most = max(most, trips.count)
            seen += some
        assert seen == [b".", b"..", *names]
        assert most <= 2

    async def test_a_position_whose_name_is_gone_starts_again_elsewhere(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        for i in range(30):
            await mount.touch(b"f%02d" % i, d)
        found = list(await mount.posix.readdir(99, d, position(7, b"gone"), False))
        assert own_names(found) == [b"f%02d" % i for i in range(30)]
        mount.posix.releasedir(99)


class TestOpening(PosixSuite):
    async def test_a_removed_directory_lists_nothing(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        before, after = Reader(mount, d), Reader(mount, d)
        assert await before.rest() == [b".", b".."]
        await mount.posix.rmdir(ROOT, b"d", ROOT_CALLER)
        assert await before.rest() == []
        assert await after.rest() == []

    async def test_what_is_no_directory_can_not_be_listed(self, mount: Mount) -> None:
        file = await mount.touch(b"f")
        fh = mount.posix.opendir_nowait(file, 0) or 0
        await refused(errno.ENOTDIR, mount.posix.readdir(fh, file, 0, False))

    async def test_a_mount_that_checks_asks_for_the_right_to_read(self, more: Any) -> None:
        mount = await more(check=True)
        d = await mount.mkdir(b"d", mode=0o700)
        assert mount.posix.opendir_nowait(d, 0) is None
        await refused(errno.EACCES, mount.posix.opendir(d, 0, USER))
        assert await mount.posix.opendir(d, 0, KERNEL)

    async def test_released_handles_are_forgotten(self, mount: Mount) -> None:
        d = await mount.mkdir(b"d")
        one, two = Reader(mount, d), Reader(mount, d)
        assert one.fh != two.fh
        assert len(mount.posix._listings[d]) == 2
        mount.posix.releasedir(one.fh)
        mount.posix.releasedir(two.fh)
        mount.posix.releasedir(12345)
        assert not mount.posix.directories and not mount.posix._listings


def own_names_of(names: list[bytes]) -> list[bytes]:
    return [name for name in names if name not in (b".", b"..")]
