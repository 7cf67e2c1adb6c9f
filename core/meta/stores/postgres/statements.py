# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the variable parts are our own column lists and names that `schema.Names` quoted
"""Every statement of the store: the shapes and steps of the shared layer as PostgreSQL text over arrays.

Each parameter is an array, one per column; `unnest` makes rows of them. So a statement has one text and one generic
plan whatever the number of rows. Joins go from the (few) given rows to an index, never the other way; `links.py`
switches the other plans off.

A check fails by casting a text that names the marks to a number: the whole transaction is undone by the server in
the same round trip, and `Refused.marks` reads the marks from the message. Sources: format §5.3, §5.5; steps.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.stores.postgres.arrays import BYTEA, INT4, INT8, TEXT
from core.meta.stores.postgres.schema import Names, literal
from core.meta.stores.postgres.wire import Statement
from core.meta.stores.sql import steps as op
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import (
    COUNTER_START,
    DIR_QUOTA,
    IDENTITY_COLUMNS,
    KINDS,
    LOCK_ROWS,
    NODE_COLUMNS,
    NULLABLE,
    SEQUENCES,
    USER_QUOTA,
    RowKind,
)  # fmt: skip
from core.meta.stores.sql.tables import TABLES, Type

_ARRAYS: Final = {
    Type.INT32: INT4, Type.SERIAL32: INT4, Type.INT64: INT8, Type.SERIAL64: INT8, Type.STR: TEXT, Type.TEXT: TEXT,
    Type.BLOB: BYTEA, Type.BIN: BYTEA,
}  # fmt: skip

_ACL_COUNTER: Final = "'aclMaxId'::text"

#: Fails and names the marks x.m, if there are any.
_FAIL: Final = "SELECT ('sluice:' || string_agg(x.m::text, ','))::int4 FROM"


def q(column: str) -> str:
    return f'"{column}"'


def _given(kinds: Sequence[str], names: Sequence[str], alias: str = "w") -> str:
    """The given rows as a table."""
    arrays = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(kinds, 1))
    return f"unnest({arrays}) AS {alias}({', '.join(map(q, names))})"


def _same(columns: Sequence[str], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{q(c)} = {right}.{q(c)}" for c in columns)


def _equal(columns: Sequence[str]) -> str:
    """Values of table t and of given row w; NULL means 0 or empty in some columns."""
    parts = []
    for c in columns:
        if c in NULLABLE:
            parts.append(f"coalesce(t.{q(c)}, 0) = w.{q(c)}")
        else:
            parts.append(f"t.{q(c)} IS NOT DISTINCT FROM w.{q(c)}")
    return " AND ".join(parts) or "true"


class Statements:
    """Texts for one volume. Each is built when first asked for and then kept."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.table = names.table
        self.sequence = names.sequence
        self.read = cache(self._read)
        self.step = cache(self._step)
        self.scan = cache(self._scan)
        self.resolve = cache(self._resolve)
        self.page = cache(self._page)
        self.draw = cache(self._draw)

    def _types(self, table: str, columns: Sequence[str]) -> list[str]:
        """Array types of columns; some were widened by their owners."""
        found, wide = TABLES[table], self._names.wide
        return [INT8 if (table, c) in wide else _ARRAYS[found.column(c).type] for c in columns]

    # -- reading ------------------------------------------------------------------------------------------------

    def _read(self, shape: str) -> Statement:
        """For a query of `ReadPlan`."""
        t = self.table
        if shape in KINDS:
            kind = KINDS[shape]
            table, kinds = t(kind.table), self._types(kind.table, kind.keys)
            wanted = ", ".join(f"t.{q(c)}" for c in kind.keys + kind.values)
            if len(kind.keys) == 1:
                return Statement(f"SELECT {wanted} FROM {table} t WHERE t.{q(kind.keys[0])} = ANY($1)", kinds)
            given = _given(kinds, kind.keys)
            return Statement(f"SELECT {wanted} FROM {given} JOIN {table} t ON {_same(kind.keys, 't', 'w')}", kinds)
        if shape == k.COUNTER:
            return Statement(f"SELECT name, value FROM {t('counter')} WHERE name = ANY($1)", [TEXT])
        if shape == SEQUENCE:
            return Statement(f"SELECT w.name, {self._last('w.name')} FROM {_given([TEXT], ['name'])}", [TEXT])
        if shape == k.CHUNKS:
            given = _given([INT8, INT8], ["inode", "most"])
            return Statement(
                f"SELECT t.inode, t.indx, t.slices FROM {given} JOIN {t('chunk')} t"
                " ON t.inode = w.inode AND t.indx < w.most",
                [INT8, INT8],
            )
        texts = {
            k.XATTRS: f"SELECT inode, name, value FROM {t('xattr')} WHERE inode = ANY($1) ORDER BY inode, name",
            k.PARENTS: f"SELECT inode, parent, count(*) FROM {t('edge')} WHERE inode = ANY($1) GROUP BY 1, 2",
            k.OCCUPIED: f"SELECT w.inode FROM {_given([INT8], ['inode'])}"
            f" WHERE EXISTS (SELECT FROM {t('edge')} t WHERE t.parent = w.inode)",
            k.FLOCKS: f"SELECT inode, sid, owner, ltype FROM {t('flock')} WHERE inode = ANY($1)",
            k.PLOCKS: f"SELECT inode, sid, owner, records FROM {t('plock')} WHERE inode = ANY($1)",
        }
        return Statement(texts[shape], [INT8])

    def _resolve(self, extras: bool) -> Statement:
        """Many walks in one statement, whatever their depths. Given, per walk: base inode, number of names, position
        of the first one in the array of all names, and whether attributes and data of the last node are wanted.

        Rows: walk, depth (0: the base), type and inode of the entry, columns of the node (NULL: missing); with
        extras: attributes (as length and bytes of name and value each) and first chunk of the last node.
        """
        t = self.table
        node = ", ".join(f"n.{q(c)}" for c in NODE_COLUMNS)
        more = ""
        if extras:
            more = f""", CASE WHEN r.depth = r.most AND r.wx > 0 THEN coalesce((SELECT string_agg(
                  int4send(octet_length(x.name)) || convert_to(x.name, 'UTF8') || int4send(octet_length(x.value))
                  || x.value, '' ORDER BY x.name) FROM {t("xattr")} x WHERE x.inode = r.inode), '') END,
                CASE WHEN r.depth = r.most AND r.wc > 0 AND n.type = 1 THEN coalesce(
                  (SELECT c.slices FROM {t("chunk")} c WHERE c.inode = r.inode AND c.indx = 0), '') END"""
        sql = f"""WITH RECURSIVE r AS (
            SELECT w.o::int4 AS walk, 0 AS depth, 2 AS type, w.inode, w.most, w.start, w.wx, w.wc
            FROM unnest($1::int8[], $2::int4[], $3::int4[], $4::int4[], $5::int4[]) WITH ORDINALITY
              AS w(inode, most, start, wx, wc, o)
            UNION ALL
            SELECT r.walk, r.depth + 1, e.type, e.inode, r.most, r.start, r.wx, r.wc FROM r
            JOIN {t("node")} d ON d.inode = r.inode AND d.type = 2
            JOIN {t("edge")} e ON e.parent = r.inode AND e.name = ($6::bytea[])[r.start + r.depth]
            WHERE r.depth < r.most)
          SELECT r.walk, r.depth, r.type, r.inode, {node}{more}
          FROM r LEFT JOIN {t("node")} n ON n.inode = r.inode"""
        return Statement(sql, [INT8, INT4, INT4, INT4, INT4, BYTEA])

    def _page(self, attrs: bool) -> Statement:
        """One range of the unique (parent, name) index; parameters: parent, after, limit."""
        page = (
            f"SELECT name, type, inode FROM {self.table('edge')} WHERE parent = $1 AND name > $2 ORDER BY name LIMIT $3"
        )
        kinds = ["=int8", "=bytea", "=int8"]
        if not attrs:
            return Statement(page, kinds)
        node = ", ".join(f"n.{q(c)}" for c in NODE_COLUMNS)
        return Statement(
            f"SELECT e.name, e.type, e.inode, {node} FROM ({page}) e"
            f" LEFT JOIN {self.table('node')} n ON n.inode = e.inode ORDER BY e.name",
            kinds,
        )

    def _scan(self, shape: str) -> Statement:
        """A page of a table. Parameters: the page columns of the last row seen, then the limit; rows: page columns,
        key columns, value columns."""
        t = self.table
        if shape == k.PARENT:
            return Statement(
                f"""SELECT n.inode, e.parent, count(e.parent) FROM (
                  SELECT inode FROM {t("node")} WHERE inode > $1 AND coalesce(parent, 0) = 0 ORDER BY inode LIMIT $2) n
                LEFT JOIN {t("edge")} e ON e.inode = n.inode GROUP BY 1, 2 ORDER BY 1""",
                ["=int8", "=int8"],
            )
        if shape in LOCK_ROWS:
            kind = KINDS[LOCK_ROWS[shape]]
            table = t(kind.table)
            return Statement(
                f"""SELECT inode, sid, owner, {kind.values[0]} FROM {table} WHERE inode IN (
                  SELECT DISTINCT inode FROM {table} WHERE inode > $1 ORDER BY inode LIMIT $2) ORDER BY inode""",
                ["=int8", "=int8"],
            )
        if shape == "refs":
            return Statement(
                f"SELECT refs, chunkid, size FROM {t('chunk_ref')} WHERE refs <= $1 AND refs >= $2"
                " AND (refs, chunkid) > ($2, $3) ORDER BY refs, chunkid LIMIT $4",
                ["=int4", "=int4", "=int8", "=int8"],
            )
        if shape == "held":
            return Statement(
                f"SELECT inode FROM {t('sustained')} WHERE sid = $1 AND inode > $2 ORDER BY inode LIMIT $3",
                ["=int8", "=int8", "=int8"],
            )
        kind = KINDS[shape]
        columns = ", ".join(map(q, kind.page + kind.keys + kind.values))
        page = ", ".join(map(q, kind.page))
        after = ", ".join(f"${i}" for i in range(1, len(kind.page) + 1))
        return Statement(
            f"SELECT {columns} FROM {t(kind.table)} WHERE ({page}) > ({after}) ORDER BY {page}"
            f" LIMIT ${len(kind.page) + 1}",
            [f"={kind_}" for kind_ in self._types(kind.table, kind.page)] + ["=int8"],
        )

    # -- ids ----------------------------------------------------------------------------------------------------

    def _last(self, name: str) -> str:
        """Last id used of the sequence behind a counter."""
        cases = " ".join(
            f"WHEN '{counter}' THEN (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM"
            f" {self.sequence(table)})"
            for counter, table in SEQUENCES.items()
        )
        return f"CASE {name} {cases} END"

    def _which(self, name: str) -> str:
        cases = " ".join(
            f"WHEN '{counter}' THEN {literal(self.sequence(table))}::regclass" for counter, table in SEQUENCES.items()
        )
        return f"CASE {name} {cases} END"

    def _draw(self, counter: str) -> Statement:
        """Draw $1 ids. They are one run unless another client drew at the same time."""
        sequence = self.sequence(SEQUENCES[counter])
        return Statement(
            f"SELECT min(i), max(i) FROM (SELECT nextval({literal(sequence)}::regclass) AS i"
            " FROM generate_series(1, $1)) x",
            ["=int8"],
        )

    @cached_property
    def allocate(self) -> Statement:
        """name, count, value of a missing row: the value before."""
        return Statement(
            f"INSERT INTO {self.table('counter')} AS t (name, value) SELECT n, c + s"
            " FROM unnest($1::text[], $2::int8[], $3::int8[]) AS w(n, c, s)"
            " ON CONFLICT (name) DO UPDATE SET value = t.value + $2[1] RETURNING t.value",
            [TEXT, INT8, INT8],
        )

    @cached_property
    def gate(self) -> Statement:
        """name, now, oldest: one row if the gate opened. A missing row counts as 0."""
        counter = self.table("counter")
        return Statement(
            f"INSERT INTO {counter} AS t (name, value) SELECT n, v FROM unnest($1::text[], $2::int8[]) AS w(n, v)"
            f" WHERE $3[1] >= 0 OR EXISTS (SELECT FROM {counter} c WHERE c.name = w.n)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE t.value <= $3[1] RETURNING t.value",
            [TEXT, INT8, INT8],
        )

    @cached_property
    def trim_log(self) -> Statement:
        return Statement(
            f"WITH d AS (DELETE FROM {self.table('change_log')} WHERE id <= $1 RETURNING 1) SELECT count(*) FROM d",
            ["=int8"],
        )

    # -- steps of a commit --------------------------------------------------------------------------------------

    def _step(self, number: int, shape: str) -> Statement:
        build = _STEPS.get(number)
        if build is None:
            raise MetaError(f"postgres: no statement for {op.OP_NAMES[number]} of {shape!r}")
        return build(self, shape)

    def _lock(self, shape: str) -> Statement:
        return Statement(
            f"WITH r AS MATERIALIZED (SELECT inode FROM {self.table('node')} WHERE inode = ANY($1)"
            " ORDER BY inode FOR UPDATE) SELECT count(*) FROM r",
            [INT8],
        )

    def _identity(self, shape: str) -> Statement:
        columns = ("inode", *IDENTITY_COLUMNS)
        kinds = [INT4, *self._types("node", columns)]
        return self._all_found(
            kinds, ("m", *columns),
            f"JOIN {self.table('node')} t ON t.inode = w.inode WHERE {_equal(IDENTITY_COLUMNS)}", k.NODE,
        )  # fmt: skip

    def _all_found(self, kinds: Sequence[str], names: Sequence[str], found: str, shape: str = "") -> Statement:
        """Fail with the marks of given rows for which there is no row `found`; tell what an entry or inode is now
        (`Refused.marks`), so that the next try needs no reading."""
        text, there = "x.m::text", ""
        if shape in (k.NODE, k.ENTRY):
            values = " || ':' || ".join(f"coalesce(n.{q(c)}, 0)" for c in NODE_COLUMNS)
            node = f"CASE WHEN n.inode IS NULL THEN '' ELSE {values} END"
            there = f" JOIN {_given(kinds, names)} ON w.m = x.m"
            if shape == k.ENTRY:
                there += f" LEFT JOIN {self.table('edge')} e ON e.parent = w.parent AND e.name = w.name"
                there += f" LEFT JOIN {self.table('node')} n ON n.inode = e.inode"
                text = f"x.m || '/' || coalesce(e.type || ':' || e.inode, '') || '/' || {node}"
            else:
                there += f" LEFT JOIN {self.table('node')} n ON n.inode = w.inode"
                text = f"x.m || CASE WHEN n.inode IS NULL THEN '' ELSE '//' || {node} END"
        return Statement(
            f"WITH r AS MATERIALIZED (SELECT w.m FROM {_given(kinds, names)} {found})"
            f" SELECT ('sluice:' || string_agg({text}, ','))::int4"
            f" FROM (SELECT unnest($1::int4[]) EXCEPT SELECT m FROM r) AS x(m){there}",
            kinds,
        )

    def _none_found(self, kinds: Sequence[str], names: Sequence[str], found: str) -> Statement:
        return Statement(f"{_FAIL} {_given(kinds, names, 'x')} {found}", kinds)

    def _match(self, shape: str) -> Statement:
        t = self.table
        if shape in KINDS:
            kind = KINDS[shape]
            columns = kind.keys + kind.values
            order = ", ".join(f"t.{q(c)}" for c in kind.keys)
            return self._all_found(
                [INT4, *self._types(kind.table, columns)], ("m", *columns),
                f"JOIN {t(kind.table)} t ON {_same(kind.keys, 't', 'w')} WHERE {_equal(kind.values)}"
                f" ORDER BY {order} FOR UPDATE OF t",
                shape,
            )  # fmt: skip
        if shape == k.COUNTER:
            kinds, names = [INT4, TEXT, INT8, INT8], ["m", "name", "value", "start"]
            counter = t("counter")
            return Statement(
                f"WITH r AS MATERIALIZED (SELECT w.m FROM {_given(kinds, names)} JOIN {counter} t ON t.name = w.name"
                f" WHERE t.value = w.value ORDER BY t.name FOR UPDATE OF t) {_FAIL} (SELECT w.m FROM"
                f" {_given(kinds, names)} WHERE w.value <> w.start OR EXISTS (SELECT FROM {counter} t WHERE"
                " t.name = w.name) EXCEPT SELECT m FROM r) AS x(m)",
                kinds,
            )
        if shape == SEQUENCE:
            return self._none_found([INT4, TEXT, INT8], ["m", "name", "v"], f"WHERE {self._last('x.name')} <> x.v")
        edge = t("edge")
        if shape == k.PARENTS:
            return self._none_found(
                [INT4, INT8, INT8, INT8], ["m", "i", "p", "n"],
                f"WHERE (SELECT count(*) FROM {edge} t WHERE t.inode = x.i AND t.parent = x.p) <> x.n",
            )  # fmt: skip
        if shape == k.OCCUPIED:
            return self._none_found(
                [INT4, INT8, INT8], ["m", "i", "n"],
                f"WHERE EXISTS (SELECT FROM {edge} t WHERE t.parent = x.i) <> (x.n = 1)",
            )  # fmt: skip
        raise MetaError(f"postgres: records of kind {shape!r} can't be checked")

    def _absent(self, shape: str) -> Statement:
        kind = KINDS[shape]
        there = " AND t.info IS NOT NULL" if shape == k.SESSIONINFO else ""
        return self._none_found(
            [INT4, *self._types(kind.table, kind.keys)], ("m", *kind.keys),
            f"JOIN {self.table(kind.table)} t ON {_same(kind.keys, 't', 'x')}{there}",
        )  # fmt: skip

    def _count(self, shape: str) -> Statement:
        tables = {k.XATTRS: "xattr", k.CHUNKS: "chunk", k.FLOCKS: "flock", k.PLOCKS: "plock", k.PARENTS: "edge"}
        what = "count(DISTINCT t.parent)" if shape == k.PARENTS else "count(*)"
        below = " AND t.indx < x.c" if shape == k.CHUNKS else ""
        return self._none_found(
            [INT4, INT8, INT8, INT8], ["m", "i", "c", "n"],
            f"WHERE (SELECT {what} FROM {self.table(tables[shape])} t WHERE t.inode = x.i{below}) <> x.n",
        )  # fmt: skip

    def _drop(self, shape: str) -> Statement:
        table = {k.XATTRS: "xattr", k.FLOCKS: "flock", k.PLOCKS: "plock"}[shape]
        return Statement(f"DELETE FROM {self.table(table)} WHERE inode = ANY($1)", [INT8])

    def _delete(self, shape: str) -> Statement:
        if shape == k.COUNTER:
            return Statement(f"DELETE FROM {self.table('counter')} WHERE name = ANY($1)", [TEXT])
        if shape == k.SESSIONINFO:
            return Statement(f"UPDATE {self.table('session2')} SET info = NULL WHERE sid = ANY($1)", [INT8])
        kind = KINDS[shape]
        kinds = self._types(kind.table, kind.keys)
        if len(kinds) == 1:
            return Statement(f"DELETE FROM {self.table(kind.table)} WHERE {q(kind.keys[0])} = ANY($1)", kinds)
        return Statement(
            f"DELETE FROM {self.table(kind.table)} t USING {_given(kinds, kind.keys)}"
            f" WHERE {_same(kind.keys, 't', 'w')}",
            kinds,
        )

    def _insert_text(self, kind: RowKind) -> tuple[str, list[str]]:
        columns = kind.keys + kind.values
        kinds = self._types(kind.table, columns)
        into, given = ", ".join(map(q, columns)), ", ".join(f"w.{q(c)}" for c in columns)
        if kind.name == k.SESSIONINFO:
            into, given = f"{into}, expire", f"{given}, 0"
        return (
            f"INSERT INTO {self.table(kind.table)} AS t ({into}) SELECT {given} FROM {_given(kinds, columns)}",
            kinds,
        )

    def _insert(self, shape: str) -> Statement:
        text, kinds = self._insert_text(KINDS[shape])
        return Statement(self._numbered(shape, text), kinds)

    def _insert_new(self, shape: str) -> Statement:
        text, kinds = self._insert_text(KINDS[shape])
        if shape == k.SESSIONINFO:
            return Statement(f"{text} ON CONFLICT (sid) DO UPDATE SET info = coalesce(t.info, excluded.info)", kinds)
        return Statement(self._numbered(shape, f"{text} ON CONFLICT DO NOTHING"), kinds)

    def _upsert(self, shape: str) -> Statement:
        if shape == k.COUNTER:
            return Statement(
                f"INSERT INTO {self.table('counter')} (name, value) SELECT w.name, w.value FROM"
                f" {_given([TEXT, INT8], ['name', 'value'])} ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                [TEXT, INT8],
            )
        kind = KINDS[shape]
        text, kinds = self._insert_text(kind)
        changed = [c for c in kind.keys + kind.values if c not in kind.unique]
        update = ", ".join(f"{q(c)} = excluded.{q(c)}" for c in changed)
        unique = ", ".join(map(q, kind.unique))
        action = f"DO UPDATE SET {update}" if update else "DO NOTHING"
        return Statement(self._numbered(shape, f"{text} ON CONFLICT ({unique}) {action}"), kinds)

    def _numbered(self, shape: str, text: str) -> str:
        """Rules that come with an id of their own (a restored volume) push the sequence behind them."""
        if shape != k.ACL:
            return text
        sequence = self.sequence("acl")
        return (
            f"WITH i AS ({text}) SELECT setval({literal(sequence)}::regclass, max(id)) FROM unnest($1::int4[]) AS id"
            f" HAVING max(id) > {self._last(_ACL_COUNTER)}"
        )

    def _append(self, shape: str) -> Statement:
        text, kinds = self._insert_text(KINDS[k.CHUNK])
        return Statement(f"{text} ON CONFLICT (inode, indx) DO UPDATE SET slices = t.slices || excluded.slices", kinds)

    def _patch(self, shape: str) -> Statement:
        kinds = [INT4, INT8, INT4, INT8, INT4, INT8, INT4]
        names = ["m", "inode", "nlink", "mtime", "mtimensec", "ctime", "ctimensec"]
        times = ", ".join(f"{c} = coalesce(w.{c}, t.{c})" for c in names[3:])
        return Statement(
            f"WITH r AS (UPDATE {self.table('node')} t SET nlink = t.nlink + w.nlink, {times}"
            f" FROM {_given(kinds, names)} WHERE t.inode = w.inode RETURNING w.m)"
            f" {_FAIL} (SELECT unnest($1::int4[]) EXCEPT SELECT m FROM r) AS x(m)",
            kinds,
        )

    def _set(self, shape: str) -> Statement:
        return Statement(
            f"SELECT setval({self._which('w.name')}, w.v + 1, false) FROM {_given([TEXT, INT8], ['name', 'v'])}",
            [TEXT, INT8],
        )

    def _log(self, shape: str) -> Statement:
        return Statement(f"INSERT INTO {self.table('change_log')} (entry) SELECT unnest($1::text[])", [TEXT])

    def _add(self, shape: str) -> Statement:
        t = self.table
        if shape == k.COUNTER:
            kinds, names = [TEXT, INT8, INT8], ["name", "delta", "start"]
            start = " ".join(f"WHEN '{name}' THEN {value}" for name, value in COUNTER_START.items())
            return Statement(
                f"INSERT INTO {t('counter')} AS t (name, value) SELECT w.name, w.delta + w.start FROM"
                f" {_given(kinds, names)} ON CONFLICT (name) DO UPDATE SET value = t.value + excluded.value"
                f" - CASE t.name {start} ELSE 0 END",
                kinds,
            )
        if shape == SEQUENCE:
            return Statement(
                f"SELECT setval({self._which('w.name')}, {self._last('w.name')} + w.v + 1, false)"
                f" FROM {_given([TEXT, INT8], ['name', 'v'])}",
                [TEXT, INT8],
            )
        kind = KINDS[shape]
        sums = {
            k.DIRSTAT: kind.values, DIR_QUOTA: ("used_space", "used_inodes"), USER_QUOTA: ("used_space", "used_inodes"),
            k.SLICEREF: ("refs",),
        }[shape]  # fmt: skip
        kinds = self._types(kind.table, kind.keys + sums)
        returning = {k.DIRSTAT: " RETURNING t.inode", k.SLICEREF: " RETURNING t.chunkid, t.size, t.refs"}.get(shape, "")
        sets = ", ".join(f"{c} = t.{c} + w.{c}" for c in sums)
        return Statement(
            f"UPDATE {t(kind.table)} t SET {sets} FROM {_given(kinds, kind.keys + sums)}"
            f" WHERE {_same(kind.keys, 't', 'w')}{returning}",
            kinds,
        )


_STEPS: Final = {
    op.LOCK: Statements._lock, op.IDENTITY: Statements._identity, op.MATCH: Statements._match,
    op.ABSENT: Statements._absent, op.COUNT: Statements._count, op.DROP: Statements._drop,
    op.DELETE: Statements._delete, op.INSERT: Statements._insert, op.INSERT_NEW: Statements._insert_new,
    op.UPSERT: Statements._upsert, op.APPEND: Statements._append, op.PATCH: Statements._patch,
    op.SET: Statements._set, op.LOG: Statements._log, op.ADD: Statements._add,
}  # fmt: skip
