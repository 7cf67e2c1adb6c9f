# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL's errors in our words: cause, next step, errno, and whether trying again may help.

Codes: PostgreSQL manual, appendix A. What means "somebody was faster" is in CONFLICTS (format §5.5).
"""

from __future__ import annotations

import errno
import re
from typing import Any, Final

from core.errors import MetaError
from core.meta.records import Entry
from core.meta.stores.sql.rows import unpack_attr

#: unique_violation, exclusion, serialization_failure, deadlock_detected, statement gone after a concurrent change.
CONFLICTS: Final = frozenset(("23505", "40001", "40P01", "40000", "21000"))
_MARKS: Final = re.compile(r"sluice:([-0-9,:/]+)")

_MEANINGS: Final[dict[str, tuple[int, bool, str]]] = {
    "53100": (errno.ENOSPC, True, "its disk is full; free some space there, then try again"),
    "53200": (errno.EIO, True, "it is out of memory; give it more, or lower its settings"),
    "53300": (errno.EIO, True, "it has no connection left; raise max_connections there, or use fewer clients"),
    "55P03": (errno.EIO, True, "another client keeps a row locked; look into pg_stat_activity for a hung transaction"),
    "57014": (errno.EIO, True, "the statement was cancelled (by an administrator, or statement_timeout)"),
    "57P01": (errno.EIO, True, "the server is shutting down; try again when it is back"),
    "57P02": (errno.EIO, True, "the server crashed and recovers; try again when it is back"),
    "57P03": (errno.EIO, True, "the server is starting or stopping; try again in a moment"),
    "25006": (errno.EROFS, False, "it is read-only (a standby?); name the primary, or add target_session_attrs"),
    "42501": (errno.EACCES, False, "the database user lacks a privilege; GRANT it all on the tables and sequences"),
    "42P01": (errno.EIO, False, "a table is missing; format the volume first, or check table_prefix and search_path"),
    "42703": (errno.EIO, False, "a column is missing; the volume's tables were changed by another program"),
    "22003": (errno.EOVERFLOW, False, "a number doesn't fit into its column"),
    "22021": (errno.EINVAL, False, "a name isn't text that the database can keep (UTF-8)"),
    "22P05": (errno.EINVAL, False, "a name isn't text that the database can keep (UTF-8)"),
    "22001": (errno.ERANGE, False, "a name or value is longer than its column"),
    "26000": (errno.EIO, True, "it forgot a prepared statement; connect without a transaction-pooling proxy"),
}  # fmt: skip
_CLASSES: Final[dict[str, tuple[int, bool, str]]] = {
    "08": (errno.EIO, True, "the connection failed"),
    "28": (errno.EACCES, False, "user or password are wrong; check the address, META_PASSWORD and pg_hba.conf"),
    "3D": (errno.ENOENT, False, "the database does not exist; create it with CREATE DATABASE"),
    "53": (errno.EIO, True, "it is short of resources"),
    "57": (errno.EIO, True, "it was interrupted by its operator"),
    "58": (errno.EIO, True, "its disk or file system failed; see its log"),
    "XX": (errno.EIO, False, "internal error, perhaps damaged data; see its log"),
}


class Refused(Exception):
    """The server answered a statement with an error; nothing of its transaction was applied."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    @property
    def marks(self) -> dict[int, Any]:
        """Which checks failed, and what is there now if that is an entry or an inode: (Entry or None, Attr or None).

        They fail by casting a text to a number (`statements.py`): mark[/type:inode][/columns of the node],…
        """
        found = _MARKS.search(str(self)) if self.sqlstate == "22P02" else None
        return dict(map(_mark, found[1].split(","))) if found else {}


def _mark(text: str) -> tuple[int, Any]:
    mark, *parts = text.split("/")
    if not parts:
        return int(mark), None
    entry, node = parts
    pair = [int(n) for n in entry.split(":")] if entry else None
    row = [int(n) for n in node.split(":")] if node else None
    return int(mark), (None if pair is None else Entry(*pair), None if row is None else unpack_attr(tuple(row)))


class Lost(Exception):
    """The connection broke. `sent`: something had left, and may have been executed completely."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


def translate(error: Refused, where: str, doing: str) -> MetaError:
    number, retryable, text = _MEANINGS.get(error.sqlstate) or _CLASSES.get(error.sqlstate[:2]) or (
        errno.EIO, False, "unexpected answer",
    )  # fmt: skip
    result = MetaError(
        f"metadata {where}: {doing} failed: {text} ({error}, SQLSTATE {error.sqlstate})", retryable=retryable,
        errno=number,
    )  # fmt: skip
    result.__cause__ = error
    return result


def unreachable(where: str, reason: str) -> MetaError:
    return MetaError(
        f"metadata {where}: can't reach PostgreSQL: {reason}; check that it runs and that host, port and firewall "
        "are right",
        retryable=True,
    )


def uncertain(where: str, reason: str) -> MetaError:
    return MetaError(
        f"metadata {where}: the connection broke while a change was being committed ({reason}); it may or may not "
        "have been applied; look before repeating it",
        retryable=True,
        uncertain=True,
    )
