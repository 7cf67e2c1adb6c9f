# SPDX-License-Identifier: Apache-2.0
"""Everything a dump file says, on disk between the pass that verifies and the pass that writes.

Tables of a `Ledger` (a nameless temporary SQLite database), filled in batches. Rows wait in plain lists, which readers
append to directly; `settle` writes them out. A key that comes twice is a problem of the file, told by the table's name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from typing import Any, Final

from core.dump.problems import Problems
from core.errors import ConfigError
from core.ledger import Ledger, Row
from core.meta.records import ROOT, TRASH

#: table -> (columns, how many of them form the key)
TABLES: Final[dict[str, tuple[str, int]]] = {
    # links: number of entries, as far as the reader counts them. attr: binary record (format §2).
    "node": ("ino INTEGER PRIMARY KEY, type INT, links INT, attr BLOB", 1),
    "entry": ("parent INT, name BLOB, type INT, ino INT, PRIMARY KEY (parent, name)", 2),
    "chunk": ("ino INT, idx INT, slices BLOB, PRIMARY KEY (ino, idx)", 2),
    "symlink": ("ino INTEGER PRIMARY KEY, target BLOB", 1),
    "xattr": ("ino INT, name BLOB, value BLOB, PRIMARY KEY (ino, name)", 2),
    "acl": ("id INTEGER PRIMARY KEY, rule BLOB", 1),
    "link": ("ino INT, parent INT, n INT, PRIMARY KEY (ino, parent)", 2),
    "ref": ("id INT, size INT, n INT, PRIMARY KEY (id, size)", 2),
    "dirstat": ("ino INTEGER PRIMARY KEY, length INT, space INT, inodes INT", 1),
    "quota": (
        "kind INT, id INT, max_space INT, max_inodes INT, used_space INT, used_inodes INT, PRIMARY KEY (kind, id)", 2
    ),
    "delfile": ("ino INT, length INT, expire INT, PRIMARY KEY (ino)", 1),
    "sustained": ("sid INT, ino INT, PRIMARY KEY (sid, ino)", 2),
    "counter": ("name TEXT PRIMARY KEY, value INT", 1),
    # Uses of slices by chunks; filled by adding.
    "use": ("id INT, size INT, n INT, PRIMARY KEY (id, size)", 2),
    # Inodes that have more than one entry, of the JSON reader.
    "again": ("ino INTEGER PRIMARY KEY", 1),
    # Usage of a directory's whole subtree, of the JSON reader.
    "below": ("ino INTEGER PRIMARY KEY, space INT, inodes INT", 1),
}  # fmt: skip
_BATCH: Final = 4000
_WHAT: Final = {
    "node": "an inode number", "entry": "a name in a directory", "chunk": "a chunk of a file", "symlink": "a link",
    "xattr": "an extended attribute", "acl": "an ACL rule", "link": "a link count", "ref": "a slice",
    "dirstat": "a directory's statistics", "quota": "a quota", "delfile": "a deleted file", "counter": "a counter",
    "sustained": "an open file",
}  # fmt: skip


def _schema() -> str:
    text = []
    for name, (columns, keys) in TABLES.items():
        tail = "" if "INTEGER PRIMARY" in columns else " WITHOUT ROWID"
        # Long values don't belong into the inner pages of a tree.
        tail = "" if keys == 2 and "BLOB" in columns and name in ("chunk", "xattr") else tail
        text.append(f"CREATE TABLE {name} ({columns}){tail};")
    return "\n".join(text)


class Scratch:
    def __init__(self, problems: Problems) -> None:
        self.ledger = Ledger(_schema())
        self.problems = problems
        self.rows: dict[str, list[Row]] = {name: [] for name in TABLES}
        self._insert: dict[str, str] = {}
        for name, (columns, _) in TABLES.items():
            count = columns.split(", PRIMARY KEY (")[0].count(",") + 1
            self._insert[name] = f"INSERT OR IGNORE INTO {name} VALUES ({', '.join('?' * count)})"  # noqa: S608
        self._insert["use"] = "INSERT INTO use VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
        self._indexed = False

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *exc: object) -> None:
        self.ledger.__exit__(*exc)

    def settle(self, *, all_of_it: bool = False) -> None:
        """Write out the lists that have grown long."""
        for name, rows in self.rows.items():
            if len(rows) >= _BATCH or (all_of_it and rows):
                self._write(name, rows)
                rows.clear()

    def _write(self, name: str, rows: list[Row]) -> None:
        before = self.ledger.one("SELECT total_changes()")
        try:
            self.ledger.add(self._insert[name], rows)
        except sqlite3.OperationalError as e:
            raise ConfigError(
                f"the temporary folder can't take what is in the file: {e}; name a larger one in SQLITE_TMPDIR"
            ) from e
        if name not in ("use", "again") and self.ledger.one("SELECT total_changes()") - before != len(rows):
            self._tell_repeated(name, rows)

    def _tell_repeated(self, name: str, rows: list[Row]) -> None:
        """Which key came before: what is stored differs from the row, or the batch has it twice."""
        keys = TABLES[name][1]
        columns = [column.split()[0] for column in TABLES[name][0].split(", ")[:keys]]
        where = " AND ".join(f"{column} = ?" for column in columns)
        first: set[Row] = set()
        for row in rows:
            key = row[:keys]
            stored = self.ledger.execute(f"SELECT * FROM {name} WHERE {where}", *key)  # noqa: S608
            if key in first or tuple(stored[0]) != tuple(row):
                self.problems.error(self._where(name, row), f"{_WHAT[name]} that was there before", _shown(key))
            first.add(key)

    def _where(self, name: str, row: Row) -> str:
        if name in ("entry", "node", "chunk", "symlink", "xattr", "link", "dirstat"):
            return self.path_of(row[0])
        return ""

    # -- paths, for people ----------------------------------------------------------------------------------------

    def path_of(self, ino: int) -> str:
        """Where an inode is in the tree as far as that is settled; its number if it is nowhere."""
        if ino == ROOT:
            return "/"
        if not self._indexed:
            self.ledger.execute("CREATE INDEX IF NOT EXISTS by_inode ON entry (ino)")
            self._indexed = True
        names: list[bytes] = []
        at = ino
        for _ in range(1 << 12):
            if at in (ROOT, TRASH):
                head = "/.trash/" if at == TRASH else "/"
                return head + "/".join(name.decode("utf-8", "backslashreplace") for name in reversed(names))
            found = self.ledger.execute("SELECT parent, name FROM entry WHERE ino = ? LIMIT 1", at)
            if not found:
                break
            at, name = found[0]
            names.append(name)
        return f"inode {ino}"

    async def read(self, table: str, columns: str = "*", rest: str = "") -> AsyncIterator[Row]:
        async for row in self.ledger.rows(f"SELECT {columns} FROM {table} {rest}"):  # noqa: S608
            yield row

    def one(self, sql: str, *values: Any) -> Any:
        return self.ledger.one(sql, *values)


def _shown(key: Row) -> str:
    return ", ".join(v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else str(v) for v in key)
