# SPDX-License-Identifier: Apache-2.0
"""What a dump doesn't say and a volume needs: references, usage of quotas, counters (spec semantics §15.2, §15.3).

Of a JSON dump link counts, statistics and usage of subtrees fell out of the first pass; here they are put together in
the scratch tables, so that both forms of dump are then loaded by the same code.
"""

from __future__ import annotations

from core.dump.reading import Reading
from core.meta.records import ROOT


def rebuild(reading: Reading) -> None:
    """Fill `ref`, `quota` (usage), `counter`; throw away statistics that the volume doesn't keep."""
    db, fmt = reading.scratch.ledger, reading.fmt
    db.execute("INSERT INTO ref SELECT id, size, n FROM use")
    if fmt is not None and not fmt.dir_stats:
        db.execute("DELETE FROM dirstat")
    _directory_quotas(reading)
    _owner_quotas(reading)
    _counters(reading, "nextInodes")


def complete(reading: Reading) -> None:
    """The same for a binary backup, which has all records: references that it leaves out, and counters.

    A count that is lower than the uses in the file would delete data that is needed, so it is raised; one that is
    higher may be right (a compaction's old slices are counted until the trash releases them) and stays.
    """
    db = reading.scratch.ledger
    low = "FROM use u LEFT JOIN ref r ON r.id = u.id AND r.size = u.size WHERE COALESCE(r.n, 1) < u.n"
    for ident, size, have, want in db.execute(f"SELECT u.id, u.size, r.n, u.n {low} LIMIT 100"):
        reading.problems.note(
            "", "a slice that is counted less often than it is used; the count is raised",
            f"{ident} of {size} bytes: {1 if have is None else have}, used {want} times",
        )  # fmt: skip
    db.execute(
        "INSERT INTO ref SELECT id, size, n FROM use WHERE TRUE ON CONFLICT DO UPDATE SET n = MAX(n, excluded.n)"
    )
    for kind, owner, new, space in reading.given if reading.fmt and reading.fmt.user_group_quota else ():
        db.execute(
            "UPDATE quota SET used_space = used_space - ?, used_inodes = used_inodes - 1 WHERE kind = ? AND id = ?",
            space, kind, owner,
        )  # fmt: skip
        db.execute(
            "INSERT INTO quota VALUES (?, ?, -1, -1, ?, 1) ON CONFLICT DO UPDATE"
            " SET used_space = used_space + excluded.used_space, used_inodes = used_inodes + 1",
            kind, new, space,
        )  # fmt: skip
    used = (reading.used_space, reading.used_inodes)
    stated = (reading.stated.get("usedSpace"), reading.stated.get("totalInodes"))
    if stated != used:
        reading.problems.note("counters", "usage differs from the inodes in the file; the recount counts",
                              f"{stated[0]} bytes and {stated[1]} inodes, counted {used[0]} and {used[1]}")  # fmt: skip
    _counters(reading, "nextInode")


def _counters(reading: Reading, next_inode: str) -> None:
    db = reading.scratch.ledger
    rules = db.one("SELECT COALESCE(MAX(id), 0) FROM acl")
    counters = {
        "usedSpace": reading.used_space,
        "totalInodes": reading.used_inodes,
        "nextInode": reading.at_least(next_inode, reading.max_inode + 1),
        "nextChunk": reading.at_least("nextChunk", reading.max_slice + 1),
        # Dumps hold the last session and trash directory; stores are told the next one.
        "nextSession": reading.at_least("nextSession", reading.max_session) + 1,
        "nextTrash": reading.at_least("nextTrash", reading.max_trash) + 1,
        "aclMaxId": rules + 1,
    }
    db.add("INSERT INTO counter VALUES (?, ?)", counters.items())


def _directory_quotas(reading: Reading) -> None:
    db = reading.scratch.ledger
    if reading.top != ROOT:
        db.execute("UPDATE OR IGNORE quota SET id = ? WHERE kind = 0 AND id = ?", ROOT, reading.top)
    gone = "FROM quota WHERE kind = 0 AND id NOT IN (SELECT ino FROM below)"
    for (ino,) in db.execute(f"SELECT id {gone}"):
        reading.problems.note("Quotas", "a quota of a directory that is not in the file; it is left out", ino)
    db.execute(f"DELETE {gone}")
    db.execute(
        "UPDATE quota SET used_space = (SELECT space FROM below WHERE ino = id),"
        " used_inodes = (SELECT inodes FROM below WHERE ino = id) WHERE kind = 0"
    )


def _owner_quotas(reading: Reading) -> None:
    """Usage of every owner is kept, with or without a limit, once such quotas are on."""
    if reading.fmt is None or not reading.fmt.user_group_quota:
        return
    for kind, owners in ((1, reading.users), (2, reading.groups)):
        reading.scratch.ledger.add(
            "INSERT INTO quota VALUES (?, ?, -1, -1, ?, ?) ON CONFLICT DO UPDATE"
            " SET used_space = excluded.used_space, used_inodes = excluded.used_inodes",
            ((kind, ident, space, inodes) for ident, (space, inodes) in owners.items()),
        )
