# SPDX-License-Identifier: Apache-2.0
"""The table `jfs_blob`: one row is one object.

    id        number of the row
    key       all bytes of the key, as a blob: its order is the byte order of keys
    size      length of data
    modified  when it was written; UTC in SQLite, the local time of the writing client elsewhere
    data      the object

Pure; no IO. Source: spec data-path §4.5.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from core.object.api import ObjectInfo

TABLE: Final = "jfs_blob"
#: The unique index on `key`. Other clients look it up by this name.
INDEX: Final = "UQE_jfs_blob_blob"
#: Rows of one page of a listing, as the statements have it.
PAGE: Final = 1000

#: Greater than every key: keys are ASCII.
_END: Final = b"\xff"


def key_range(prefix: str, after: str) -> tuple[bytes, bytes, bytes]:
    """(greater than, at least, less than): which keys belong to a listing.

    The upper border ends a scan of the index where the prefix ends.
    """
    low = prefix.encode()
    return after.encode(), low, (low[:-1] + bytes([low[-1] + 1])) if low else _END


def utc_text(now: float) -> str:
    """As SQLite keeps it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%S")


def utc_seconds(text: str | bytes) -> float:
    """Seconds since the epoch; 0 for what is no time. Other clients may write a "T", fractions or an offset."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def local_time(now: float) -> datetime:
    """As MySQL and PostgreSQL keep it: without a zone, whole seconds."""
    return datetime.fromtimestamp(int(now))


def local_seconds(value: datetime | str) -> float:
    try:
        return (datetime.fromisoformat(value) if isinstance(value, str) else value).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0  # MySQL's 0000-00-00


def info(key: bytes, size: int, mtime: float) -> ObjectInfo:
    return ObjectInfo(bytes(key).decode("utf-8", "surrogateescape"), int(size), mtime)
