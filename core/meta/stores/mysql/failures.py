# SPDX-License-Identifier: Apache-2.0
"""Errors of MySQL and MariaDB in our words: cause, next step, and whether trying again may help.

Numbers below 2000 and above 3000 come from the server (MySQL reference manual, "Server Error Message Reference";
MariaDB knowledge base, "Error codes"), those between from the client library: the connection failed.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from asyncmy import errors

from core.errors import Conflict, MetaError

#: Somebody else was faster: deadlock, a name that exists by now, a row that changed (MariaDB's snapshot isolation), a
#: write conflict or a lost lock of TiDB. To be rolled back and run again.
RACES: Final = frozenset((1020, 1062, 1213, 1614, 3572, 8002, 8022, 8028, 9007))
#: Somebody keeps a lock for longer than anybody should.
LOCK_WAIT: Final = 1205
DUPLICATE: Final = 1062
#: Our own alarm: a check of a commit did not hold (`guard`), by an overflow on purpose.
GUARD: Final = 1690
NO_DATABASE: Final = 1049
#: READ COMMITTED with a binary log of statements: the server refuses to write.
NEEDS_REPEATABLE_READ: Final = 1665
_GONE: Final = 2006  # before the statement was sent completely
TOO_LARGE: Final = 1153
#: A server that goes away says so as an answer: nothing was done, and nothing can be done on this connection.
LEAVING: Final = frozenset((1053, 1077, 1079, 1927, 1928, 3168, 4031))


class _Meaning(NamedTuple):
    errno: int
    retryable: bool
    text: str


_MEANINGS: Final = {
    1040: _Meaning(errno.EIO, True, "the server has no connection to spare; raise its max_connections"),
    1044: _Meaning(errno.EACCES, False, "this user may not use the database; GRANT ALL on it to the user"),
    1045: _Meaning(errno.EACCES, False, "wrong user or password; check the address, or META_PASSWORD"),
    1698: _Meaning(errno.EACCES, False, "wrong user or password; check the address, or META_PASSWORD"),
    NO_DATABASE: _Meaning(errno.EIO, False, "the database doesn't exist; create it with CREATE DATABASE"),
    1142: _Meaning(errno.EACCES, False, "this user lacks a right on the tables; GRANT ALL on the database to the user"),
    1114: _Meaning(errno.ENOSPC, True, "the table space is full; free some space on the server"),
    1021: _Meaning(errno.ENOSPC, True, "the disk of the server is full; free some space"),
    TOO_LARGE: _Meaning(errno.EIO, False, "the change exceeds the server's max_allowed_packet; raise it"),
    1146: _Meaning(errno.EIO, False, "a table is missing; somebody removed it: restore the database from a backup"),
    LOCK_WAIT: _Meaning(
        errno.EIO, True, "another client keeps a record locked; look for a hung one with SHOW PROCESSLIST"
    ),
    1226: _Meaning(errno.EIO, True, "the user's limit of connections or queries is reached; raise it"),
    1264: _Meaning(errno.EOVERFLOW, False, "a number doesn't fit its column; ids of users and groups go to 2147483647"),
    1290: _Meaning(errno.EROFS, True, "the server is read-only, perhaps a replica; name the primary"),
    1836: _Meaning(errno.EROFS, True, "the server is read-only, perhaps a replica; name the primary"),
    1792: _Meaning(errno.EROFS, True, "the server allows reading only, perhaps a replica; name the primary"),
    1366: _Meaning(errno.EINVAL, False, "a text is no valid UTF-8; names of extended attributes must be"),
    1406: _Meaning(errno.EFBIG, False, "a value is longer than its column allows; compact the file, or shorten it"),
    1317: _Meaning(errno.EIO, True, "somebody interrupted the query with KILL"),
    2026: _Meaning(errno.EIO, False, "TLS could not be set up; check the tls options and the certificate"),
}


def code_of(error: BaseException) -> int:
    """The error number, 0 if there is none."""
    number = error.args[0] if error.args else 0
    return number if isinstance(number, int) else 0


def is_lost(error: BaseException) -> bool:
    """Can this connection answer no more?"""
    if isinstance(error, errors.MySQLError):
        number = code_of(error)
        return number == 0 or 2000 <= number < 3000 or number in LEAVING or isinstance(error, errors.InterfaceError)
    return not isinstance(error, MetaError | Conflict)


def not_sent(error: BaseException) -> bool:
    """Is it certain that the server has not got the statement? Every other lost connection leaves a doubt."""
    return code_of(error) == _GONE or (isinstance(error, errors.InterfaceError) and error.args[:1] == (0,))


def is_race(error: BaseException) -> bool:
    return isinstance(error, errors.MySQLError) and code_of(error) in RACES


def translate(error: BaseException, where: str, doing: str) -> MetaError:
    """A MetaError with the cause attached. Keeps MetaErrors as they are."""
    if isinstance(error, MetaError):
        return error
    number = code_of(error)
    said = error.args[1] if isinstance(error, errors.MySQLError) and len(error.args) > 1 else error
    meaning = _MEANINGS.get(number)
    if meaning is not None:
        text = f"metadata {where}: {doing} failed: {meaning.text} (error {number}: {said})"
        result = MetaError(text, retryable=meaning.retryable, errno=meaning.errno)
    elif is_lost(error):
        what = said or type(error).__name__
        result = MetaError(f"metadata {where}: {doing} failed: the server can't be reached ({what})", retryable=True)
    else:
        retryable = number in RACES
        result = MetaError(f"metadata {where}: {doing} failed: {said} (error {number})", retryable=retryable)
    result.__cause__ = error
    return result
