# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the variable parts are our own column lists and names that `schema.Names` quoted
"""Every statement of the store; here those of the steps of a commit (`sql/steps.py`), built as `texts.py` tells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.stores.postgres.arrays import INT4, INT8, TEXT
from core.meta.stores.postgres.questions import Questions
from core.meta.stores.postgres.schema import Names, literal
from core.meta.stores.postgres.texts import ACL_COUNTER, FAIL, equal, given, q, same
from core.meta.stores.postgres.wire import Statement
from core.meta.stores.sql import steps as op
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import (
    COUNTER_START,
    DIR_QUOTA,
    IDENTITY_COLUMNS,
    KINDS,
    NODE_COLUMNS,
    USER_QUOTA,
    RowKind,
)  # fmt: skip


class Statements(Questions):
    """Texts for one volume. Each is built when first asked for and then kept."""

    def __init__(self, names: Names) -> None:
        super().__init__(names)
        self.read = cache(self._read)
        self.step = cache(self._step)
        self.scan = cache(self._scan)
        self.resolve = cache(self._resolve)
        self.page = cache(self._page)
        self.draw = cache(self._draw)

    @cached_property
    def allocate(self) -> Statement:
        return self._allocate()

    @cached_property
    def gate(self) -> Statement:
        return self._gate()

    @cached_property
    def trim_log(self) -> Statement:
        return self._trim_log()

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
        kinds = [INT4, *self.types("node", columns)]
        return self._all_found(
            kinds, ("m", *columns),
            f"JOIN {self.table('node')} t ON t.inode = w.inode WHERE {equal(IDENTITY_COLUMNS)}", k.NODE,
        )  # fmt: skip

    def _all_found(self, kinds: Sequence[str], names: Sequence[str], found: str, shape: str = "") -> Statement:
        """Fail with the marks of given rows for which there is no row `found`; tell what an entry or inode is now
        (`Refused.marks`), so that the next try needs no reading."""
        text, there = "x.m::text", ""
        if shape in (k.NODE, k.ENTRY):
            values = " || ':' || ".join(f"coalesce(n.{q(c)}, 0)" for c in NODE_COLUMNS)
            node = f"CASE WHEN n.inode IS NULL THEN '' ELSE {values} END"
            there = f" JOIN {given(kinds, names)} ON w.m = x.m"
            if shape == k.ENTRY:
                there += f" LEFT JOIN {self.table('edge')} e ON e.parent = w.parent AND e.name = w.name"
                there += f" LEFT JOIN {self.table('node')} n ON n.inode = e.inode"
                text = f"x.m || '/' || coalesce(e.type || ':' || e.inode, '') || '/' || {node}"
            else:
                there += f" LEFT JOIN {self.table('node')} n ON n.inode = w.inode"
                text = f"x.m || CASE WHEN n.inode IS NULL THEN '' ELSE '//' || {node} END"
        return Statement(
            f"WITH r AS MATERIALIZED (SELECT w.m FROM {given(kinds, names)} {found})"
            f" SELECT ('sluice:' || string_agg({text}, ','))::int4"
            f" FROM (SELECT unnest($1::int4[]) EXCEPT SELECT m FROM r) AS x(m){there}",
            kinds,
        )

    def _none_found(self, kinds: Sequence[str], names: Sequence[str], found: str) -> Statement:
        return Statement(f"{FAIL} {given(kinds, names, 'x')} {found}", kinds)

    def _match(self, shape: str) -> Statement:
        t = self.table
        if shape in KINDS:
            kind = KINDS[shape]
            columns = kind.keys + kind.values
            order = ", ".join(f"t.{q(c)}" for c in kind.keys)
            return self._all_found(
                [INT4, *self.types(kind.table, columns)], ("m", *columns),
                f"JOIN {t(kind.table)} t ON {same(kind.keys, 't', 'w')} WHERE {equal(kind.values)}"
                f" ORDER BY {order} FOR UPDATE OF t",
                shape,
            )  # fmt: skip
        if shape == k.COUNTER:
            kinds, names = [INT4, TEXT, INT8, INT8], ["m", "name", "value", "start"]
            counter = t("counter")
            return Statement(
                f"WITH r AS MATERIALIZED (SELECT w.m FROM {given(kinds, names)} JOIN {counter} t ON t.name = w.name"
                f" WHERE t.value = w.value ORDER BY t.name FOR UPDATE OF t) {FAIL} (SELECT w.m FROM"
                f" {given(kinds, names)} WHERE w.value <> w.start OR EXISTS (SELECT FROM {counter} t WHERE"
                " t.name = w.name) EXCEPT SELECT m FROM r) AS x(m)",
                kinds,
            )
        if shape == SEQUENCE:
            return self._none_found([INT4, TEXT, INT8], ["m", "name", "v"], f"WHERE {self.last('x.name')} <> x.v")
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
            [INT4, *self.types(kind.table, kind.keys)], ("m", *kind.keys),
            f"JOIN {self.table(kind.table)} t ON {same(kind.keys, 't', 'x')}{there}",
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
        kinds = self.types(kind.table, kind.keys)
        if len(kinds) == 1:
            return Statement(f"DELETE FROM {self.table(kind.table)} WHERE {q(kind.keys[0])} = ANY($1)", kinds)
        return Statement(
            f"DELETE FROM {self.table(kind.table)} t USING {given(kinds, kind.keys)} WHERE {same(kind.keys, 't', 'w')}",
            kinds,
        )

    def _insert_text(self, kind: RowKind) -> tuple[str, list[str]]:
        columns = kind.keys + kind.values
        kinds = self.types(kind.table, columns)
        into, chosen = ", ".join(map(q, columns)), ", ".join(f"w.{q(c)}" for c in columns)
        if kind.name == k.SESSIONINFO:
            into, chosen = f"{into}, expire", f"{chosen}, 0"
        return (
            f"INSERT INTO {self.table(kind.table)} AS t ({into}) SELECT {chosen} FROM {given(kinds, columns)}",
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
                f" {given([TEXT, INT8], ['name', 'value'])} ON CONFLICT (name) DO UPDATE SET value = excluded.value",
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
            f" HAVING max(id) > {self.last(ACL_COUNTER)}"
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
            f" FROM {given(kinds, names)} WHERE t.inode = w.inode RETURNING w.m)"
            f" {FAIL} (SELECT unnest($1::int4[]) EXCEPT SELECT m FROM r) AS x(m)",
            kinds,
        )

    def _set(self, shape: str) -> Statement:
        return Statement(
            f"SELECT setval({self.which('w.name')}, w.v + 1, false) FROM {given([TEXT, INT8], ['name', 'v'])}",
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
                f" {given(kinds, names)} ON CONFLICT (name) DO UPDATE SET value = t.value + excluded.value"
                f" - CASE t.name {start} ELSE 0 END",
                kinds,
            )
        if shape == SEQUENCE:
            return Statement(
                f"SELECT setval({self.which('w.name')}, {self.last('w.name')} + w.v + 1, false)"
                f" FROM {given([TEXT, INT8], ['name', 'v'])}",
                [TEXT, INT8],
            )
        kind = KINDS[shape]
        sums = {
            k.DIRSTAT: kind.values, DIR_QUOTA: ("used_space", "used_inodes"), USER_QUOTA: ("used_space", "used_inodes"),
            k.SLICEREF: ("refs",),
        }[shape]  # fmt: skip
        kinds = self.types(kind.table, kind.keys + sums)
        returning = {k.DIRSTAT: " RETURNING t.inode", k.SLICEREF: " RETURNING t.chunkid, t.size, t.refs"}.get(shape, "")
        sets = ", ".join(f"{c} = t.{c} + w.{c}" for c in sums)
        return Statement(
            f"UPDATE {t(kind.table)} t SET {sets} FROM {given(kinds, kind.keys + sums)}"
            f" WHERE {same(kind.keys, 't', 'w')}{returning}",
            kinds,
        )


_STEPS: Final = {
    op.LOCK: Statements._lock, op.IDENTITY: Statements._identity, op.MATCH: Statements._match,
    op.ABSENT: Statements._absent, op.COUNT: Statements._count, op.DROP: Statements._drop,
    op.DELETE: Statements._delete, op.INSERT: Statements._insert, op.INSERT_NEW: Statements._insert_new,
    op.UPSERT: Statements._upsert, op.APPEND: Statements._append, op.PATCH: Statements._patch,
    op.SET: Statements._set, op.LOG: Statements._log, op.ADD: Statements._add,
}  # fmt: skip
