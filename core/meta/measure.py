# SPDX-License-Identifier: Apache-2.0
"""Usage of a tree at one moment, exact while others create, write and remove in it.

The statistics of directories change in the same transaction as the entries they sum up. So the usage of a tree is the
sum of the statistics of its directories, provided that all of them, and the quota record that they are compared with,
come from one snapshot (one `read`), and that the set of directories is the right one at that moment. The latter shows
in the same snapshot: a directory that came or went changed the link count of the one that holds it, one that moved
names another parent. What changed is explored again until a snapshot agrees.

Source: metadata-semantics §2.4, §3.4, §13.3.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from core.meta import keys as k
from core.meta.records import DIRECTORY, FILE, Attr, DirStat, Quota, node_space

if TYPE_CHECKING:
    from core.meta.statistics import Statistics

#: Directories of one snapshot; a larger tree is read in parts and then is not exact.
MAX_SNAPSHOT: Final = 20_000
_BATCH: Final = 500
_LISTINGS: Final = 50
_ROUNDS: Final = 20
_PROOFS: Final = 5


class TreeUsage(NamedTuple):
    """What lies below a directory, itself not counted. stored: its quota record at the same moment.

    exact: one snapshot of a known set of directories. directories: how many there are.
    """

    space: int
    inodes: int
    length: int
    directories: int
    stored: Quota | None
    exact: bool


class TreeMeasure:
    """One measurement; `run` may be called again, which explores only what changed."""

    def __init__(self, meta: Statistics, top: int, *, strict: bool = False) -> None:
        self.meta = meta
        self.top = top
        self.strict = strict
        self._parent: dict[int, int] = {top: 0}
        self._nlink: dict[int, int] = {}
        self._children: dict[int, set[int]] = {}
        self._errors: dict[int, DirStat] = {}  # proven errors of statistics (strict)
        self._missing: set[int] = set()  # of those: there was no record at all
        self._todo: set[int] = {top}
        self.statistics: dict[int, DirStat | None] = {}  # of every directory, in the last snapshot

    async def run(self) -> TreeUsage:
        """ENOENT-free: a directory that vanishes has no usage any more."""
        usage = TreeUsage(0, 0, 0, 0, None, False)
        for _ in range(_ROUNDS):
            await self._explore()
            usage = await self._snapshot()
            if usage.exact or not self._todo:
                break
        return usage

    @property
    def wrong(self) -> list[int]:
        """Directories whose statistics are proven to be wrong (strict only)."""
        return [ino for ino, error in self._errors.items() if any(error)]

    async def mend(self) -> None:
        """Set those right."""
        for ino in self.wrong:
            await self.meta.recount_directory(ino)
            del self._errors[ino]

    # -- which directories -----------------------------------------------------------------------------------------

    async def _explore(self) -> None:
        while self._todo:
            batch = [self._todo.pop() for _ in range(min(_BATCH, len(self._todo)))]
            batch = [ino for ino in batch if ino in self._parent]
            if not batch:
                continue
            # Attributes first: what changes during the listing then shows in the snapshot.
            attrs = await self.meta.store.read(*(k.node(ino) for ino in batch))
            for at in range(0, len(batch), _LISTINGS):
                await asyncio.gather(
                    *(self._visit(ino, attr) for ino, attr in zip(batch[at:], attrs[at : at + _LISTINGS], strict=False))
                )

    async def _visit(self, ino: int, attr: Attr | None) -> None:
        if attr is None or attr.type != DIRECTORY:
            self._forget(ino)
            return
        found: set[int] = set()
        if self.strict:
            found = await self._prove(ino)
        elif attr.nlink > 2 or ino in self._children:
            found = await self._subdirectories(ino)
        self._nlink[ino] = attr.nlink
        for gone in self._children.get(ino, set()) - found:
            if self._parent.get(gone) == ino:
                self._forget(gone)
        for child in found:
            if self._parent.get(child) != ino:
                self._parent[child] = ino
                self._todo.add(child)
        self._children[ino] = found

    async def _subdirectories(self, ino: int) -> set[int]:
        found: set[int] = set()
        after = b""
        while page := await self.meta.readdir(ino, after, 1000):
            found.update(e.ino for e in page if e.type == DIRECTORY)
            after = page[-1].name
            if len(page) < 1000:
                break
        return found

    async def _prove(self, ino: int) -> set[int]:
        """List a directory with attributes; what its statistics lack is known if nothing changed meanwhile."""
        keys = (k.node(ino), k.dirstat(ino))
        found: set[int] = set()
        before = await self.meta.store.read(*keys)
        for _ in range(_PROOFS):
            found.clear()
            stat, after = DirStat(0, 0, 0), b""
            while page := await self.meta.readdir(ino, after, 1000, attrs=True):
                found.update(e.ino for e in page if e.type == DIRECTORY)
                stat = DirStat(
                    stat.length + sum(e.attr.length for e in page if e.attr is not None and e.type == FILE),
                    stat.space + sum(node_space(e.attr) if e.attr is not None else 4096 for e in page),
                    stat.inodes + len(page),
                )
                after = page[-1].name
                if len(page) < 1000:
                    break
            now = await self.meta.store.read(*keys)
            if now == before:
                old = before[1] or DirStat(0, 0, 0)
                self._errors[ino] = DirStat(*(a - b for a, b in zip(stat, old, strict=True)))
                self._missing.discard(ino)
                if before[1] is None:
                    self._missing.add(ino)
                break
            before = now
        return found

    def _forget(self, ino: int) -> None:
        waiting = [ino]
        while waiting:
            gone = waiting.pop()
            if gone == self.top:
                continue
            self._parent.pop(gone, None)
            self._nlink.pop(gone, None)
            self._errors.pop(gone, None)
            waiting += [c for c in self._children.pop(gone, ()) if self._parent.get(c) == gone]

    # -- all of them at once -----------------------------------------------------------------------------------------

    async def _snapshot(self) -> TreeUsage:
        inodes = list(self._parent)
        whole = len(inodes) <= MAX_SNAPSHOT
        space = count = length = 0
        stored: Quota | None = None
        self.statistics.clear()
        for at in range(0, len(inodes), MAX_SNAPSHOT):
            part = inodes[at : at + MAX_SNAPSHOT]
            quota, *values = await self.meta.store.read(
                k.quota(0, self.top), *(k.dirstat(i) for i in part), *(k.node(i) for i in part)
            )
            if at == 0:
                stored = quota
            for ino, stat, attr in zip(part, values[: len(part)], values[len(part) :], strict=True):
                self._verify(ino, attr)
                self.statistics[ino] = stat
                wrong = self._errors.get(ino)
                if stat is not None and ino in self._missing:
                    wrong = None  # somebody counted it meanwhile
                if wrong is None and (stat is None or min(stat) < 0):
                    stat = await self._without_statistics(ino)
                    whole = False
                a, b = stat or DirStat(0, 0, 0), wrong or DirStat(0, 0, 0)
                length += a.length + b.length
                space += a.space + b.space
                count += a.inodes + b.inodes
        return TreeUsage(space, count, length, len(inodes), stored, whole and not self._todo)

    def _verify(self, ino: int, attr: Attr | None) -> None:
        """Put on the list whatever is not as it was when it was explored."""
        if ino == self.top:
            if attr is not None and attr.nlink != self._nlink.get(ino, attr.nlink):
                self._todo.add(ino)
            return
        if attr is None or attr.parent != self._parent[ino]:
            self._todo.add(self._parent[ino])
            if attr is not None and attr.parent in self._parent:
                self._todo.add(attr.parent)
        elif attr.nlink != self._nlink.get(ino):
            self._todo.add(ino)

    async def _without_statistics(self, ino: int) -> DirStat:
        """A directory without a (usable) record: counted from its listing, and stored where that is allowed."""
        if not self.meta.read_only:
            await self.meta.recount_directory(ino)
            self._todo.add(ino)  # once more, with what was stored
            (stat,) = await self.meta.store.read(k.dirstat(ino))
            if stat is not None and min(stat) >= 0:
                return DirStat(*stat)
        return await self.meta.sum_entries(ino)
