# SPDX-License-Identifier: Apache-2.0
"""Walking the folders of a disk cache: which blocks are there, and what earlier processes left lying about.

Blocking IO, for threads. Source: data-path §5.6 (scan), §6 (names of staged files that count), §5.1 (layout).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from core.chunk.cachefile import STALE_TEMP_S
from core.chunk.naming import BlockId, block_key, parse_block_key

RAW = "raw"
STAGING = "rawstaging"
#: Staged files that can't be uploaded because their bytes aren't what was written.
DAMAGED = "damaged"


class Staged(NamedTuple):
    """A file that waits for its upload."""

    block: BlockId
    path: str
    mtime: float


def iter_files(folder: str, now: float, stopped: Callable[[], bool]) -> Generator[os.DirEntry[str], None, bool]:
    """All files below; temporary files and empty folders that are older than a minute are removed on the way.
    Returns True if nothing is left in the folder. What vanishes meanwhile is fine."""
    empty = True
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    with entries:
        for item in entries:
            if stopped():
                return False
            try:
                if item.is_dir(follow_symlinks=False):
                    mtime = item.stat(follow_symlinks=False).st_mtime
                    if (yield from iter_files(item.path, now, stopped)) and now - mtime > STALE_TEMP_S:
                        os.rmdir(item.path)
                    else:
                        empty = False
                elif item.name.endswith(".tmp"):
                    if now - item.stat(follow_symlinks=False).st_mtime > STALE_TEMP_S:
                        os.unlink(item.path)
                    else:
                        empty = False
                else:
                    empty = False
                    yield item
            except (FileNotFoundError, NotADirectoryError):
                pass  # evicted meanwhile
            except OSError as e:
                if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
    return empty


def block_of(path: str, root: str, hash_prefix: bool) -> BlockId | None:
    """The block that a file below `root` is, or None: its name must be exactly the one that the block has."""
    key = path[len(root) + 1 :]
    block = parse_block_key(key)
    return block if block is not None and block_key(*block, hash_prefix) == key else None


def iter_staged(
    folder: str, hash_prefix: bool, *, now: float = 0, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Staged]:
    """Blocks under `<folder>/rawstaging` (folder: `<cache dir>/<volume UUID>`), of whichever client staged them. Other
    names are left alone. With `now` leftovers are removed on the way."""
    root = os.path.join(folder, STAGING)
    for item in iter_files(root, now, stopped):
        block = block_of(item.path, root, hash_prefix)
        if block is not None:
            yield Staged(block, item.path, item.stat(follow_symlinks=False).st_mtime)
