# SPDX-License-Identifier: Apache-2.0
"""The steps of a transaction: what a dialect must be able to execute, each as one statement over any number of rows.

Steps. Locks are taken in one order by everybody: inodes ascending, then what the checks name, table by table, then
the writes. READ COMMITTED is enough, because every check reads what is locked, after it was locked; with snapshots
(MySQL's REPEATABLE READ) the checks must be locking reads.

| op | shape | rows (behind the mark) | what to do |
|---|---|---|---|
| LOCK | NODE | inode (no mark) | lock the rows that exist, ascending |
| IDENTITY | NODE | inode, IDENTITY_COLUMNS | the row exists and is the same, NULL = 0 |
| MATCH | name in KINDS | key columns, value columns | the row exists and equals; lock it; NULL = 0 in NULLABLE |
| MATCH | COUNTER | name, value, value of a missing row | the same; lock it |
| MATCH | SEQUENCE | name of the counter, last id used | |
| MATCH | PARENTS | inode, parent, number of edges | |
| MATCH | OCCUPIED | inode, 0 or 1 | is there an edge with this parent |
| ABSENT | name in KINDS | key columns | no such row (SESSIONINFO: or the document is NULL) |
| COUNT | XATTRS, FLOCKS, PLOCKS | inode, 0, n | the inode has n rows there (their content: MATCH) |
| COUNT | CHUNKS | inode, count, n | the same, of chunks with indx < count |
| COUNT | PARENTS | inode, 0, n | edges with this inode have n different parents |
| DROP | XATTRS, FLOCKS, PLOCKS | inode (no mark, like all below but PATCH) | delete all rows of the inode |
| DELETE | name in KINDS, COUNTER | key columns | SESSIONINFO: set the document to NULL |
| INSERT | name in KINDS | key columns, value columns | fails the transaction if one exists: Conflict |
| INSERT_NEW | name in KINDS | the same | leave what exists (SESSIONINFO: fill in a NULL document) |
| UPSERT | name in KINDS, COUNTER | the same | by the columns `unique` |
| APPEND | CHUNK | inode, indx, slices | upsert, bytes at the end |
| PATCH | NODE | inode, nlink, mtime, mtimensec, ctime, ctimensec | add nlink, set the others unless NULL; must exist |
| ADD | DIRSTAT | inode, three sums | update only; returns inode of each row changed |
| ADD | DIR_QUOTA, USER_QUOTA | inode or qtype, qkey; two sums | update only, the columns used_… |
| ADD | SLICEREF | chunkid, size, sum | update only; returns chunkid, size, refs |
| ADD | COUNTER | name, sum, value of a missing row | upsert: sum + value of a missing row |
| SET, ADD | SEQUENCE | name of the counter, last id used or sum | |
| LOG | CHANGELOG | entry | insert, in this order |

Sources: format §3.4, §5.5, §13 (17–19); semantics §1.6.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from core.meta import keys as k
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import KINDS, Row

# Ops, in the order in which a phase executes them. Counters come last: their rows are the ones that all clients want.
LOCK, IDENTITY, MATCH, ABSENT, COUNT, DROP, DELETE, INSERT, INSERT_NEW, UPSERT, APPEND, PATCH, SET, LOG, ADD = range(15)
OP_NAMES: Final = (
    "LOCK", "IDENTITY", "MATCH", "ABSENT", "COUNT", "DROP", "DELETE", "INSERT", "INSERT_NEW", "UPSERT", "APPEND",
    "PATCH", "SET", "LOG", "ADD",
)  # fmt: skip
#: Ops whose rows begin with a mark.
MARKED: Final = frozenset((IDENTITY, MATCH, ABSENT, COUNT, PATCH))

#: Tables in the order in which they are locked and written.
ORDER: Final = {
    name: at
    for at, name in enumerate(
        dict.fromkeys(
            (
                k.NODE, k.ENTRY, k.OCCUPIED, k.PARENTS, k.CHUNK, k.CHUNKS, *KINDS, k.XATTRS, k.FLOCKS, k.PLOCKS,
                SEQUENCE, k.COUNTER,
            )
        )
    )
}  # fmt: skip


class Step(NamedTuple):
    op: int
    shape: str
    rows: list[Row]
