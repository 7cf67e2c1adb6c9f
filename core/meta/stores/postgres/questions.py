# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the variable parts are our own column lists and names that `schema.Names` quoted
"""Statements that read, that hand out ids, and that stand alone; how they are built: `texts.py`."""

from __future__ import annotations

from core.meta import keys as k
from core.meta.stores.postgres.arrays import BYTEA, INT4, INT8, TEXT
from core.meta.stores.postgres.schema import literal
from core.meta.stores.postgres.texts import Texts, given, q, same
from core.meta.stores.postgres.wire import Statement
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import KINDS, LOCK_ROWS, NODE_COLUMNS, SEQUENCES


class Questions(Texts):
    """Statements that ask. Built anew by each call; `Statements` keeps them."""

    # -- reading ------------------------------------------------------------------------------------------------

    def _read(self, shape: str) -> Statement:
        """For a query of `ReadPlan`."""
        t = self.table
        if shape in KINDS:
            kind = KINDS[shape]
            table, kinds = t(kind.table), self.types(kind.table, kind.keys)
            wanted = ", ".join(f"t.{q(c)}" for c in kind.keys + kind.values)
            if len(kind.keys) == 1:
                return Statement(f"SELECT {wanted} FROM {table} t WHERE t.{q(kind.keys[0])} = ANY($1)", kinds)
            rows = given(kinds, kind.keys)
            return Statement(f"SELECT {wanted} FROM {rows} JOIN {table} t ON {same(kind.keys, 't', 'w')}", kinds)
        if shape == k.COUNTER:
            return Statement(f"SELECT name, value FROM {t('counter')} WHERE name = ANY($1)", [TEXT])
        if shape == SEQUENCE:
            return Statement(f"SELECT w.name, {self.last('w.name')} FROM {given([TEXT], ['name'])}", [TEXT])
        if shape == k.CHUNKS:
            rows = given([INT8, INT8], ["inode", "most"])
            return Statement(
                f"SELECT t.inode, t.indx, t.slices FROM {rows} JOIN {t('chunk')} t"
                " ON t.inode = w.inode AND t.indx < w.most",
                [INT8, INT8],
            )
        texts = {
            k.XATTRS: f"SELECT inode, name, value FROM {t('xattr')} WHERE inode = ANY($1) ORDER BY inode, name",
            k.PARENTS: f"SELECT inode, parent, count(*) FROM {t('edge')} WHERE inode = ANY($1) GROUP BY 1, 2",
            k.OCCUPIED: f"SELECT w.inode FROM {given([INT8], ['inode'])}"
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
                # The last row tells how far the page goes, linked inodes or not.
                f"""WITH p AS MATERIALIZED (
                  SELECT inode, coalesce(parent, 0) AS up FROM {t("node")} WHERE inode > $1 ORDER BY inode LIMIT $2)
                SELECT p.inode, e.parent, count(*) FROM p JOIN {t("edge")} e ON e.inode = p.inode WHERE p.up = 0
                GROUP BY 1, 2 UNION ALL SELECT max(inode), NULL, count(*) FROM p HAVING count(*) > 0""",
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
            [f"={kind_}" for kind_ in self.types(kind.table, kind.page)] + ["=int8"],
        )

    # -- ids ----------------------------------------------------------------------------------------------------

    def _draw(self, counter: str) -> Statement:
        """Draw $1 ids. They are one run unless another client drew at the same time."""
        sequence = self.sequence(SEQUENCES[counter])
        return Statement(
            f"SELECT min(i), max(i) FROM (SELECT nextval({literal(sequence)}::regclass) AS i"
            " FROM generate_series(1, $1)) x",
            ["=int8"],
        )

    def _allocate(self) -> Statement:
        """name, count, value of a missing row: the value before."""
        return Statement(
            f"INSERT INTO {self.table('counter')} AS t (name, value) SELECT n, c + s"
            " FROM unnest($1::text[], $2::int8[], $3::int8[]) AS w(n, c, s)"
            " ON CONFLICT (name) DO UPDATE SET value = t.value + $2[1] RETURNING t.value",
            [TEXT, INT8, INT8],
        )

    def _gate(self) -> Statement:
        """name, now, oldest: one row if the gate opened. A missing row counts as 0."""
        counter = self.table("counter")
        return Statement(
            f"INSERT INTO {counter} AS t (name, value) SELECT n, v FROM unnest($1::text[], $2::int8[]) AS w(n, v)"
            f" WHERE $3[1] >= 0 OR EXISTS (SELECT FROM {counter} c WHERE c.name = w.n)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE t.value <= $3[1] RETURNING t.value",
            [TEXT, INT8, INT8],
        )

    def _trim_log(self) -> Statement:
        return Statement(
            f"WITH d AS (DELETE FROM {self.table('change_log')} WHERE id <= $1 RETURNING 1) SELECT count(*) FROM d",
            ["=int8"],
        )
