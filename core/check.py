# SPDX-License-Identifier: Apache-2.0
"""The recount: is every counter, link, statistic and reference of a volume what its records say it must be?

`check` pours all records into a ledger (memory bounded) and lets joins find what doesn't agree; `repair` sets one
finding right in a transaction that verifies that it still is as it was found. Other clients may be at work: what the
first pass finds must be found again, unchanged, by a second one, else it was only a change that was seen half.
Source: spec metadata-semantics §1.2 (invariants), §2, §6.7, §14.2; metadata-format §1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec

from core.chunk.naming import block_key, iter_blocks, parse_block_key
from core.errors import FsError, ObjectError, ObjectNotFound
from core.gc import delayed_slices, set_counters, set_references
from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.base import Exists, show
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, FILE, ROOT, TRASH, Attr, DirStat, Entry, decode_slices, node_space
from core.meta.store import Tx
from core.object.api import ObjectStore

#: Kinds of findings: what is wrong, and whether `repair` can set it right.
KINDS: Final[dict[str, tuple[str, bool]]] = {
    "counters": ("the volume's usage counters differ from a recount", True),
    "no-directory": ("entries lie in a directory that doesn't exist and that nothing names", False),
    "no-inode": ("an entry names an inode that doesn't exist", True),  # directories only
    "type": ("an entry says another type than its inode", True),
    "no-entry": ("an inode is in no directory and nobody has it open", True),
    "twice": ("a directory has more than one entry", False),
    "nlink": ("a link count differs from the number of entries", True),
    "parent": ("an inode names another parent than the one that holds it", True),
    "dirstat": ("the statistics of a directory differ from a recount", True),
    "chunk": ("slice records can't be read", False),
    "references": ("a slice is counted less often than it is used", True),
    "overcounted": ("a slice is counted more often than it is used (`sluice gc --delete` sets old ones right)", False),
    "object": ("an object that a file needs is missing", False),
}


class Finding(NamedTuple):
    """One thing that is wrong. key: inode, or what else identifies it within its kind."""

    kind: str
    key: tuple[Any, ...]
    stored: Any
    expected: Any
    path: str = ""

    @property
    def repairable(self) -> bool:
        if self.kind == "no-inode":
            return bool(self.key[3] == DIRECTORY)
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{KINDS[self.kind][0]}: {self.key}: stored {self.stored}, expected {self.expected}"


async def check(meta: Meta, *, objects: ObjectStore | None = None, confirm: bool = True) -> list[Finding]:
    """Everything that is wrong, confirmed by a second pass unless nobody else is at work (confirm=False).

    objects: also prove that every block of every slice of a living file exists (not its content).
    """
    found = await _pass(meta, objects)
    if found and confirm:
        again = set(await _pass(meta, objects))
        found = [finding for finding in found if finding in again]
    return found


_SCHEMA: Final = """
CREATE TABLE node (ino INTEGER PRIMARY KEY, type INT, nlink INT, parent INT, length INT, space INT);
CREATE TABLE entry (parent INT, name BLOB, type INT, ino INT, PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE TABLE dirstat (ino INTEGER PRIMARY KEY, length INT, space INT, inodes INT);
CREATE TABLE link (ino INT, parent INT, n INT, PRIMARY KEY (ino, parent)) WITHOUT ROWID;
CREATE TABLE held (ino INTEGER PRIMARY KEY);
CREATE TABLE deleted (ino INTEGER PRIMARY KEY);
CREATE TABLE ref (id INT, size INT, n INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
CREATE TABLE use (id INT, size INT, n INT, ino INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
CREATE TABLE object (id INT, idx INT, length INT, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
"""

# Parameters: 1 the root, 2 the trash root; inodes above it are hourly directories of the trash.
_WORDS: Final = {
    "LINKS": "(SELECT COUNT(*) FROM entry e WHERE e.ino = n.ino)",
    "SUBDIRS": "(SELECT COUNT(*) FROM entry e WHERE e.parent = n.ino AND e.type = 2)",
    "STORED_LINKS": "COALESCE((SELECT l.n FROM link l WHERE l.ino = n.ino AND l.parent = e.parent), 0)",
    "ORDINARY": "n.ino NOT IN (?1, ?2) AND n.ino < ?2",
}


def _sql(text: str) -> str:
    """A query with words in braces put in full."""
    for word, full in _WORDS.items():
        text = text.replace("{" + word + "}", full)
    return text


#: kind, and a query whose rows are (key…, stored, expected).
_QUERIES: Final[list[tuple[str, str]]] = [
    # One finding for a directory of which only the entries are left; if something names it, that is "no-inode".
    ("no-directory", """SELECT e.parent, COUNT(*) || ' entries', 'a directory' FROM entry e
        WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = e.parent)
        AND NOT EXISTS (SELECT 1 FROM entry u WHERE u.ino = e.parent) GROUP BY e.parent"""),
    ("no-inode", """SELECT e.parent, e.name, e.ino, e.type, NULL, 'an inode' FROM entry e
        WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = e.ino)"""),
    ("type", """SELECT e.parent, e.name, e.ino, e.type, n.type FROM entry e JOIN node n ON n.ino = e.ino
        WHERE e.type != n.type"""),
    ("no-entry", """SELECT n.ino, n.nlink, 'an entry' FROM node n WHERE {ORDINARY} AND {LINKS} = 0
        AND NOT EXISTS (SELECT 1 FROM held h WHERE h.ino = n.ino)"""),
    ("twice", "SELECT n.ino, {LINKS} AS links, 1 FROM node n WHERE {ORDINARY} AND n.type = 2 AND links > 1"),
    # A directory in the trash was empty when it went there and keeps its old count.
    ("nlink", """SELECT n.ino, n.nlink, 2 + {SUBDIRS} AS want FROM node n
        WHERE {ORDINARY} AND n.type = 2 AND n.parent <= ?2 AND n.nlink != want"""),
    ("nlink", """SELECT n.ino, n.nlink, {LINKS} AS want FROM node n
        WHERE {ORDINARY} AND n.type != 2 AND n.nlink > 0 AND want > 0 AND n.nlink != want"""),
    ("parent", """SELECT n.ino, n.parent, e.parent FROM node n JOIN entry e ON e.ino = n.ino
        WHERE {ORDINARY} AND n.parent != 0 AND n.nlink > 0 AND {LINKS} = 1 AND e.parent != n.parent"""),
    ("parent", """SELECT n.ino, n.parent, 0 FROM node n
        WHERE {ORDINARY} AND n.type != 2 AND n.parent != 0 AND {LINKS} > 1"""),
]  # fmt: skip

_LINK_COUNTS: Final = """
SELECT n.ino, e.parent, COUNT(*) AS want, {STORED_LINKS} AS have FROM node n JOIN entry e ON e.ino = n.ino
WHERE {ORDINARY} AND n.type != 2 AND n.parent = 0
GROUP BY n.ino, e.parent HAVING want != have
UNION ALL SELECT l.ino, l.parent, 0, l.n FROM link l
WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.ino = l.ino AND e.parent = l.parent)
"""

_STATISTICS: Final = """
SELECT n.ino, s.length, s.space, s.inodes, COALESCE(SUM(CASE WHEN c.type = 1 THEN c.length ELSE 0 END), 0) AS lengths,
  COALESCE(SUM(CASE WHEN e.ino IS NOT NULL THEN COALESCE(c.space, 4096) END), 0) AS spaces, COUNT(e.ino) AS children
FROM node n LEFT JOIN dirstat s ON s.ino = n.ino LEFT JOIN entry e ON e.parent = n.ino LEFT JOIN node c ON c.ino = e.ino
WHERE n.type = 2 AND n.ino != ?2 AND n.parent <= ?2 AND (n.ino != ?1 OR s.ino IS NOT NULL)
GROUP BY n.ino HAVING s.ino IS NULL OR s.length != lengths OR s.space != spaces OR s.inodes != children
"""

_REFERENCES: Final = """
SELECT u.id, u.size, r.n, u.n FROM use u LEFT JOIN ref r ON r.id = u.id AND r.size = u.size
WHERE COALESCE(r.n, 1) != u.n
UNION ALL SELECT r.id, r.size, r.n, 0 FROM ref r
WHERE r.n > 0 AND NOT EXISTS (SELECT 1 FROM use u WHERE u.id = r.id AND u.size = r.size)
"""


async def _pass(meta: Meta, objects: ObjectStore | None) -> list[Finding]:
    with Ledger(_SCHEMA) as ledger:
        reading = _Reading(meta, ledger)
        await reading.read()
        found = reading.damaged
        found += await reading.counters()
        found += [
            Finding(kind, row[:-2], row[-2], row[-1])
            for kind, query in _QUERIES
            for row in ledger.named(_sql(query), ROOT, TRASH)
        ]
        found += [
            Finding("parent", (ino, parent), have, want)
            for ino, parent, want, have in ledger.named(_sql(_LINK_COUNTS), ROOT, TRASH)
        ]
        if meta.dir_stats:
            for ino, *numbers in ledger.named(_STATISTICS, ROOT, TRASH):
                stored = None if numbers[0] is None else DirStat(*numbers[:3])
                found.append(Finding("dirstat", (ino,), stored, DirStat(*numbers[3:])))
        for slice_id, size, have, want in ledger.execute(_REFERENCES):
            kind = "references" if (1 if have is None else have) < want else "overcounted"
            found.append(Finding(kind, (slice_id, size), have, want))
        if objects is not None:
            found += await reading.missing_objects(objects)
        return [finding._replace(path=reading.path_of(finding)) for finding in found]


class _Reading:
    """All records of one pass."""

    def __init__(self, meta: Meta, ledger: Ledger) -> None:
        self.meta = meta
        self.ledger = ledger
        self.damaged: list[Finding] = []
        self._before: tuple[int, int] = (0, 0)

    async def read(self) -> None:
        store, fill = self.meta.store, self.ledger.fill
        self._before = await self._counters()
        await fill("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?)", self._nodes())
        await fill(
            "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)",
            ((key[1], key[2], e.type, e.ino) async for key, e in store.scan(k.ENTRY)),
        )
        await fill(
            "INSERT OR REPLACE INTO dirstat VALUES (?, ?, ?, ?)",
            ((key[1], *stat) async for key, stat in store.scan(k.DIRSTAT)),
        )
        await fill("INSERT OR REPLACE INTO held VALUES (?)", self._held())
        await fill("INSERT OR REPLACE INTO deleted VALUES (?)", ((key[1],) async for key, _ in store.scan(k.DELFILE)))
        await fill(
            "INSERT OR REPLACE INTO ref VALUES (?, ?, ?)",
            ((key[1], key[2], n) async for key, n in store.scan(k.SLICEREF)),
        )
        add_use = (
            "INSERT INTO use VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET n = n + 1, ino = MAX(ino, excluded.ino)"
        )
        await fill(add_use, self._uses())
        await fill(add_use, ((slice_id, size, 0) async for slice_id, size in delayed_slices(store)))
        self.ledger.execute("CREATE INDEX by_inode ON entry (ino)")
        await fill("INSERT OR REPLACE INTO link VALUES (?, ?, ?)", self._links())

    async def _nodes(self) -> AsyncIterator[Row]:
        async for key, attr in self.meta.store.scan(k.NODE):
            yield key[1], attr.type, attr.nlink, attr.parent, attr.length, node_space(attr)

    async def _held(self) -> AsyncIterator[Row]:
        """Inodes without an entry that nevertheless are where they should be: open ones, unfinished clones."""
        async for key, _ in self.meta.store.scan(k.SUSTAINED):
            yield (key[2],)
        async for key, _ in self.meta.store.scan(k.DETACHED):
            yield (key[1],)

    async def _uses(self) -> AsyncIterator[Row]:
        async for key, raw in self.meta.store.scan(k.CHUNK):
            try:
                records = decode_slices(raw)
            except ValueError as e:
                self.damaged.append(Finding("chunk", (key[1], key[2]), str(e), "whole records"))
                continue
            for s in records:
                if s.id:
                    # Missing objects of files that are being deleted are nobody's loss: inode 0.
                    gone = self.ledger.one("SELECT 1 FROM deleted WHERE ino = ?", key[1])
                    yield s.id, s.size, 0 if gone else key[1]

    async def _links(self) -> AsyncIterator[Row]:
        """Stored link counts per parent of inodes that have (had) several links."""
        linked = "SELECT ino FROM node WHERE parent = 0 AND type != 2 AND nlink > 0"
        async for (ino,) in self.ledger.rows(linked):
            for parent, count in (await self.meta.store.read(k.parents(ino)))[0].items():
                yield ino, parent, count

    async def _counters(self) -> tuple[int, int]:
        space, inodes = await self.meta.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        return space, inodes

    async def counters(self) -> list[Finding]:
        """Only if they stood still meanwhile: a recount of a moving volume proves nothing."""
        counted = self.ledger.execute(
            "SELECT COALESCE(SUM(space), 0), COUNT(*) FROM node WHERE ino NOT IN (?, ?)", ROOT, TRASH
        )[0]
        if counted == self._before or await self._counters() != self._before:
            return []
        return [Finding("counters", ("usedSpace", "totalInodes"), self._before, counted)]

    async def missing_objects(self, objects: ObjectStore) -> list[Finding]:
        """By the listing first; what it doesn't show is asked for once more (§14.2)."""
        fmt = self.meta.format
        await self.ledger.fill("INSERT OR IGNORE INTO object VALUES (?, ?, ?)", _listed(objects))
        found = []
        async for slice_id, size, ino in self.ledger.rows("SELECT id, size, ino FROM use WHERE ino > 0"):
            for block in iter_blocks(slice_id, size, fmt.block_size):
                if self.ledger.one("SELECT 1 FROM object WHERE id = ? AND idx = ? AND length = ?", *block):
                    continue
                key = block_key(*block, fmt.hash_prefix)
                try:
                    await objects.head(key)
                except ObjectNotFound:
                    found.append(Finding("object", (ino, key), None, f"{block[2]} bytes"))
                except ObjectError as e:
                    found.append(Finding("object", (ino, key), str(e), f"{block[2]} bytes"))
        return found

    def path_of(self, finding: Finding) -> str:
        """Where in the tree it is, for people; "" if it is nowhere."""
        kind, key = finding.kind, finding.key
        if kind in ("counters", "references", "overcounted"):
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


async def _listed(objects: ObjectStore) -> AsyncIterator[Row]:
    async for info in objects.list("chunks/"):
        block = parse_block_key(info.key)
        if block is not None:
            yield block


# -- repair ----------------------------------------------------------------------------------------------------------


async def repair(meta: Meta, finding: Finding) -> bool:
    """Set one finding right if it still is as it was found; False if it can't be, or isn't any more."""
    if not finding.repairable:
        return False
    kind, key = finding.kind, finding.key
    if kind == "counters":
        return await set_counters(meta.store, finding.stored, finding.expected)
    if kind == "references":
        # Upwards only, which is always safe; whether a count may go down is gc's to judge.
        return await set_references(meta.store, key[0], key[1], finding.stored, finding.expected)
    if kind == "dirstat":
        await meta.recount_directory(key[0])
        return True
    if kind in ("no-inode", "type"):
        return await meta.store.transact(lambda tx: _repair_entry(meta, tx, finding))
    if kind == "no-entry":
        return await _rescue(meta, key[0])
    return await meta.store.transact(lambda tx: _repair_node(tx, finding))


async def _repair_node(tx: Tx, finding: Finding) -> bool:
    """nlink and parent."""
    ino = finding.key[0]
    (attr,) = await tx.read(k.node(ino))
    if attr is None:
        return False
    if finding.kind == "nlink":
        if attr.nlink != finding.stored:
            return False
        tx.put(k.node(ino), msgspec.structs.replace(attr, nlink=finding.expected))
    elif len(finding.key) == 2:  # links of one parent
        (counts,) = await tx.read(k.parents(ino))
        if counts.get(finding.key[1], 0) != finding.stored:
            return False
        tx.add(k.parent(ino, finding.key[1]), finding.expected - finding.stored)
    else:
        if attr.parent != finding.stored:
            return False
        tx.put(k.node(ino), msgspec.structs.replace(attr, parent=finding.expected))
    return True


async def _repair_entry(meta: Meta, tx: Tx, finding: Finding) -> bool:
    """Correct the type of an entry; give a directory without an inode record an empty record, so that what it holds
    can be reached again (mode 0755 and root, as nobody knows better; §14.2)."""
    parent, name, ino = finding.key[:3]
    entry, attr = await tx.read(k.entry(parent, name), k.node(ino))
    if entry is None or entry.ino != ino:
        return False
    if finding.kind == "type":
        if attr is None:
            return False
        tx.put(k.entry(parent, name), Entry(attr.type, ino))
        return True
    if attr is not None:
        return False
    now = meta.clock_ns()
    subdirs = sum(e.type == DIRECTORY for e in await meta.store.list_entries(ino, b"", 1 << 20))
    tx.put(k.node(ino), Attr(DIRECTORY, 0o755, 0, 0, now, now, now, 2 + subdirs, 4096, 0, parent))
    tx.add(k.counter("usedSpace"), 4096)
    tx.add(k.counter("totalInodes"), 1)
    return True


async def _rescue(meta: Meta, ino: int) -> bool:
    """An inode in no directory: deleted if it was unlinked, else put into /lost+found under its number."""
    (attr,) = await meta.store.read(k.node(ino))
    if attr is None:
        return False
    if attr.type == FILE and attr.nlink == 0:
        await meta.finalise_sustained(0, ino)
        return True
    try:
        folder, _ = await meta.mkdir(ROOT, b"lost+found", 0o700)
    except Exists as e:
        folder = e.ino

    async def body(tx: Tx) -> bool:
        now, parent_attr = await tx.read(k.node(ino), k.node(folder))
        name = str(ino).encode()
        if now is None or parent_attr is None:
            return False
        tx.expect(k.entry(folder, name), None)
        tx.put(k.entry(folder, name), Entry(now.type, ino))
        if now.type == DIRECTORY:
            tx.put(k.node(ino), msgspec.structs.replace(now, parent=folder))
            tx.put(k.node(folder), msgspec.structs.replace(parent_attr, nlink=parent_attr.nlink + 1))
        else:
            tx.put(k.node(ino), msgspec.structs.replace(now, parent=folder, nlink=1))
            tx.delete(k.parents(ino))
        length = now.length if now.type == FILE else 0
        await meta.charge(tx, folder, length, node_space(now), 1, volume=False, check=False, owner=False)
        return True

    try:
        return await meta.store.transact(body)
    except FsError:
        return False
