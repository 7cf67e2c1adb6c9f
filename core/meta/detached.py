# SPDX-License-Identifier: Apache-2.0
"""Detached trees: what a clone builds before it gets a name, and their removal if it never does.

The top of such a tree is in no directory and has no parent; a detached record says since when it stands. Whoever
removes one claims it first by changing that record, and whoever attaches one verifies the record, so that a tree is
never attached and removed at the same time. Directory quotas don't know of detached trees, so their nodes aren't
taken from any; the volume's usage and the owners' counts them all the time.
Source: spec metadata-semantics §13.2, §14.1; format §1.14, §3.6.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from core.errors import Conflict, FsError, SluiceError
from core.failpoints import point
from core.meta import keys as k
from core.meta.jobs import Jobs
from core.meta.records import DIRECTORY, FILE, SYMLINK, Attr, DirStat, node_space
from core.meta.store import EXACT, PUT, Tx

log = logging.getLogger("sluice.clone")

DETACHED_S: Final = 24 * 3600
#: Value of a detached record whose tree is being removed: old enough for every client's cleaning.
_CLAIMED: Final = 1
_PAGE: Final = 1000


class _Place(NamedTuple):
    """A directory of a tree on the way down; the top has parent 0."""

    parent: int
    name: bytes
    ino: int


class Detached(Jobs):
    """Mixin of `Meta`."""

    async def clean_detached(self, min_age_s: int = DETACHED_S) -> int:
        """Remove trees whose clone never ended; returns how many. One that can't be removed now is left for later."""
        edge = self._now_s() - min_age_s
        old = [(key[1], when) async for key, when in self.store.scan(k.DETACHED) if when <= edge]
        done = 0
        for ino, when in old:
            try:
                done += await self.remove_detached(ino, when)
            except (SluiceError, FsError) as e:
                log.warning("detached tree %d stays for the next time: %s", ino, e)
        return done

    async def remove_detached(self, ino: int, when: int) -> bool:
        """Remove a detached tree and release what it uses. False if its record isn't what was seen: attached."""
        try:
            await self.store.commit([(EXACT, k.detached(ino), when)], [(PUT, k.detached(ino), _CLAIMED)])
        except Conflict:
            return False
        await point("detached.claimed")
        waiting = [_Place(0, b"", ino)]
        while waiting:
            place = waiting[-1]
            page = await self.readdir(place.ino, b"", _PAGE)
            files = [entry.name for entry in page if entry.type != DIRECTORY]
            step = max(self.touch_limit() // 8, 1)
            for at in range(0, len(files), step):
                await self.remove_names(place.ino, files[at : at + step])
            below = [_Place(place.ino, entry.name, entry.ino) for entry in page if entry.type == DIRECTORY]
            if below:
                waiting += below
            elif not page and await self._remove_directory(place):
                waiting.pop()
        return True

    async def remove_names(self, parent: int, names: Sequence[bytes]) -> None:
        """Entries of a detached directory that are no directories, with their nodes, whatever their flags say."""

        async def body(tx: Tx) -> Tx:
            entries = await tx.read(*(k.entry(parent, name) for name in names))
            there = [(name, entry) for name, entry in zip(names, entries, strict=True) if entry is not None]
            nodes = await tx.read(*(k.node(entry.ino) for _, entry in there)) if there else []
            gone: list[Attr] = []
            for (name, entry), attr in zip(there, nodes, strict=True):
                tx.delete(k.entry(parent, name))
                if attr is None:
                    continue
                gone.append(attr)
                tx.delete(k.node(entry.ino))
                tx.delete(k.xattrs(entry.ino))
                if attr.type == SYMLINK:
                    tx.delete(k.symlink(entry.ino))
                elif attr.type == FILE:
                    tx.put(k.delfile(entry.ino, attr.length), self._now_s())
                    tx.after.append(lambda ino=entry.ino, length=attr.length: self._deleted(ino, length))  # type: ignore[misc]
            if gone:
                await self.charge_nodes(tx, gone, -1)
                if self.dir_stats:
                    tx.add(k.dirstat(parent), sum_stat(gone, -1))
            return tx

        await self.store.transact(body)

    async def _remove_directory(self, place: _Place) -> bool:
        """False if it isn't empty: a batch of the clone got through late."""

        async def body(tx: Tx) -> bool:
            attr, occupied = await tx.read(k.node(place.ino), k.occupied(place.ino))
            if occupied:
                return False
            if attr is not None:
                tx.delete(k.node(place.ino))
                tx.delete(k.xattrs(place.ino))
                tx.delete(k.dirstat(place.ino))
                await self.charge_nodes(tx, [attr], -1)
            if place.parent:
                tx.delete(k.entry(place.parent, place.name))
            else:
                tx.delete(k.detached(place.ino))
                self.log_change(tx, "CLEANUP", place.ino)
            return True

        return await self.store.transact(body)

    async def charge_nodes(self, tx: Tx, attrs: Iterable[Attr], sign: int) -> None:
        """Usage of the volume and of owners by nodes that come or go, without any directory."""
        owners: dict[tuple[int, int], list[int]] = {}
        for attr in attrs:
            owner = owners.setdefault((attr.uid, attr.gid) if self.user_group_quota else (0, 0), [0, 0])
            owner[0] += node_space(attr)
            owner[1] += 1
        for (uid, gid), (space, inodes) in owners.items():
            await self.charge(tx, 0, 0, sign * space, sign * inodes, uid=uid, gid=gid, check=sign > 0)


def sum_stat(attrs: Iterable[Attr], sign: int = 1) -> DirStat:
    """What nodes add to the statistics of their directory."""
    length = space = inodes = 0
    for attr in attrs:
        length += attr.length if attr.type == FILE else 0
        space += node_space(attr)
        inodes += 1
    return DirStat(sign * length, sign * space, sign * inodes)
