# SPDX-License-Identifier: Apache-2.0
"""The ledger of a run of `gc`: its tables, and the questions asked of them. SQL only; `run.py` fills and asks.

Source: spec metadata-semantics §14.1; data-path §11.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = """
CREATE TABLE object (id INT, idx INT, length INT, bytes INT, mtime REAL, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
CREATE TABLE leaked (id INT, idx INT, length INT, bytes INT, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
CREATE TABLE ref (id INT, size INT, n INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
CREATE TABLE wrong (id INT, size INT, n INT, used INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
CREATE TABLE use (id INT, size INT, late INT, n INT, PRIMARY KEY (id, size, late)) WITHOUT ROWID;
CREATE TABLE again (id INT, size INT, late INT, n INT, PRIMARY KEY (id, size, late)) WITHOUT ROWID;
"""

# A block belongs to a slice of its id if the slice has such a block.
_FITS: Final = "CASE WHEN o.length = ?1 THEN (o.idx + 1) * ?1 <= s.size ELSE o.idx * ?1 + o.length = s.size END"

#: Parameters: the block size, the youngest time that isn't young.
CLASSES: Final = """
SELECT o.id, o.idx, o.length, o.bytes, CASE
  WHEN EXISTS (SELECT 1 FROM use s WHERE s.id = o.id AND s.late = 0 AND {fits}) THEN 'valid'
  WHEN EXISTS (SELECT 1 FROM use s WHERE s.id = o.id AND {fits}) THEN 'compacted'
  WHEN EXISTS (SELECT 1 FROM ref s WHERE s.id = o.id AND {fits}) THEN 'pending'
  WHEN o.mtime > ?2 THEN 'skipped' ELSE 'leaked' END
FROM object o
""".replace("{fits}", _FITS)

_USED: Final = "(SELECT COALESCE(SUM(u.n), 0) FROM {table} u WHERE u.id = {row}.id AND u.size = {row}.size)"

#: Slices counted higher than used, all of whose objects (there is one at least) are older than the fence.
WRONG: Final = f"""
INSERT INTO wrong SELECT r.id, r.size, r.n, {_USED.format(table="use", row="r")} AS used FROM ref r
WHERE r.n > 0 AND r.n > used AND (SELECT MAX(o.mtime) FROM object o WHERE o.id = r.id) <= ?1
"""  # noqa: S608 - constants only

#: The same number of uses at the second look.
WRONG_STILL: Final = f"SELECT id, size, n, used FROM wrong WHERE used = {_USED.format(table='again', row='wrong')}"  # noqa: S608
#: Parameter: the block size.
LEAKED_STILL: Final = """
SELECT id, idx, length, bytes FROM leaked o WHERE NOT EXISTS (SELECT 1 FROM again s WHERE s.id = o.id AND {fits})
""".replace("{fits}", _FITS)
ADD_USE: Final = "INSERT INTO {} VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET n = n + 1"
