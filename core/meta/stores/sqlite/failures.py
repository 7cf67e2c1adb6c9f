# SPDX-License-Identifier: Apache-2.0
"""SQLite's errors in our words: cause, next step, errno, and whether trying again may help.

Codes: https://www.sqlite.org/rescode.html (primary code = low byte of the extended one).
"""

from __future__ import annotations

import errno
import sqlite3
from typing import Final, NamedTuple

from core.errors import MetaError


class _Meaning(NamedTuple):
    errno: int
    retryable: bool
    text: str


_FULL: Final = 13
BUSY: Final = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED

_MEANINGS: Final = {
    5: _Meaning(errno.EIO, True, "another process keeps it locked; look for a hung writer, or raise busy_timeout_ms"),
    6: _Meaning(errno.EIO, True, "another connection keeps a table locked; try again"),
    7: _Meaning(errno.EIO, True, "out of memory; give the process more, or lower its caches"),
    8: _Meaning(errno.EROFS, False, "it can't be written; check the file's permissions and the mount it lives on"),
    10: _Meaning(errno.EIO, True, "the disk or file system below failed; see the kernel log"),
    11: _Meaning(errno.EIO, False, "the file is damaged; stop all clients, run `sqlite3 FILE '.recover'`, or restore"),
    14: _Meaning(errno.EIO, False, "it can't be opened; check the path and the permissions of the file and its folder"),
    _FULL: _Meaning(errno.ENOSPC, True, "its file system is full; free some space, then try again"),
    18: _Meaning(errno.EIO, False, "a value is too big for SQLite"),
    26: _Meaning(errno.EIO, False, "the file is no SQLite database; name the right one, or restore it from a backup"),
}


def primary_code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF


def is_busy(error: BaseException) -> bool:
    return primary_code(error) in BUSY


def translate(error: BaseException, path: str, doing: str) -> MetaError:
    """A MetaError with the cause attached. Keeps MetaErrors as they are."""
    if isinstance(error, MetaError):
        return error
    if isinstance(error, OverflowError):
        result = MetaError(f"metadata {path}: {doing}: a number exceeds 64 bits", errno=errno.EOVERFLOW)
    else:
        meaning = _MEANINGS.get(primary_code(error))
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        if meaning is None:
            result = MetaError(f"metadata {path}: {doing} failed: {error} ({name})")
        else:
            text = f"metadata {path}: {doing} failed: {meaning.text} ({error}, {name})"
            result = MetaError(text, retryable=meaning.retryable, errno=meaning.errno)
    result.__cause__ = error
    return result


TRANSLATED: Final = (sqlite3.Error, OverflowError)
