# SPDX-License-Identifier: Apache-2.0
"""The shapes of `sql/reads.py`, walks and listings as SELECT statements. Pure: text out, rows in.

With `lock` the rows are read as they are now, not as they were when the transaction began, and locked: what a commit
decides upon. Source: format §5.3; keys of the shapes: `sql/reads.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from core.meta import keys as k
from core.meta.records import DIRECTORY, FILE, Attr, Entry
from core.meta.store import DirEntry, Resolved, Step
from core.meta.stores.mysql.literals import Names, literal, numbers, parts, quoted, text
from core.meta.stores.sql.reads import SEQUENCE, ReadPlan
from core.meta.stores.sql.rows import KINDS, NODE_COLUMNS, SEQUENCES, Row, unpack_attr

_NODE: Final = b",".join([b"n.`%s`" % c.encode() for c in NODE_COLUMNS])
#: Names of a walk in one statement; servers stop a recursion after 1000 rounds. Longer ones take several.
WALK_AT_ONCE: Final = 500


class Queries:
    """Renders what is read, for one volume."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._edge, self._node = names.table["edge"], names.table["node"]
        self._chunk, self._xattr = names.table["chunk"], names.table["xattr"]
        self._special: dict[str, Callable[[Sequence[Row], bytes], bytes]] = {
            k.XATTR: self._one_xattr, k.XATTRS: self._xattrs, k.CHUNKS: self._chunks, k.PARENTS: self._parents,
            k.OCCUPIED: self._occupied, k.FLOCKS: self._flocks, k.PLOCKS: self._plocks, k.COUNTER: self._counters,
            SEQUENCE: self._sequences,
        }  # fmt: skip

    def statements(self, plan: ReadPlan, *, lock: bool = False) -> list[tuple[str, bytes]]:
        """What to execute, each with the shape that its rows are to be taken as."""
        tail = b" FOR UPDATE" if lock else b""
        found = []
        for shape, rows in plan.queries.items():
            special = self._special.get(shape)
            for some in parts(rows):
                found.append((shape, special(some, tail) if special else self._rows(shape, some, tail)))
        return found

    def _rows(self, shape: str, rows: Sequence[Row], tail: bytes) -> bytes:
        kind = KINDS[shape]
        table = self._names.locked(kind.table) if tail else self._names.table[kind.table]
        columns = quoted(*kind.keys, *kind.values)
        where = self._names.any_key(kind, rows)
        if not kind.owns_row and len(kind.values) == 1:
            where = b"(%s) AND %s IS NOT NULL" % (where, quoted(*kind.values))
        return b"SELECT %s FROM %s WHERE %s%s" % (columns, table, where, tail)

    def _one_xattr(self, rows: Sequence[Row], tail: bytes) -> bytes:
        # The column's collation decides what a name is equal to; the answer must carry the name that was asked for.
        return b" UNION ALL ".join([
            b"(SELECT %d,%s,value FROM %s WHERE inode=%d AND name=%s%s)"
            % (ino, literal(name), self._xattr, ino, text(name), tail)
            for ino, name in rows
        ])  # fmt: skip

    def _xattrs(self, rows: Sequence[Row], tail: bytes) -> bytes:
        head = b"SELECT inode,name,value FROM %s WHERE inode IN (%s) ORDER BY inode,name%s"
        return head % (self._xattr, numbers(rows), tail)

    def _chunks(self, rows: Sequence[Row], tail: bytes) -> bytes:
        where = b" OR ".join([b"(inode=%d AND indx<%d)" % row for row in rows])
        return b"SELECT inode,indx,slices FROM %s WHERE %s%s" % (self._chunk, where, tail)

    def _parents(self, rows: Sequence[Row], tail: bytes) -> bytes:
        head = b"SELECT inode,parent,COUNT(*) FROM %s WHERE inode IN (%s) GROUP BY inode,parent%s"
        return head % (self._edge, numbers(rows), tail)

    def _occupied(self, rows: Sequence[Row], tail: bytes) -> bytes:
        one = b"(SELECT parent FROM %s WHERE parent=%d LIMIT 1%s)"
        return b" UNION ALL ".join([one % (self._edge, row[0], tail) for row in rows])

    def _flocks(self, rows: Sequence[Row], tail: bytes) -> bytes:
        head = b"SELECT inode,sid,owner,ltype FROM %s WHERE inode IN (%s)%s"
        return head % (self._names.table["flock"], numbers(rows), tail)

    def _plocks(self, rows: Sequence[Row], tail: bytes) -> bytes:
        head = b"SELECT inode,sid,owner,records FROM %s WHERE inode IN (%s)%s"
        return head % (self._names.table["plock"], numbers(rows), tail)

    def _counters(self, rows: Sequence[Row], tail: bytes) -> bytes:
        table = self._names.locked("counter") if tail else self._names.table["counter"]
        return b"SELECT name,value FROM %s WHERE name IN (%s)%s" % (table, b",".join([text(r[0]) for r in rows]), tail)

    def _sequences(self, rows: Sequence[Row], _: bytes) -> bytes:
        """The last id that a table's AUTO_INCREMENT has given; a new table says NULL or 1."""
        return b" UNION ALL ".join([
            b"SELECT %s,CAST(COALESCE(MAX(auto_increment),1) AS SIGNED)-1 FROM information_schema.tables"
            b" WHERE table_schema=DATABASE() AND table_name=%s"
            % (literal(name), text(self._names.table[SEQUENCES[name.decode()]].strip(b"`")))
            for (name,) in rows
        ])  # fmt: skip

    # -- walking ------------------------------------------------------------------------------------------------

    def walk(self, base: int, names: Sequence[bytes]) -> bytes:
        """Rows (0, depth, type, inode, NODE_COLUMNS) of one short walk: the start has depth 0."""
        start = b"SELECT 0,0,0,n.inode,%s FROM %s n WHERE n.inode=%d" % (_NODE, self._node, base)
        return start + b"".join([
            b" UNION ALL SELECT 0,1,e.type,e.inode,%s FROM %s e LEFT JOIN %s n ON n.inode=e.inode"
            b" WHERE e.parent=%d AND e.name=%s" % (_NODE, self._edge, self._node, base, literal(name))
            for name in names
        ])  # fmt: skip

    def walks(self, walks: Sequence[tuple[int, Sequence[bytes]]]) -> bytes:
        """Rows (number of the walk, depth, type, inode, NODE_COLUMNS); a name that leads nowhere gives none.

        Measured against a join per name, nested sub-queries and session variables: a recursive query is the only one
        whose cost doesn't grow with the depth, and it takes many walks at once.
        """
        if len(walks) == 1 and len(walks[0][1]) <= 1:
            return self.walk(*walks[0])
        starts, names = [], list[bytes]()
        for number, (base, path) in enumerate(walks):
            starts.append(b"SELECT %d,%d,%d,0,0,CAST(%d AS SIGNED)" % (number, len(names), len(path), base))
            names += map(literal, path)
        return (
            b"WITH RECURSIVE w (i, first, many, d, kind, ino) AS (%s UNION ALL"
            b" SELECT w.i, w.first, w.many, w.d+1, e.type, e.inode FROM w JOIN %s e"
            b" ON e.parent=w.ino AND e.name=ELT(w.first+w.d+1,%s) WHERE w.d<w.many)"
            b" SELECT w.i,w.d,w.kind,w.ino,%s FROM w LEFT JOIN %s n ON n.inode=w.ino"
            % (b" UNION ALL ".join(starts), self._edge, b",".join(names) or b"''", _NODE, self._node)
        )

    def end_of_walk(self, base: int, names: Sequence[bytes]) -> bytes:
        """The inode that a walk leads to, as an expression."""
        if not names:
            return b"%d" % base
        return (
            b"(WITH RECURSIVE w (d, ino) AS (SELECT 0, CAST(%d AS SIGNED) UNION ALL"
            b" SELECT w.d+1, e.inode FROM w JOIN %s e ON e.parent=w.ino AND e.name=ELT(w.d+1,%s))"
            b" SELECT ino FROM w WHERE d=%d)" % (base, self._edge, b",".join(map(literal, names)), len(names))
        )

    def xattrs_at(self, place: bytes) -> bytes:
        return b"SELECT name,value FROM %s WHERE inode=%s ORDER BY name" % (self._xattr, place)

    def first_chunk_at(self, place: bytes) -> bytes:
        return b"SELECT slices FROM %s WHERE inode=%s AND indx=0" % (self._chunk, place)

    # -- listing ------------------------------------------------------------------------------------------------

    def page(self, parent: int, after: bytes, limit: int, attrs: bool) -> bytes:
        """Rows (name, type, inode) or with NODE_COLUMNS: one range of the unique (parent, name) index."""
        where = b"e.parent=%d AND e.name>%s ORDER BY e.name LIMIT %d" % (parent, literal(after), limit)
        if not attrs:
            return b"SELECT e.name,e.type,e.inode FROM %s e WHERE %s" % (self._edge, where)
        return b"SELECT e.name,e.type,e.inode,%s FROM %s e LEFT JOIN %s n ON n.inode=e.inode WHERE %s" % (
            _NODE, self._edge, self._node, where,
        )  # fmt: skip

    def nodes_of_entries(self, entries: Sequence[tuple[int, bytes]]) -> bytes:
        """Rows (parent, name, NODE_COLUMNS) of what these names point to."""
        where = b" OR ".join([b"(e.parent=%d AND e.name=%s)" % (parent, literal(name)) for parent, name in entries])
        return b"SELECT e.parent,e.name,%s FROM %s e JOIN %s n ON n.inode=e.inode WHERE %s" % (
            _NODE, self._edge, self._node, where,
        )  # fmt: skip


def node_or_none(row: Sequence[Any]) -> Attr | None:
    """NODE_COLUMNS of an outer join."""
    return None if row[0] is None else unpack_attr(tuple(row))


def resolved(rows: Sequence[Row], length: int, xattrs: Sequence[Any] | None, chunk: Sequence[Row] | None) -> Resolved:
    """The answer of a walk of `length` names. The database walks on behind what is no directory; we don't."""
    by_depth = {row[1]: row for row in rows}
    base = node_or_none(by_depth[0][4:]) if 0 in by_depth else None
    steps: list[Step] = []
    attr = base
    for depth in range(1, length + 1):
        if attr is None or attr.type != DIRECTORY or depth not in by_depth:
            break
        _, _, kind, ino, *node = by_depth[depth]
        attr = node_or_none(node)
        steps.append(Step(Entry(kind, ino), attr))
    whole = len(steps) == length and attr is not None
    return Resolved(
        base,
        steps,
        dict(xattrs) if xattrs is not None and whole else None,
        (chunk[0][0] if chunk else b"") if chunk is not None and whole and attr and attr.type == FILE else None,
    )


def listed(rows: Sequence[Row]) -> list[DirEntry]:
    return [
        DirEntry(row[0], row[1], row[2], None if len(row) < 4 else node_or_none(row[3:])) for row in rows
    ]  # fmt: skip
