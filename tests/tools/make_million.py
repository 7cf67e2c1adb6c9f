# SPDX-License-Identifier: Apache-2.0
"""Make a large SQLite volume in seconds: N files in M directories, each with one slice, written as rows with plain SQL.

For measuring what walks whole volumes (check, gc, dump, quota scans). Objects are not made. Layout of the tables:
metadata-format §5.3.

    python -m tests.tools.make_million /tmp/million.db --files 1000000 --dirs 1000 [--check]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from core.meta.format import new_format
from core.meta.meta import init_format
from core.meta.records import Slice, encode_slices
from core.volume import open_record_store

NOW_NS = 1_800_000_000_000_000_000
_US = NOW_NS // 1000
#: Directories are numbered from here, files after them.
FIRST = 2
LENGTH = 5000
SPACE = 8192


def make(path: str, files: int, dirs: int) -> None:
    """A volume whose counters, links, statistics and references are right."""

    async def formatted() -> None:
        store = open_record_store(f"sqlite3://{path}")
        await store.open()
        await init_format(store, new_format("million", bucket="/nowhere/"), NOW_NS)
        await store.close()

    asyncio.run(formatted())
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA synchronous=OFF; BEGIN")
    per_dir = [files // dirs + (number < files % dirs) for number in range(dirs)]
    node = "INSERT INTO jfs_node (inode, type, flags, mode, uid, gid, atime, mtime, ctime, nlink, length, rdev, parent)"
    values = f" VALUES (?, ?, 0, ?, ?, ?, {_US}, {_US}, {_US}, ?, ?, 0, ?)"
    db.executemany(node + values, ((FIRST + n, 2, 0o755, 0, 0, 2, 4096, 1) for n in range(dirs)))
    db.executemany(
        "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (1, ?, ?, 2)",
        ((b"dir%06d" % n, FIRST + n) for n in range(dirs)),
    )
    db.executemany(
        "INSERT INTO jfs_dir_stats (inode, data_length, used_space, used_inodes) VALUES (?, ?, ?, ?)",
        ((FIRST + n, LENGTH * count, SPACE * count, count) for n, count in enumerate(per_dir)),
    )

    def numbered() -> Iterator[tuple[int, int, int]]:
        ino = FIRST + dirs
        for number, count in enumerate(per_dir):
            for n in range(count):
                yield ino, FIRST + number, n
                ino += 1

    db.executemany(
        node + values, ((ino, 1, 0o644, ino % 100, ino % 10, 1, LENGTH, parent) for ino, parent, _ in numbered())
    )
    db.executemany(
        "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (?, ?, ?, 1)",
        ((parent, b"file%08d" % n, ino) for ino, parent, n in numbered()),
    )
    db.executemany(
        "INSERT INTO jfs_chunk (inode, indx, slices) VALUES (?, 0, ?)",
        ((ino, encode_slices([Slice(0, ino, LENGTH, 0, LENGTH)])) for ino, _, _ in numbered()),
    )
    db.executemany(
        f"INSERT INTO jfs_chunk_ref (chunkid, size, refs) VALUES (?, {LENGTH}, 1)", ((ino,) for ino, _, _ in numbered())
    )
    last = FIRST + dirs + files
    db.execute("UPDATE jfs_node SET nlink = 2 + ? WHERE inode = 1", (dirs,))
    db.execute("UPDATE jfs_dir_stats SET used_space = ?, used_inodes = ? WHERE inode = 1", (dirs * 4096, dirs))
    for name, value in (
        ("nextInode", last), ("nextChunk", last), ("usedSpace", dirs * 4096 + files * SPACE),
        ("totalInodes", dirs + files),
    ):  # fmt: skip
        db.execute("INSERT OR REPLACE INTO jfs_counter (name, value) VALUES (?, ?)", (name, value))
    db.execute("COMMIT")
    db.close()


async def measured_check(path: str) -> int:
    """Run the check on it; how many things are wrong."""
    from core.check import check
    from core.meta.meta import Meta, require_format

    store = open_record_store(f"sqlite3://{path}")
    await store.open()
    meta = Meta(store, await require_format(store, path), read_only=True)
    await meta.reload_usage()
    found = await check(meta)
    for finding in found[:20]:
        print(finding)
    await store.close()
    return len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("path")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--dirs", type=int, default=1000)
    parser.add_argument("--check", action="store_true", help="check it, and tell time and peak memory")
    options = parser.parse_args()
    start = time.monotonic()
    if not Path(options.path).exists():
        make(options.path, options.files, options.dirs)
        print(f"made {options.files} files in {options.dirs} directories: {time.monotonic() - start:.1f} s")
    if options.check:
        start = time.monotonic()
        wrong = asyncio.run(measured_check(options.path))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"check: {time.monotonic() - start:.1f} s, peak {peak:.0f} MiB, {wrong} findings")
        return 1 if wrong else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
