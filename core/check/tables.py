# SPDX-License-Identifier: Apache-2.0
"""The ledger of a recount: its tables, and the questions asked of them. SQL only; `recounting.py` fills and asks.

Source: spec metadata-semantics §1.2 (invariants), §2, §6.7, §14.2; metadata-format §1.
"""

from __future__ import annotations

from typing import Final

SCHEMA: Final = """
CREATE TABLE node (ino INTEGER PRIMARY KEY, type INT, nlink INT, parent INT, length INT, space INT);
CREATE TABLE entry (parent INT, name BLOB, type INT, ino INT, PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE TABLE dirstat (ino INTEGER PRIMARY KEY, length INT, space INT, inodes INT);
CREATE TABLE link (ino INT, parent INT, n INT, PRIMARY KEY (ino, parent)) WITHOUT ROWID;
CREATE TABLE held (ino INTEGER PRIMARY KEY);
CREATE TABLE quota (ino INTEGER PRIMARY KEY, space INT, inodes INT);
CREATE TABLE lost (ino INTEGER PRIMARY KEY, last INT, chunks INT);
CREATE TABLE target (ino INTEGER PRIMARY KEY);
CREATE TABLE deleted (ino INTEGER PRIMARY KEY);
CREATE TABLE ref (id INT, size INT, n INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
CREATE TABLE use (id INT, size INT, n INT, ino INT, PRIMARY KEY (id, size)) WITHOUT ROWID;
"""

# Parameters: 1 the root, 2 the trash root; inodes above it are hourly directories of the trash.
_WORDS: Final = {
    "LINKS": "(SELECT COUNT(*) FROM entry e WHERE e.ino = n.ino)",
    "SUBDIRS": "(SELECT COUNT(*) FROM entry e WHERE e.parent = n.ino AND e.type = 2)",
    "STORED_LINKS": "COALESCE((SELECT l.n FROM link l WHERE l.ino = n.ino AND l.parent = e.parent), 0)",
    "ORDINARY": "n.ino NOT IN (?1, ?2) AND n.ino < ?2",
}


def full(text: str) -> str:
    """A query with words in braces put in full."""
    for word, full in _WORDS.items():
        text = text.replace("{" + word + "}", full)
    return text


#: kind, and a query whose rows are (key…, stored, expected).
QUERIES: Final[list[tuple[str, str]]] = [
    # One finding for a directory of which only the entries are left; if something names it, that is "no-inode".
    ("no-directory", """SELECT e.parent, COUNT(*) || ' entries', 'a directory' FROM entry e
        WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = e.parent)
        AND NOT EXISTS (SELECT 1 FROM entry u WHERE u.ino = e.parent) GROUP BY e.parent"""),
    ("no-inode", """SELECT e.parent, e.name, e.ino, e.type, NULL, 'an inode' FROM entry e
        WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = e.ino)"""),
    ("type", """SELECT e.parent, e.name, e.ino, e.type, n.type FROM entry e JOIN node n ON n.ino = e.ino
        WHERE e.type != n.type"""),
    ("no-entry", """SELECT n.ino, n.nlink, 'an entry' FROM node n WHERE {ORDINARY} AND {LINKS} = 0
        AND NOT EXISTS (SELECT 1 FROM held h WHERE h.ino = n.ino)"""),
    ("twice", "SELECT n.ino, {LINKS} AS links, 1 FROM node n WHERE {ORDINARY} AND n.type = 2 AND links > 1"),
    # A directory in the trash was empty when it went there and keeps its old count.
    ("nlink", """SELECT n.ino, n.nlink, 2 + {SUBDIRS} AS want FROM node n
        WHERE {ORDINARY} AND n.type = 2 AND n.parent <= ?2 AND n.nlink != want"""),
    ("nlink", """SELECT n.ino, n.nlink, {LINKS} AS want FROM node n
        WHERE {ORDINARY} AND n.type != 2 AND n.nlink > 0 AND want > 0 AND n.nlink != want"""),
    ("parent", """SELECT n.ino, n.parent, e.parent FROM node n JOIN entry e ON e.ino = n.ino
        WHERE {ORDINARY} AND n.parent != 0 AND n.nlink > 0 AND {LINKS} = 1 AND e.parent != n.parent"""),
    ("parent", """SELECT n.ino, n.parent, 0 FROM node n
        WHERE {ORDINARY} AND n.type != 2 AND n.parent != 0 AND {LINKS} > 1"""),
]  # fmt: skip

LINK_COUNTS: Final = """
SELECT n.ino, e.parent, COUNT(*) AS want, {STORED_LINKS} AS have FROM node n JOIN entry e ON e.ino = n.ino
WHERE {ORDINARY} AND n.type != 2 AND n.parent = 0
GROUP BY n.ino, e.parent HAVING want != have
UNION ALL SELECT l.ino, l.parent, 0, l.n FROM link l
WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.ino = l.ino AND e.parent = l.parent)
"""

STATISTICS: Final = """
SELECT n.ino, s.length, s.space, s.inodes, COALESCE(SUM(CASE WHEN c.type = 1 THEN c.length ELSE 0 END), 0) AS lengths,
  COALESCE(SUM(CASE WHEN e.ino IS NOT NULL THEN COALESCE(c.space, 4096) END), 0) AS spaces, COUNT(e.ino) AS children
FROM node n LEFT JOIN dirstat s ON s.ino = n.ino LEFT JOIN entry e ON e.parent = n.ino LEFT JOIN node c ON c.ino = e.ino
WHERE n.type = 2 AND n.ino != ?2 AND n.parent <= ?2 AND (n.ino != ?1 OR s.ino IS NOT NULL)
GROUP BY n.ino HAVING s.ino IS NULL OR s.length != lengths OR s.space != spaces OR s.inodes != children
"""

REFERENCES: Final = """
SELECT u.id, u.size, r.n, u.n FROM use u LEFT JOIN ref r ON r.id = u.id AND r.size = u.size
WHERE COALESCE(r.n, 1) != u.n
UNION ALL SELECT r.id, r.size, r.n, 0 FROM ref r
WHERE r.n > 0 AND NOT EXISTS (SELECT 1 FROM use u WHERE u.id = r.id AND u.size = r.size)
"""

SYMLINKS: Final = """
SELECT n.ino, NULL, 'a target' FROM node n WHERE n.type = 3 AND NOT EXISTS (SELECT 1 FROM target t WHERE t.ino = n.ino)
"""

#: Chunks of inodes that don't exist; the order of reading (chunks, then what is being deleted) makes them certain.
LOST_CHUNKS: Final = """
SELECT l.ino, l.last, l.chunks || ' chunks', 'none' FROM lost l
WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = l.ino) AND NOT EXISTS (SELECT 1 FROM deleted d WHERE d.ino = l.ino)
AND NOT EXISTS (SELECT 1 FROM held h WHERE h.ino = l.ino)
"""

#: What lies directly in each directory, whatever its own record says.
SUMS: Final = """
CREATE TABLE sums (parent INTEGER PRIMARY KEY, space INT, inodes INT);
INSERT INTO sums SELECT e.parent, SUM(COALESCE(c.space, 4096)), COUNT(*) FROM entry e LEFT JOIN node c ON c.ino = e.ino
GROUP BY e.parent;
"""

#: Quotas of directories: what is stored, what lies in the whole tree. UNION, not UNION ALL: a cycle must end.
QUOTAS: Final = """
SELECT q.ino, q.space, q.inodes, t.space, t.inodes FROM quota q, (
  WITH RECURSIVE below(ino) AS (
    SELECT ?1 UNION SELECT e.ino FROM below b JOIN entry e ON e.parent = b.ino WHERE e.type = 2
  ) SELECT COALESCE(SUM(s.space), 0) AS space, COALESCE(SUM(s.inodes), 0) AS inodes
  FROM below b JOIN sums s ON s.parent = b.ino
) t WHERE q.ino = ?1 AND (q.space != t.space OR q.inodes != t.inodes)
"""

LOST_QUOTAS: Final = """
SELECT q.ino, q.inodes || ' inodes used', 'no quota' FROM quota q
WHERE q.ino != ?1 AND NOT EXISTS (SELECT 1 FROM node n WHERE n.ino = q.ino AND n.type = 2)
"""
