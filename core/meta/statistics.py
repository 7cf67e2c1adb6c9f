# SPDX-License-Identifier: Apache-2.0
"""Directory statistics counted anew from a listing. Source: spec metadata-semantics §2.4."""

from __future__ import annotations

from typing import Final

from core.errors import Conflict
from core.meta import keys as k
from core.meta.namespace import Namespace
from core.meta.records import DIRECTORY, FILE, Attr, DirStat, node_space
from core.meta.store import DELETE, EXACT, PUT

_RECOUNTS: Final = 6
_TRIES: Final = 50
#: Stands where a directory is being counted for the first time: changes leave a trace in it, and whoever finds it
#: later counts again, because negative statistics are broken ones for every client (format §10).
_UNKNOWN: Final = DirStat(-(2**60), -(2**60), -(2**60))


class Statistics(Namespace):
    """Mixin of `Meta`."""

    async def recount_directory(self, ino: int) -> None:
        """Write the statistics of a directory anew from a listing, if the directory still exists.

        Only if nothing changed it during the listing; one that never rests keeps what it has, and one without a record
        goes on without, so that its next change comes here again.
        """
        for _ in range(_RECOUNTS):
            attr, old = await self.store.read(k.node(ino), k.dirstat(ino))
            if attr is None or attr.type != DIRECTORY:
                return
            if old is None:
                # Not every change shows in the directory's times (semantics §1.7), and none in a missing record.
                await self._commit_stat(ino, attr, None, _UNKNOWN)
                continue
            stat = await self.sum_entries(ino)
            if await self._commit_stat(ino, attr, old, stat):
                return
        await self._forget_unknown(ino)

    async def _commit_stat(self, ino: int, attr: Attr, old: DirStat | None, new: DirStat | None) -> bool:
        try:
            await self.store.commit(
                [(EXACT, k.node(ino), attr), (EXACT, k.dirstat(ino), old)],
                [(DELETE, k.dirstat(ino), None) if new is None else (PUT, k.dirstat(ino), new)],
            )
        except Conflict:
            return False
        return True

    async def _forget_unknown(self, ino: int) -> None:
        for _ in range(_TRIES):
            attr, old = await self.store.read(k.node(ino), k.dirstat(ino))
            if attr is None or old is None or min(old) >= 0 or await self._commit_stat(ino, attr, old, None):
                return

    async def sum_entries(self, ino: int) -> DirStat:
        length = space = inodes = 0
        after = b""
        while page := await self.readdir(ino, after, 1000, attrs=True):
            for e in page:
                length += e.attr.length if e.attr is not None and e.type == FILE else 0
                space += node_space(e.attr) if e.attr is not None else 4096
                inodes += 1
            after = page[-1].name
            if len(page) < 1000:
                break
        return DirStat(length, space, inodes)
