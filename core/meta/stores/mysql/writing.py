# SPDX-License-Identifier: Apache-2.0
"""The steps of `sql/steps.py` as statements that need no answer before the next: a whole commit in one packet.

A check that doesn't hold must stop the packet by itself. The alarm is an overflow on purpose: the largest BIGINT plus
the truth of "not as expected" is an error (1690) on MySQL, MariaDB and TiDB alike, in any sql_mode, and can't be
computed before the rows were counted. The statements behind it, COMMIT among them, are then not executed. Which check
it was is found out afterwards (`committing.py`); almost always there is nothing to find out.

Every check is a locking read, so it sees what is there now, and what it saw stays. Rows are searched by their unique
index, forced, in ascending order: everybody locks in the same order. Source: steps of `sql/steps.py`; format §5.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from core.meta import keys as k
from core.meta.stores.mysql.literals import Names, literal, numbers, parts, quoted, text, value_lists
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import IDENTITY_COLUMNS, KINDS, NULLABLE, SEQUENCES, Row, RowKind  # fmt: skip
from core.meta.stores.sql.steps import (
    ABSENT,
    ADD,
    APPEND,
    COUNT,
    DELETE,
    DROP,
    IDENTITY,
    INSERT,
    INSERT_NEW,
    LOCK,
    LOG,
    MATCH,
    PATCH,
    SET,
    UPSERT,
    Step,
)  # fmt: skip

#: An error if the condition is true.
_ALARM: Final = b"SELECT 9223372036854775807+(%s) FROM %s WHERE %s FOR UPDATE"
#: IDENTITY_COLUMNS behind the inode, as one row value.
_IDENTITY: Final = b"(`inode`,%s)" % b",".join([
    b"COALESCE(`%s`,0)" % c.encode() if c in NULLABLE else b"`%s`" % c.encode() for c in IDENTITY_COLUMNS
])  # fmt: skip
_MEMBERS: Final = {k.XATTRS: "xattr", k.FLOCKS: "flock", k.PLOCKS: "plock"}


class Statement(NamedTuple):
    """text: what to send. count: the row that `Group.take` is told of, if UPDATE finds it. select: or the rows."""

    text: bytes
    step: Step | None = None
    row: Row | None = None


class Unverifiable(Exception):
    """This check can't sound the alarm; the commit has to read first."""


class Writer:
    """Renders groups for one volume."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._ops: dict[int, Callable[[Step], Iterable[Statement]]] = {
            MATCH: self._match, ABSENT: self._absent, COUNT: self._count, DROP: self._drop, DELETE: self._delete,
            INSERT: self._insert, INSERT_NEW: self._insert_new, UPSERT: self._upsert, APPEND: self._append,
            PATCH: self._patch, ADD: self._add, LOG: self._log, SET: self._set,
        }  # fmt: skip

    def verified(self, steps: Sequence[Step]) -> list[Statement]:
        """Everything between START TRANSACTION and COMMIT. Raises Unverifiable."""
        found = self.locks(steps, verify=True)
        for step in steps:
            if step.op not in (LOCK, IDENTITY):
                found.extend(self._ops[step.op](step))
        return found

    def unverified(self, steps: Sequence[Step]) -> list[Statement]:
        """The writes alone, for who has locked and looked before."""
        found: list[Statement] = []
        for step in steps:
            if step.op not in (LOCK, IDENTITY, MATCH, ABSENT, COUNT):
                found.extend(self._ops[step.op](step))
        return found

    # -- locks and checks ---------------------------------------------------------------------------------------

    def locks(self, steps: Sequence[Step], *, verify: bool) -> list[Statement]:
        """Lock the inodes, ascending, and verify in the same statement that they are what they should be.

        A row that isn't there can't be locked: with READ COMMITTED nothing is (a gap would keep others from creating
        files, and lock against lock would be a deadlock between any two clients).
        """
        identities = next((s.rows for s in steps if s.op == IDENTITY), [])
        patched, made = list[Row](), set[int]()
        for step in steps:
            if step.shape == k.NODE and step.op in (INSERT, INSERT_NEW, UPSERT):
                made.update(row[0] for row in step.rows)
            elif step.op == PATCH:
                patched += [row for row in step.rows if row[1] not in made]
        inodes = sorted({row[0] for s in steps if s.op == LOCK for row in s.rows} | {row[1] for row in identities})
        known = {row[1] for row in identities}
        found = []
        for some in parts(inodes):
            low, high = some[0], some[-1]
            wrong = []
            same = [row for row in identities if low <= row[1] <= high]
            if verify and same:
                rows = b",".join([b"(%s)" % b",".join(map(literal, row[1:])) for row in same])
                wrong.append(b"COUNT(CASE WHEN %s IN (%s) THEN 1 END)<>%d" % (_IDENTITY, rows, len(same)))
            exist = sorted({row[1] for row in patched if row[1] not in known and low <= row[1] <= high})
            if verify and exist:
                must = numbers([(ino,) for ino in exist])
                wrong.append(b"COUNT(CASE WHEN `inode` IN (%s) THEN 1 END)<>%d" % (must, len(exist)))
            where = b"`inode` IN (%s)" % numbers([(ino,) for ino in some])
            table = self._names.locked("node")
            if wrong:
                found.append(Statement(_ALARM % (b" OR ".join(wrong), table, where)))
            else:
                found.append(Statement(b"SELECT COUNT(*) FROM %s WHERE %s FOR UPDATE" % (table, where)))
        return found

    def _match(self, step: Step) -> Iterable[Statement]:
        names, edge = self._names, self._names.locked("edge")
        kind = KINDS.get(step.shape)
        if kind is not None:
            for some in parts(step.rows, 100):
                where = b" OR ".join([self._equal(kind, row[1:]) for row in some])
                yield Statement(_ALARM % (b"COUNT(*)<>%d" % len(some), names.locked(kind.table), where))
        elif step.shape == k.COUNTER:
            for _, name, value, start in step.rows:
                wrong = b"COALESCE(MAX(`value`),%d)<>%d" % (start, value)
                yield Statement(_ALARM % (wrong, names.locked("counter"), b"`name`=%s" % text(name)))
        elif step.shape == k.PARENTS:
            for _, ino, parent, count in step.rows:
                where = b"`inode`=%d AND `parent`=%d" % (ino, parent)
                yield Statement(_ALARM % (b"COUNT(*)<>%d" % count, names.table["edge"], where))
        elif step.shape == k.OCCUPIED:
            for _, ino, some_entry in step.rows:
                first = b"(SELECT 1 FROM %s WHERE `parent`=%d LIMIT 1 FOR UPDATE) t" % (edge, ino)
                yield Statement(b"SELECT 9223372036854775807+(COUNT(*)<>%d) FROM %s" % (some_entry, first))
        else:
            raise Unverifiable

    def _equal(self, kind: RowKind, row: Row) -> bytes:
        width = len(kind.keys)
        terms = [self._names.is_key(kind, row)]
        terms += [
            self._names.equals(kind.table, c, v) for c, v in zip(kind.values, row[width:], strict=True)
        ]  # fmt: skip
        return b"(%s)" % b" AND ".join(terms)

    def _absent(self, step: Step) -> Iterable[Statement]:
        kind = KINDS[step.shape]
        for some in parts([row[1:] for row in step.rows]):
            where = self._names.any_key(kind, some)
            if not kind.owns_row and len(kind.values) == 1:
                where = b"(%s) AND %s IS NOT NULL" % (where, quoted(*kind.values))
            yield Statement(_ALARM % (b"COUNT(*)<>0", self._names.locked(kind.table), where))

    def _count(self, step: Step) -> Iterable[Statement]:
        for _, ino, below, count in step.rows:
            where, what, table = b"`inode`=%d" % ino, b"*", _MEMBERS.get(step.shape)
            if step.shape == k.CHUNKS:
                table, where = "chunk", where + b" AND `indx`<%d" % below
            elif step.shape == k.PARENTS:
                table, what = "edge", b"DISTINCT `parent`"
            assert table is not None
            # Edges are found here by their inode, not by the unique index.
            there = self._names.table[table] if table == "edge" else self._names.locked(table)
            yield Statement(_ALARM % (b"COUNT(%s)<>%d" % (what, count), there, where))

    # -- writes -------------------------------------------------------------------------------------------------

    def _drop(self, step: Step) -> Iterable[Statement]:
        table = self._names.table[_MEMBERS[step.shape]]
        for some in parts(step.rows):
            yield Statement(b"DELETE FROM %s WHERE `inode` IN (%s)" % (table, numbers(some)))

    def _delete(self, step: Step) -> Iterable[Statement]:
        if step.shape == k.COUNTER:
            keys = b",".join([text(row[0]) for row in step.rows])
            yield Statement(b"DELETE FROM %s WHERE `name` IN (%s)" % (self._names.table["counter"], keys))
            return
        kind = KINDS[step.shape]
        head = b"DELETE FROM %s WHERE %s"
        if step.shape == k.SESSIONINFO:
            head = b"UPDATE %s SET `info`=NULL WHERE %s"
        for some in parts(step.rows):
            yield Statement(head % (self._names.table[kind.table], self._names.any_key(kind, some)))

    def _insert(self, step: Step) -> Iterable[Statement]:
        return self._put(KINDS[step.shape], step.rows, b"")

    def _insert_new(self, step: Step) -> Iterable[Statement]:
        kind = KINDS[step.shape]
        column = kind.unique[0].encode()
        keep = b" ON DUPLICATE KEY UPDATE `%s`=`%s`" % (column, column)
        if step.shape == k.SESSIONINFO:
            keep = b" ON DUPLICATE KEY UPDATE `info`=COALESCE(`info`,VALUES(`info`))"
        return self._put(kind, step.rows, keep)

    def _upsert(self, step: Step) -> Iterable[Statement]:
        if step.shape == k.COUNTER:
            head = b"INSERT INTO %s (`name`,`value`) VALUES %s ON DUPLICATE KEY UPDATE `value`=VALUES(`value`)"
            rows = b",".join([b"(%s,%d)" % (text(name), value) for name, value in step.rows])
            return [Statement(head % (self._names.table["counter"], rows))]
        kind = KINDS[step.shape]
        changed = [c for c in kind.keys + kind.values if c not in kind.unique] or [kind.unique[0]]
        update = b",".join([b"`%s`=VALUES(`%s`)" % (c.encode(), c.encode()) for c in changed])
        return self._put(kind, step.rows, b" ON DUPLICATE KEY UPDATE " + update)

    def _put(self, kind: RowKind, rows: Sequence[Row], tail: bytes) -> Iterable[Statement]:
        columns, more = quoted(*kind.keys, *kind.values), b""
        if kind.name == k.SESSIONINFO:
            columns, more = columns + b",`expire`", b",0"
        head = b"INSERT INTO %s (%s) VALUES " % (self._names.table[kind.table], columns)
        rendered = (self._names.values(kind, row)[:-1] + more + b")" for row in rows)
        for some in value_lists(rendered):
            yield Statement(head + some + tail)

    def _append(self, step: Step) -> Iterable[Statement]:
        head = b"INSERT INTO %s (`inode`,`indx`,`slices`) VALUES " % self._names.table["chunk"]
        tail = b" ON DUPLICATE KEY UPDATE `slices`=CONCAT(`slices`,VALUES(`slices`))"
        for some in value_lists(b"(%d,%d,%s)" % (row[0], row[1], literal(row[2])) for row in step.rows):
            yield Statement(head + some + tail)

    def _patch(self, step: Step) -> Iterable[Statement]:
        for _, ino, nlink, *times in step.rows:
            changes = [b"`nlink`=`nlink`+%d" % nlink] if nlink else []
            for column, value in zip((b"mtime", b"mtimensec", b"ctime", b"ctimensec"), times, strict=True):
                if value is not None:
                    changes.append(b"`%s`=%d" % (column, value))
            if changes:
                text_ = b"UPDATE %s SET %s WHERE `inode`=%d" % (self._names.table["node"], b",".join(changes), ino)
                yield Statement(text_)

    def _add(self, step: Step) -> Iterable[Statement]:
        if step.shape == k.SLICEREF:
            yield from self._add_refs(step)
        elif step.shape == k.COUNTER:
            head = b"INSERT INTO %s (`name`,`value`) VALUES (%s,%d) ON DUPLICATE KEY UPDATE `value`=`value`+(%d)"
            for name, total, start in step.rows:
                yield Statement(head % (self._names.table["counter"], text(name), start + total, total))
        elif step.shape == SEQUENCE:
            for name, total in step.rows:
                yield from self.reserve(name.decode(), total)
        else:
            columns = ("data_length", "used_space", "used_inodes")[-3 if step.shape == k.DIRSTAT else -2 :]
            kind = KINDS[step.shape]
            width = len(kind.keys)
            for row in step.rows:
                changes = b",".join([
                    b"`%s`=`%s`+(%d)" % (c.encode(), c.encode(), d)
                    for c, d in zip(columns, row[width:], strict=True)
                ])  # fmt: skip
                where = self._names.is_key(kind, row)
                text_ = b"UPDATE %s SET %s WHERE %s" % (self._names.table[kind.table], changes, where)
                yield Statement(text_, step, row[:width])

    def _add_refs(self, step: Step) -> Iterable[Statement]:
        """One UPDATE per different amount: clones add 1 to many counts, deletions take 1 from many."""
        table, kind = self._names.table["chunk_ref"], KINDS[k.SLICEREF]
        by_amount: dict[int, list[Row]] = {}
        for row in step.rows:
            by_amount.setdefault(row[2], []).append(row[:2])
        for amount, rows in by_amount.items():
            for some in parts(rows):
                where = self._names.any_key(kind, some)
                yield Statement(b"UPDATE %s SET `refs`=`refs`+(%d) WHERE %s" % (table, amount, where))
        for some in parts([row for row in step.rows if row[2] < 0]):
            where = self._names.any_key(kind, some)
            text_ = b"SELECT `chunkid`,`size`,`refs` FROM %s WHERE (%s) AND `refs`<=0" % (table, where)
            yield Statement(text_, step)

    def _log(self, step: Step) -> Iterable[Statement]:
        head = b"INSERT INTO %s (`entry`) VALUES " % self._names.table["change_log"]
        for some in value_lists(b"(%s)" % text(row[0]) for row in step.rows):
            yield Statement(head + some)

    # -- ids that a table hands out -----------------------------------------------------------------------------

    def _set(self, step: Step) -> Iterable[Statement]:
        """A row with the id, gone at once, takes AUTO_INCREMENT beyond it. It never goes back."""
        for name, last in step.rows:
            table = self._names.table[SEQUENCES[name.decode()]]
            if last > 0:
                ignore = b" ON DUPLICATE KEY UPDATE `id`=`id`"
                yield Statement(b"SET @there=(SELECT COUNT(*) FROM %s WHERE `id`=%d)" % (table, last))
                yield Statement(b"INSERT INTO %s (`id`) VALUES (%d)%s" % (table, last, ignore))
                yield Statement(b"DELETE FROM %s WHERE `id`=%d AND @there=0" % (table, last))

    def reserve(self, name: str, count: int) -> Iterable[Statement]:
        """Take the next ids of a table, leaving no row. LAST_INSERT_ID() is the first of them."""
        table = self._names.table[SEQUENCES[name]]
        yield Statement(b"INSERT INTO %s (`id`) VALUES %s" % (table, b",".join([b"(NULL)"] * count)))
        yield Statement(
            b"DELETE FROM %s WHERE `id`>=LAST_INSERT_ID() AND `id`<LAST_INSERT_ID()+%d" % (table, count)
        )  # fmt: skip
