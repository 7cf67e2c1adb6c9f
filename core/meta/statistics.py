# SPDX-License-Identifier: Apache-2.0
"""Directory statistics counted anew from a listing. Source: spec metadata-semantics §2.4."""

from __future__ import annotations

from typing import Final

from core.errors import Conflict
from core.meta import keys as k
from core.meta.namespace import Namespace
from core.meta.records import FILE, DirStat, node_space
from core.meta.store import EXACT, PUT

_RECOUNTS: Final = 5


class Statistics(Namespace):
    """Mixin of `Meta`."""

    async def recount_directory(self, ino: int) -> None:
        """Write the statistics of a directory anew from a listing, if the directory still exists.

        Only if nothing changed it meanwhile; a directory that never rests keeps what it has, and the next change of
        one without a record comes here again.
        """
        for _ in range(_RECOUNTS):
            attr, old = await self.store.read(k.node(ino), k.dirstat(ino))
            if attr is None:
                return
            stat = await self.sum_entries(ino)
            try:
                await self.store.commit(
                    [(EXACT, k.node(ino), attr), (EXACT, k.dirstat(ino), old)], [(PUT, k.dirstat(ino), stat)]
                )
                return
            except Conflict:
                continue

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
