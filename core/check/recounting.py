# SPDX-License-Identifier: Apache-2.0
"""One pass of a recount: pour all records of a volume into a ledger, ask what doesn't agree.

Memory is bounded by the ledger and by LIMIT findings of a kind. What others change meanwhile may be seen half: whoever
calls asks twice (`core/check`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from core.check.findings import Finding
from core.check.objects import SCHEMA as OBJECT_SCHEMA, ObjectCheck, object_findings
from core.check.tables import (
    LINK_COUNTS,
    LOST_CHUNKS,
    LOST_QUOTAS,
    QUERIES,
    QUOTAS,
    REFERENCES,
    SCHEMA,
    STATISTICS,
    SUMS,
    SYMLINKS,
    full,
)  # fmt: skip
from core.gc import delayed_slices
from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.base import show
from core.meta.meta import Meta
from core.meta.records import ROOT, TRASH, Attr, DirStat, decode_slices, node_space
from core.meta.recount import Pair, error_range

#: Findings of one kind that one pass reports; a repair brings the next ones to light.
LIMIT: Final = 10_000
#: A clone that is older than that is nobody's work any more (semantics §13.2).
DETACHED_S: Final = 24 * 3600

#: Told what is being read, and how many so far.
Progress = Callable[[str, int], None]


def quiet(what: str, count: int) -> None:
    """No progress."""


async def one_pass(meta: Meta, objects: ObjectCheck | None, progress: Progress = quiet) -> list[Finding]:
    with Ledger(SCHEMA + OBJECT_SCHEMA) as ledger:
        reading = _Reading(meta, ledger, progress)
        await reading.read()
        found = [*reading.damaged, *reading.loose]
        progress("comparing", 0)
        found += await reading.counters()
        for kind, query in QUERIES:
            found += await reading.ask(kind, full(query), ROOT, TRASH)
        found += await reading.ask("symlink", SYMLINKS)
        found += await reading.ask("lost-chunk", LOST_CHUNKS)
        async for ino, parent, want, have in reading.rows(full(LINK_COUNTS), ROOT, TRASH):
            found.append(Finding("parent", (ino, parent), have, want))
        if meta.dir_stats:
            async for ino, *numbers in reading.rows(STATISTICS, ROOT, TRASH):
                stored = None if numbers[0] is None else DirStat(*numbers[:3])
                found.append(Finding("dirstat", (ino,), stored, DirStat(*numbers[3:])))
            found += await reading.quotas()
        async for slice_id, size, have, want in reading.rows(REFERENCES):
            kind = "references" if (1 if have is None else have) < want else "overcounted"
            found.append(Finding(kind, (slice_id, size), have, want))
        if objects is not None:
            found += await object_findings(objects, ledger, meta, progress, LIMIT)
        return [finding._replace(path=reading.path_of(finding)) for finding in found]


class _Reading:
    """All records of one pass."""

    def __init__(self, meta: Meta, ledger: Ledger, progress: Progress) -> None:
        self.meta = meta
        self.ledger = ledger
        self.progress = progress
        self.damaged: list[Finding] = []  # records that can't be read
        self.loose: list[Finding] = []  # clones, open files and lists that belong to nobody
        self._before: Pair = (0, 0)
        self._acls: set[int] = set()

    async def read(self) -> None:
        store, fill = self.meta.store, self.ledger.fill
        self._before = await self._counters()
        self._acls = {key[1] async for key, _ in store.scan(k.ACL)}
        await fill("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?)", self._told("inodes", self._nodes()))
        await fill(
            "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)",
            self._told("entries", ((key[1], key[2], e.type, e.ino) async for key, e in store.scan(k.ENTRY))),
        )
        await fill(
            "INSERT OR REPLACE INTO dirstat VALUES (?, ?, ?, ?)",
            ((key[1], *stat) async for key, stat in store.scan(k.DIRSTAT)),
        )
        await fill(
            "INSERT OR REPLACE INTO quota VALUES (?, ?, ?)",
            ((key[2], q.used_space, q.used_inodes) async for key, q in store.scan(k.QUOTA) if key[1] == 0),
        )
        await fill("INSERT OR REPLACE INTO held VALUES (?)", self._held())
        await fill("INSERT OR REPLACE INTO target VALUES (?)", ((key[1],) async for key, _ in store.scan(k.SYMLINK)))
        await fill("INSERT OR REPLACE INTO deleted VALUES (?)", ((key[1],) async for key, _ in store.scan(k.DELFILE)))
        await fill(
            "INSERT OR REPLACE INTO ref VALUES (?, ?, ?)",
            self._told("references", ((key[1], key[2], n) async for key, n in store.scan(k.SLICEREF))),
        )
        add_use = (
            "INSERT INTO use VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET n = n + 1, ino = MAX(ino, excluded.ino)"
        )
        await fill(add_use, self._told("slices", self._uses()))
        await fill(add_use, ((slice_id, size, 0) async for slice_id, size in delayed_slices(store)))
        await self._read_delayed()
        # Once more: what was removed while chunks were read is being deleted.
        await fill("INSERT OR REPLACE INTO deleted VALUES (?)", ((key[1],) async for key, _ in store.scan(k.DELFILE)))
        self.ledger.execute("CREATE INDEX by_inode ON entry (ino)")
        await fill("INSERT OR REPLACE INTO link VALUES (?, ?, ?)", self._links())

    async def _told(self, what: str, rows: AsyncIterator[Row]) -> AsyncIterator[Row]:
        count = 0
        async for row in rows:
            count += 1
            if count % 2000 == 1:
                self.progress(what, count)
            yield row

    # -- asking --------------------------------------------------------------------------------------------------

    async def rows(self, query: str, *values: Any) -> AsyncIterator[Row]:
        """At most LIMIT rows of a query that may not use all of its numbered parameters."""
        used = values[: max((n for n in range(1, len(values) + 1) if f"?{n}" in query), default=0)]
        async for row in self.ledger.rows(f"SELECT * FROM ({query}) LIMIT {LIMIT}", *used):  # noqa: S608
            yield row

    async def ask(self, kind: str, query: str, *values: Any) -> list[Finding]:
        """Rows are (key…, stored, expected)."""
        return [Finding(kind, row[:-2], row[-2], row[-1]) async for row in self.rows(query, *values)]

    async def quotas(self) -> list[Finding]:
        """Directory quotas against the whole tree below them."""
        for statement in SUMS.split(";"):
            self.ledger.execute(statement)
        found = await self.ask("no-quota-directory", LOST_QUOTAS, ROOT)
        async for (ino,) in self.ledger.rows("SELECT ino FROM quota"):
            for _, *numbers in self.ledger.execute(QUOTAS, ino):
                found.append(Finding("quota", (ino,), tuple(numbers[:2]), tuple(numbers[2:])))
            await asyncio.sleep(0)
        lost = {finding.key for finding in found if finding.kind == "no-quota-directory"}
        return [f for f in found if f.kind != "quota" or f.key not in lost]

    async def _nodes(self) -> AsyncIterator[Row]:
        async for key, attr in self.meta.store.scan(k.NODE):
            if attr.access_acl or attr.default_acl:
                self._read_acl(key[1], attr)
            yield key[1], attr.type, attr.nlink, attr.parent, attr.length, node_space(attr)

    def _read_acl(self, ino: int, attr: Attr) -> None:
        for rule in (attr.access_acl, attr.default_acl):
            if rule and rule not in self._acls and len(self.damaged) < LIMIT:
                self.damaged.append(Finding("acl", (ino, rule), None, "a rule"))

    async def _held(self) -> AsyncIterator[Row]:
        """Inodes without an entry that nevertheless are where they should be: open ones, unfinished clones."""
        store, now = self.meta.store, self.meta.clock_ns() // 1_000_000_000
        sessions: set[int] | None = None
        async for key, _ in store.scan(k.SUSTAINED):
            if sessions is None:
                sessions = {found[1] async for found, _ in store.scan(k.SESSION)}
            if key[1] not in sessions and len(self.loose) < LIMIT:
                self.loose.append(Finding("session", (key[2], key[1]), f"session {key[1]}", "a registered session"))
            yield (key[2],)
        async for key, when in store.scan(k.DETACHED):
            if when < now - DETACHED_S and len(self.loose) < LIMIT:
                self.loose.append(Finding("detached", (key[1], when), "a tree in no directory", "nothing"))
            yield (key[1],)

    async def _read_delayed(self) -> None:
        async for key, raw in self.meta.store.scan(k.DELSLICES):
            if len(raw) % 12 and len(self.damaged) < LIMIT:
                self.damaged.append(Finding("delayed", key[1:], f"{len(raw)} bytes", "records of 12 bytes"))

    async def _uses(self) -> AsyncIterator[Row]:
        lost: dict[int, tuple[int, int]] = {}
        async for key, raw in self.meta.store.scan(k.CHUNK):
            ino: int = key[1]
            if not self.ledger.one("SELECT 1 FROM node WHERE ino = ?", ino) and (ino in lost or len(lost) < LIMIT):
                last, number = lost.get(ino, (0, 0))
                lost[ino] = (max(last, key[2]), number + 1)
            try:
                records = decode_slices(raw)
            except ValueError as e:
                if len(self.damaged) >= LIMIT:
                    continue
                self.damaged.append(Finding("chunk", (key[1], key[2]), str(e), "whole records"))
                continue
            for s in records:
                if s.id:
                    # Missing objects of files that are being deleted are nobody's loss: inode 0.
                    gone = self.ledger.one("SELECT 1 FROM deleted WHERE ino = ?", key[1])
                    yield s.id, s.size, 0 if gone else ino
        self.ledger.add("INSERT OR REPLACE INTO lost VALUES (?, ?, ?)", ((ino, *seen) for ino, seen in lost.items()))

    async def _links(self) -> AsyncIterator[Row]:
        """Stored link counts per parent of inodes that have (had) several links."""
        linked = "SELECT ino FROM node WHERE parent = 0 AND type != 2 AND nlink > 0"
        async for (ino,) in self.ledger.rows(linked):
            for parent, count in (await self.meta.store.read(k.parents(ino)))[0].items():
                yield ino, parent, count

    async def _counters(self) -> Pair:
        space, inodes = await self.meta.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        return space, inodes

    async def counters(self) -> list[Finding]:
        """What no value explains that the counters had during the pass. Whoever calls measures it again."""
        space, inodes = self.ledger.execute(
            "SELECT COALESCE(SUM(space), 0), COUNT(*) FROM node WHERE ino NOT IN (?, ?)", ROOT, TRASH
        )[0]
        before, now = self._before, await self._counters()
        lacks = (error_range(before[0], space, now[0]).certain, error_range(before[1], inodes, now[1]).certain)
        if not any(lacks):
            return []
        return [Finding("counters", ("usedSpace", "totalInodes"), now, (now[0] + lacks[0], now[1] + lacks[1]))]

    def path_of(self, finding: Finding) -> str:
        """Where in the tree it is, for people; "" if it is nowhere."""
        kind, key = finding.kind, finding.key
        if kind in ("counters", "references", "overcounted", "delayed", "owner-quota"):
            return ""
        names: list[bytes] = []
        ino = key[0]
        if kind in ("no-inode", "type"):
            names.append(key[1])
        for _ in range(4096):
            if ino == ROOT:
                break
            row = self.ledger.execute("SELECT parent, name FROM entry WHERE ino = ?", ino)
            if not row:
                names.append(b"?" if ino != TRASH else b".trash")
                break
            ino, name = row[0]
            names.append(name)
        return "/" + "/".join(show(name) for name in reversed(names))
