# SPDX-License-Identifier: Apache-2.0
"""The files that no volume holds and every mount shows: their numbers, names and modes. Pure.

Source: metadata-semantics §1.1, §12.1 (names, `.jfs` prefix); cli §9 (numbers: 0x7FFFFFFF00000001 up), §10.1 (modes).
"""

from __future__ import annotations

from typing import Final

from core.meta.records import INTERNAL_BASE, TRASH

ACCESS_LOG: Final = INTERNAL_BASE + 1
CONTROL: Final = INTERNAL_BASE + 2
STATS: Final = INTERNAL_BASE + 3
CONFIG: Final = INTERNAL_BASE + 4

#: inode -> (name, permission bits). `.control` is the only one that may be opened for writing.
FILES: Final[dict[int, tuple[bytes, int]]] = {
    ACCESS_LOG: (b".accesslog", 0o400),
    CONTROL: (b".control", 0o666),
    STATS: (b".stats", 0o444),
    CONFIG: (b".config", 0o400),
}
PREFIX: Final = b".jfs"


def is_internal(ino: int) -> bool:
    """Does a file of this number exist only in this process? The trash isn't one: it is a directory of the volume."""
    return INTERNAL_BASE <= ino < TRASH
