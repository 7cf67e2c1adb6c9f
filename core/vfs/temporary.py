# SPDX-License-Identifier: Apache-2.0
"""The temporary area that all doors share: names in it, and the cleaner of what interrupted requests left there.

Files lie at `/.sys/[BUCKET/]tmp/HEX3/UUID`, multipart uploads at `/.sys/[BUCKET/]uploads/HEX3/UUID/N`. Only names of
that form are ever touched (UUIDs, in 3-character directories or, as before JuiceFS 1.2, beside them). The age of a
directory is that of its youngest member. One client cleans at a time; a lost race is harmless.
Source: spec s3 §4.4; spec webdav §1.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.publish import ImplicitDirs
from core.meta.records import DIRECTORY
from core.meta.store import DirEntry
from core.vfs.api import ROOT_CALLER, Caller
from core.vfs.filesystem import FileSystem

log = logging.getLogger("sluice.temporary")

#: What nobody has written to for so long belongs to nobody: JuiceFS's gateway waits as long.
STALE_S: Final = 7 * 86400
INTERVAL_S: Final = 86400

_NS: Final = 1_000_000_000
_PAGE: Final = 1000
_ID: Final = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PARENTS: Final = ImplicitDirs(mode=0o700)
_GONE: Final = (errno.ENOENT, errno.ENOTDIR)


class Temporary(NamedTuple):
    """folder: inode of the directory, made if it was missing. name: free in it. path: of both."""

    folder: int
    name: bytes
    path: bytes


async def new_temporary(fs: FileSystem) -> Temporary:
    """A new name that no bucket owns (1 trip once its folder is there)."""
    name = str(uuid.uuid4()).encode()
    folder = b"/.sys/tmp/" + name[:3]
    try:
        found = await fs.lookup(folder, follow=False)
    except FsError as e:
        if e.errno not in _GONE:
            raise
        try:
            found = await fs.mkdir(folder, mode=0o700, parents=_PARENTS)
        except FsError as again:
            if again.errno != errno.EEXIST:
                raise
            found = await fs.lookup(folder, follow=False)
    return Temporary(found.ino, name, folder + b"/" + name)


class Cleaner:
    """Removes leftovers. clock: nanoseconds since the epoch."""

    def __init__(
        self, fs: FileSystem, caller: Caller = ROOT_CALLER, *, stale_s: int = STALE_S, interval_s: int = INTERVAL_S,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._fs = fs
        self._caller = caller
        self._stale_s = stale_s
        self._interval_s = interval_s
        self._clock = clock

    async def run(self) -> None:
        """Clean now and then, until cancelled. Failures are logged; the next round tries again."""
        while True:
            try:
                await self.clean()
            except OSError as e:
                log.warning("cleaning of temporary files failed, next try in %d s: %s", self._interval_s, e)
            await asyncio.sleep(self._interval_s)

    async def clean(self) -> int:
        """Remove everything that is old enough; returns how many temporary files and uploads went."""
        before = self._clock() - self._stale_s * _NS
        removed = 0
        for top in await self._tops():
            removed += await self._clean_folder(top + b"/tmp", before)
            removed += await self._clean_folder(top + b"/uploads", before)
        if removed:
            log.info("removed %d stale temporary files and uploads", removed)
        return removed

    async def _tops(self) -> list[bytes]:
        """Folders that hold `tmp` and `uploads`: one per bucket, and the top itself."""
        found = [b"/.sys"]
        ino = await self._directory(b"/.sys")
        if ino is not None:
            entries = await list_all(self._fs, ino, attrs=False)
            found += [b"/.sys/" + e.name for e in entries if e.type == DIRECTORY and e.name not in (b"tmp", b"uploads")]
        return found

    async def _clean_folder(self, path: bytes, before: int) -> int:
        removed = 0
        async for where, entry in self._ours(path):
            if _touched_ns(entry) >= before:
                continue
            if entry.type == DIRECTORY and any(_touched_ns(e) >= before for e in await list_all(self._fs, entry.ino)):
                continue
            try:
                await self._fs.remove_tree(where, self._caller, skip_trash=True)
            except FsError as e:
                if e.errno not in (*_GONE, errno.ENOTEMPTY):
                    raise
            removed += 1
        return removed

    async def _ours(self, path: bytes) -> AsyncGenerator[tuple[bytes, DirEntry], None]:
        """Entries with names that a door makes."""
        ino = await self._directory(path)
        if ino is None:
            return
        for entry in await list_all(self._fs, ino):
            if _ID.fullmatch(entry.name):
                yield path + b"/" + entry.name, entry
            elif entry.type == DIRECTORY and len(entry.name) == 3:
                inner = path + b"/" + entry.name
                for below in await list_all(self._fs, entry.ino):
                    if _ID.fullmatch(below.name):
                        yield inner + b"/" + below.name, below

    async def _directory(self, path: bytes) -> int | None:
        try:
            found = await self._fs.lookup(path, self._caller, follow=False)
        except FsError as e:
            if e.errno in _GONE:
                return None
            raise
        return found.ino if found.attr.is_dir else None


def _touched_ns(entry: DirEntry) -> int:
    """When it came here or changed. Copies and uploads keep dates of their clients, so mtime alone may be old."""
    return max(entry.attr.mtime_ns, entry.attr.ctime_ns) if entry.attr is not None else 1 << 62


async def list_all(fs: FileSystem, ino: int, *, attrs: bool = True) -> list[DirEntry]:
    """Every entry of a directory that may have gone meanwhile."""
    out: list[DirEntry] = []
    after = b""
    while True:
        try:
            page = await fs.list_dir(ino, after, _PAGE, attrs=attrs)
        except FsError as e:
            if e.errno in _GONE:
                return out
            raise
        out += page
        if len(page) < _PAGE:
            return out
        after = page[-1].name
