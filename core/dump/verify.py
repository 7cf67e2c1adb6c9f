# SPDX-License-Identifier: Apache-2.0
"""Checks over a whole file, once all of it is in the scratch tables; nothing has been written to a database yet.

Errors: what would make a volume that can't be used or that would lose data. Notes: what a live or damaged source volume
may have had; it is loaded as it is, and `sluice fsck` names and repairs it.
Source: spec metadata-format §1, §3; metadata-semantics §15.
"""

# ruff: noqa: S608 - statements are put together from constants of this module only

from __future__ import annotations

from typing import Final

from core.dump.reading import Reading
from core.meta.records import DIRECTORY, ROOT, TRASH

_SHOWN: Final = 100


def verify(reading: Reading) -> None:
    """Both forms of dump."""
    problems, db = reading.problems, reading.scratch.ledger
    if reading.fmt is None and not problems.error_count:
        problems.error("Setting", "the file has no setting of a volume")
    root = db.one("SELECT type FROM node WHERE ino = ?", ROOT)
    if root != DIRECTORY and not problems.error_count:
        problems.error("/", "the file has no root directory")
    for ident, sizes in db.execute(
        f"SELECT id, GROUP_CONCAT(size, ', ') FROM use GROUP BY id HAVING COUNT(*) > 1 LIMIT {_SHOWN}"
    ):
        problems.error("", "a slice that is used with different sizes", f"{ident}: {sizes}")
    # Deleting the data of a file that is there would lose it; only a file that changed during the dump is in both.
    both = "FROM delfile WHERE ino IN (SELECT ino FROM node)"
    for (ino,) in db.execute(f"SELECT ino {both} LIMIT {_SHOWN}"):
        problems.note(reading.scratch.path_of(ino), "is also among the deleted files; it is kept")
    db.execute(f"DELETE {both}")


def verify_records(reading: Reading) -> None:
    """A binary backup: records come by themselves, so do they belong together?"""
    problems, db, path = reading.problems, reading.scratch.ledger, reading.scratch.path_of
    db.execute("CREATE INDEX IF NOT EXISTS by_inode ON entry (ino)")
    for parent, name, kind, other in db.execute(
        "SELECT e.parent, e.name, e.type, n.type FROM entry e JOIN node n ON n.ino = e.ino WHERE e.type != n.type"
        f" LIMIT {_SHOWN}"
    ):
        problems.error(_entry(path(parent), name), f"the entry says type {kind}, its inode {other}")
    # A file that was created or removed while a live volume was backed up.
    gone = f"FROM entry WHERE type != {DIRECTORY} AND ino NOT IN (SELECT ino FROM node)"
    for parent, name in db.execute(f"SELECT parent, name {gone} LIMIT {_SHOWN}"):
        problems.note(_entry(path(parent), name), "an entry without an inode; it is left out")
    db.execute(f"DELETE {gone}")
    notes = (
        (f"SELECT e.ino FROM entry e LEFT JOIN node n ON n.ino = e.ino WHERE n.ino IS NULL AND e.type = {DIRECTORY}",
         "a directory without an inode; `sluice fsck --repair` makes one"),
        ("SELECT DISTINCT e.parent FROM entry e LEFT JOIN node n ON n.ino = e.parent WHERE n.ino IS NULL",
         "entries of a directory that has no inode"),
        (f"SELECT n.ino FROM node n WHERE n.ino NOT IN ({ROOT}, {TRASH})"
         " AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.ino = n.ino) AND n.ino NOT IN (SELECT ino FROM sustained)",
         "an inode that is in no directory; `sluice fsck --repair` puts it into /lost+found"),
        (f"SELECT ino FROM entry WHERE type = {DIRECTORY} GROUP BY ino HAVING COUNT(*) > 1",
         "a directory with more than one entry"),
        ("SELECT DISTINCT ino FROM chunk WHERE ino NOT IN (SELECT ino FROM node) AND ino NOT IN"
         " (SELECT ino FROM delfile)", "chunks of a file that has no inode"),
        ("SELECT ino FROM node n WHERE type = 3 AND NOT EXISTS (SELECT 1 FROM symlink s WHERE s.ino = n.ino)",
         "a symbolic link without a target"),
    )  # fmt: skip
    for query, kind in notes:
        for (ino,) in db.execute(f"{query} LIMIT {_SHOWN}"):
            problems.note(path(ino), kind)


def _entry(folder: str, name: bytes) -> str:
    return f"{folder.rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
