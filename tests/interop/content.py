# SPDX-License-Identifier: Apache-2.0
"""Content for interop tests: bytes that are known by their seed, volumes filled by path, trees compared.

A tree is a dict from path (bytes, absolute in the volume) to the hash of its file.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import stat
from collections.abc import Iterable
from pathlib import Path

from core.meta.publish import ImplicitDirs
from core.meta.records import FILE
from core.vfs.filesystem import FileSystem

Tree = dict[bytes, str]
#: Files that a JuiceFS mount shows in its root although nobody wrote them; reading the access log never ends.
_CONTROL_FILES = (b".accesslog", b".control", b".stats", b".config", b".trash")
PARENTS = ImplicitDirs()


def some_bytes(rng: random.Random, length: int) -> bytes:
    """Random, with stretches that compress."""
    if length < 64:
        return rng.randbytes(length)
    half = length // 2
    return rng.randbytes(half) + rng.randbytes(16) * ((length - half) // 16) + bytes((length - half) % 16)


def digest(data: bytes | bytearray | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


async def store(fs: FileSystem, path: bytes, data: bytes) -> None:
    await fs.publish(path, await fs.content_of(data), parents=PARENTS)


async def store_all(fs: FileSystem, files: Iterable[tuple[bytes, bytes]], *, together: int = 48) -> Tree:
    """Many files at a time, so that small ones share objects."""
    tree: Tree = {}
    gate = asyncio.Semaphore(together)

    async def one(path: bytes, data: bytes) -> None:
        async with gate:
            await store(fs, path, data)

    async with asyncio.TaskGroup() as group:
        for path, data in files:
            tree[path] = digest(data)
            group.create_task(one(path, data))
    return tree


async def tree_of(fs: FileSystem, path: bytes = b"/") -> Tree:
    """Every regular file below a directory, read through SluiceFS."""
    found = await fs.lookup(path)
    tree: Tree = {}
    base = path.rstrip(b"/")
    after = b""
    while page := await fs.list_dir(found.ino, after):
        for entry in page:
            child = base + b"/" + entry.name
            if entry.type == FILE:
                file = await fs.lookup(child, chunk=True)
                tree[child] = digest(await fs.read(file, 0, file.attr.length))
            elif entry.attr is not None and entry.attr.is_dir:
                tree |= await tree_of(fs, child)
        after = page[-1].name
    return tree


def mounted_tree(point: Path) -> Tree:
    """Every regular file below a mount point, read through the kernel; their lengths agree with `stat`."""
    tree: Tree = {}
    root = os.fsencode(point)
    for base, _, names in os.walk(root):
        for name in names:
            path = os.path.join(base, name)
            if (base == root and name in _CONTROL_FILES) or not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            try:
                with open(path, "rb") as f:
                    data = f.read()
            except OSError as e:
                raise AssertionError(f"{path!r}: {e}") from e
            assert os.stat(path).st_size == len(data), path
            tree[path[len(root) :]] = digest(data)
    return tree


def same(got: Tree, wanted: Tree) -> None:
    """Equal, with the first differences in the message instead of thousands of lines."""
    missing, extra = sorted(wanted.keys() - got.keys()), sorted(got.keys() - wanted.keys())
    changed = sorted(p for p in got.keys() & wanted.keys() if got[p] != wanted[p])
    assert not (missing or extra or changed), f"missing {missing[:5]}, extra {extra[:5]}, changed {changed[:5]}"
