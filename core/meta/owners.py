# SPDX-License-Identifier: Apache-2.0
"""What each user and group owns: a scan of all inodes against the stored usage, and the correction.

Every inode counts once, whatever its links, also in the trash and while it is open without a name; the root and the
directories of the trash belong to nobody. Memory is bounded by the ledger. Source: spec metadata-semantics §3.1, §3.4;
format §1.7.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Final, NamedTuple

from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.jobs import Jobs
from core.meta.records import ROOT, TRASH, Attr, Quota, node_space
from core.meta.recount import PASSES, Drift, Pair, Range
from core.meta.store import ADD, PUT_NEW, Write

#: Kinds of quotas (format §1.7).
DIRECTORY: Final = 0
USER: Final = 1
GROUP: Final = 2
KINDS: Final = ("directory", "user", "group")

NO_LIMIT: Final = Quota(-1, -1, 0, 0)
_BATCH: Final = 500
#: Owners that are summed up in memory before they go to the ledger.
_OWNERS: Final = 10_000


class QuotaCheck(NamedTuple):
    """Stored usage against a count. missing: what the record lacks; exact: nothing moved during the count."""

    kind: int
    ident: int
    stored: Quota
    missing: Drift
    repaired: bool = False

    @property
    def counted(self) -> Pair:
        return (self.stored.used_space + self.missing.space, self.stored.used_inodes + self.missing.inodes)


class Owners(Jobs):
    """Mixin of `Meta`."""

    async def check_owner_quotas(self, *, repair: bool = False, passes: int = PASSES) -> list[QuotaCheck]:
        """Usage of every user and group against a scan of all inodes; what is wrong, in the order of ids.

        Memory is bounded by the ledger, whatever the number of inodes and owners.
        """
        if repair:
            self.require_writable()
        with Ledger(_TABLES) as ledger:
            mark, exact = -1, False
            for _ in range(max(2, passes)):
                before, mark = mark, await self._count_owners(ledger)
                ledger.execute(_WIDEN)
                exact = mark == before and not ledger.one(_MOVED)
                if exact or not ledger.one(_WRONG):
                    break
            found = []
            async for kind, ident, limits_s, limits_i, used_s, used_i, *ends in ledger.rows(_WRONG):
                missing = Drift(Range(*ends[:2]).certain, Range(*ends[2:]).certain, exact)
                if missing:
                    found.append(QuotaCheck(kind, ident, Quota(limits_s, limits_i, used_s, used_i), missing, repair))
        if repair and found:
            await self.add_usage((c.kind, c.ident, c.missing.space, c.missing.inodes) for c in found)
        return found

    async def _count_owners(self, ledger: Ledger) -> int:
        """One pass into the tables `before`, `counted`, `after`; a fingerprint of all inodes."""
        for table in ("stored", "counted", "later"):
            ledger.execute(f"DELETE FROM {table}")  # noqa: S608 - three constants
        await ledger.fill("INSERT OR REPLACE INTO stored VALUES (?, ?, ?, ?, ?, ?)", self._owner_records())
        mark = 0

        async def nodes() -> AsyncIterator[Row]:
            nonlocal mark
            sums: dict[tuple[int, int], list[int]] = {}
            async for key, attr in self.store.scan(k.NODE):
                ino: int = key[1]
                if ino == ROOT or ino >= TRASH:
                    continue  # they belong to the volume
                mark ^= _trace(ino, attr)
                space = node_space(attr)
                for owner in ((USER, attr.uid), (GROUP, attr.gid)):
                    total = sums.setdefault(owner, [0, 0])
                    total[0] += space
                    total[1] += 1
                if len(sums) > _OWNERS:
                    for (kind, ident), total in sums.items():
                        yield kind, ident, *total
                    sums.clear()
            for (kind, ident), total in sums.items():
                yield kind, ident, *total

        await ledger.fill(
            "INSERT INTO counted VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " space = space + excluded.space, inodes = inodes + excluded.inodes",
            nodes(),
        )
        await ledger.fill("INSERT OR REPLACE INTO later VALUES (?, ?, ?, ?, ?, ?)", self._owner_records())
        return mark

    async def _owner_records(self) -> AsyncIterator[Row]:
        async for key, quota in self.store.scan(k.QUOTA):
            if key[1] != DIRECTORY:
                yield key[1], key[2], *quota

    async def add_usage(self, changes: Iterable[tuple[int, int, int, int]]) -> None:
        """Relative corrections: (kind, ident, space, inodes)."""
        batch: list[Write] = []
        step = max(2, min(_BATCH, self.store.caps.max_writes or _BATCH))
        for kind, ident, space, inodes in changes:
            if kind != DIRECTORY:
                batch.append((PUT_NEW, k.quota(kind, ident), NO_LIMIT))
            batch.append((ADD, k.quota(kind, ident), (space, inodes)))
            self._used_quota((kind, ident), space, inodes)
            if len(batch) >= step - 1:
                await self.store.commit([], batch)
                batch = []
        if batch:
            await self.store.commit([], batch)


def _trace(ino: int, attr: Attr) -> int:
    """A number that changes when the inode does."""
    return hash((ino, attr.uid, attr.gid, attr.length, attr.ctime_ns))


_TABLES: Final = """
CREATE TABLE stored (kind INT, id INT, max_s INT, max_i INT, space INT, inodes INT, PRIMARY KEY (kind, id));
CREATE TABLE later (kind INT, id INT, max_s INT, max_i INT, space INT, inodes INT, PRIMARY KEY (kind, id));
CREATE TABLE counted (kind INT, id INT, space INT, inodes INT, PRIMARY KEY (kind, id));
CREATE TABLE error (kind INT, id INT, low_s INT, high_s INT, low_i INT, high_i INT, PRIMARY KEY (kind, id));
"""

# The range of `recount.error_range` for every owner that is stored or counted, widened by each pass.
_WIDEN: Final = """
INSERT INTO error
SELECT o.kind, o.id,
  COALESCE(c.space, 0) - MAX(COALESCE(s.space, 0), COALESCE(l.space, 0)),
  COALESCE(c.space, 0) - MIN(COALESCE(s.space, 0), COALESCE(l.space, 0)),
  COALESCE(c.inodes, 0) - MAX(COALESCE(s.inodes, 0), COALESCE(l.inodes, 0)),
  COALESCE(c.inodes, 0) - MIN(COALESCE(s.inodes, 0), COALESCE(l.inodes, 0))
FROM (SELECT kind, id FROM stored UNION SELECT kind, id FROM counted UNION SELECT kind, id FROM error) o
LEFT JOIN stored s USING (kind, id) LEFT JOIN later l USING (kind, id) LEFT JOIN counted c USING (kind, id)
WHERE TRUE ON CONFLICT DO UPDATE SET low_s = MIN(low_s, excluded.low_s), high_s = MAX(high_s, excluded.high_s),
  low_i = MIN(low_i, excluded.low_i), high_i = MAX(high_i, excluded.high_i)
"""
_MOVED: Final = """
SELECT 1 FROM (SELECT * FROM stored EXCEPT SELECT * FROM later)
UNION ALL SELECT 1 FROM (SELECT * FROM later EXCEPT SELECT * FROM stored) LIMIT 1
"""
_WRONG: Final = """
SELECT e.kind, e.id, COALESCE(l.max_s, -1), COALESCE(l.max_i, -1), COALESCE(l.space, 0), COALESCE(l.inodes, 0),
  e.low_s, e.high_s, e.low_i, e.high_i
FROM error e LEFT JOIN later l USING (kind, id)
WHERE e.low_s > 0 OR e.high_s < 0 OR e.low_i > 0 OR e.high_i < 0 ORDER BY e.kind, e.id
"""
