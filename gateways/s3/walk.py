# SPDX-License-Identifier: Apache-2.0
"""Keys below a directory in S3 order, starting anywhere, reading no more of the volume than the page needs.

S3 sorts keys by their bytes, so in one directory a subdirectory sorts as its name plus "/"; `list_dir` pages come in
the order of bare names. A directory `a` is therefore held back until the page has passed every name below `a/`
(`a-b`, `a.b` come first). Held directories are prefixes of one another, so a stack keeps them in order.
Resuming in the middle needs the reverse: a directory whose bare name lies before the resume point can still sort after
it; only proper prefixes of the resume point followed by a byte below "/" can do that.

Relies on: the `FileSystem` facade. Source: spec s3 §3.5, §3.7, §10.1, §10.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.records import DIRECTORY, FILE, SYMLINK, Attr
from core.meta.store import DirEntry
from core.vfs.filesystem import FileSystem
from gateways.s3.metadata import explicit_dir

MAX_NAME: Final = 255
#: Sorts after everything that begins like a key: no name holds more than 255 bytes of 0xFF.
AFTER: Final = b"\xff" * 300

#: Directory pages read ahead at once while directories turn out to be small; one loop turn, one pipelined trip.
MAX_WIDTH: Final = 16
SMALL_DIR: Final = 100


class Key(NamedTuple):
    """One position of a walk. Directories end in "/"; `is_key`: an object, else only good for a common prefix."""

    key: bytes
    ino: int
    attr: Attr
    is_key: bool


def just_before(name: bytes) -> bytes:
    """A string below `name` with no possible name in between."""
    return name[:-1] + bytes((name[-1] - 1,)) + b"\xff" * MAX_NAME if name else b""


class _Frame:
    """One directory on the way: its current page, and the directories held back."""

    __slots__ = ("after", "ended", "explicit", "held", "i", "ino", "page", "partial", "path", "prefix")

    def __init__(self, ino: int, path: bytes, prefix: bytes, partial: bytes = b"") -> None:
        self.ino = ino
        self.path = path  # on the volume, for links
        self.prefix = prefix  # of every key below
        self.partial = partial  # names must begin with this
        self.after = just_before(partial)
        self.page: list[DirEntry] = []
        self.i = 0
        self.ended = False
        self.held: list[DirEntry] = []
        self.explicit: set[int] = set()

    def next(self) -> DirEntry | None:
        """The next entry in S3 order; None: read another page, or this is the end."""
        while self.i < len(self.page):
            entry = self.page[self.i]
            if self.held and entry.name > self.held[-1].name + b"/":
                return self.held.pop()
            self.i += 1
            if entry.type != DIRECTORY:
                return entry
            self.held.append(entry)
        if self.ended and self.held:
            return self.held.pop()
        return None

    def upcoming(self, count: int) -> list[DirEntry]:
        """Directories that will be entered next, as far as the page shows."""
        out = self.held[::-1][:count]
        for entry in self.page[self.i :]:
            if len(out) >= count:
                break
            if entry.type == DIRECTORY:
                out.append(entry)
        return out


class Walk:
    """One walk. base: the directory (inode, path, key prefix); partial: beginning of the names wanted in it.

    descend: walk into directories; otherwise each is one position with its name and a slash.
    hidden: names left out in the base directory. raw_names: also give names that aren't UTF-8.
    """

    def __init__(
        self, fs: FileSystem, ino: int, path: bytes, prefix: bytes, *, partial: bytes = b"", descend: bool = True,
        hidden: frozenset[bytes] = frozenset(), raw_names: bool = True, dir_objects: bool = True, page: int = 1000,
    ) -> None:  # fmt: skip
        self.fs = fs
        self.base = (ino, path, prefix, partial)
        self.descend = descend
        self.hidden = hidden
        self.raw_names = raw_names
        self.dir_objects = dir_objects
        self.page_size = max(page, 16)
        self.skipped = 0  # names that can't be shown
        self._ready: dict[int, list[DirEntry]] = {}
        self._width = 1

    async def keys(self, bound: bytes = b"") -> AsyncGenerator[Key, None]:
        """Every key > bound (which begins with the base's prefix, or is empty)."""
        stack = await self._start(bound)
        while stack:
            frame = stack[-1]
            entry = frame.next()
            if entry is None:
                if frame.ended:
                    stack.pop()
                else:
                    await self._fill(frame)
                continue
            key = frame.prefix + entry.name
            attr = entry.attr
            if attr is None:
                continue
            if entry.type != DIRECTORY:
                yield Key(key, entry.ino, attr, True)
                continue
            key += b"/"
            explicit = self.dir_objects and (attr.atime_ns == 0 or entry.ino in frame.explicit)
            if not self.descend:
                yield Key(key, entry.ino, attr, explicit)
                continue
            if explicit:
                yield Key(key, entry.ino, attr, True)
            if any(f.ino == entry.ino for f in stack):  # a link to a directory above
                continue
            child = _Frame(entry.ino, frame.path + b"/" + entry.name, key)
            if entry.ino not in self._ready and self._width > 1:
                await self._read_ahead(frame, entry)
            stack.append(child)

    # -- starting in the middle ----------------------------------------------------------------------------------

    async def _start(self, bound: bytes) -> list[_Frame]:
        """Frames positioned after `bound`, outermost first."""
        ino, path, prefix, partial = self.base
        frame = _Frame(ino, path, prefix, partial)
        stack = [frame]
        rest = bound[len(prefix) :]
        while rest:
            name, slash, below = rest.partition(b"/")
            here = name + slash
            # With the slash: `name!` sorts before everything below `name/`.
            frame.after = max(frame.after, here)
            entered = await self._late_dirs(frame, name, bool(slash))
            if not (slash and self.descend and entered is not None):
                break
            if any(f.ino == entered.ino for f in stack):
                break
            # Keys below `name/` are still due; the directory object itself has been passed.
            frame = _Frame(entered.ino, frame.path + b"/" + name, frame.prefix + here)
            stack.append(frame)
            rest = below
        return stack

    async def _late_dirs(self, frame: _Frame, name: bytes, is_dir: bool) -> DirEntry | None:
        """Hold back the directories that sort after the resume point though their bare names don't.

        Returns the directory `name` if that is where the walk stopped.
        """
        wanted = [name[:n] for n in range(max(1, len(frame.partial)), min(len(name), MAX_NAME + 1)) if name[n] < 0x2F]
        if 0 < len(name) <= MAX_NAME:
            wanted.append(name)
        wanted = [w for w in wanted if w.startswith(frame.partial) and not self._unwanted(frame, w)]
        if not wanted:
            return None
        entries = [e for e in await self.fs.stat_entries(frame.ino, wanted) if e is not None]
        entries = [e for e in await self._resolve(frame, entries) if e.type == DIRECTORY]
        await self._mark_explicit(frame, entries)
        stopped: DirEntry | None = None
        for entry in entries:  # shortest name first, which is the last in order: the stack's bottom
            if entry.name == name and is_dir:
                stopped = entry
            else:
                frame.held.append(entry)
        return stopped

    # -- pages ---------------------------------------------------------------------------------------------------

    async def _fill(self, frame: _Frame) -> None:
        size = self.page_size
        page = self._ready.pop(frame.ino, None) if not frame.after else None
        if page is None:
            try:
                page = await self.fs.list_dir(frame.ino, frame.after, size)
            except FsError:
                if frame.prefix == self.base[2]:
                    raise
                page = []  # the directory went away meanwhile
        self._width = min(self._width * 2, MAX_WIDTH) if not frame.after and len(page) < SMALL_DIR else 1
        frame.ended = len(page) < size
        if page:
            frame.after = page[-1].name
        if frame.partial and page and not page[-1].name.startswith(frame.partial):
            frame.ended = True
            page = [e for e in page if e.name.startswith(frame.partial)]
        self.page_size = min(size * 2, 1001)  # a page that filtering emptied must not cost hundreds of trips
        if any(e.type != FILE and e.type != DIRECTORY for e in page):
            page = await self._resolve(frame, page)
        if self.hidden and frame.prefix == self.base[2]:
            page = [e for e in page if e.name not in self.hidden]
        if not self.raw_names:
            page = [e for e in page if not self._unwanted(frame, e.name)]
        if self.descend:
            await self._mark_explicit(frame, page)
        frame.page = page
        frame.i = 0

    def _unwanted(self, frame: _Frame, name: bytes) -> bool:
        if name in self.hidden and frame.prefix == self.base[2]:
            return True
        if self.raw_names or name.isascii():
            return False
        try:
            name.decode()
        except UnicodeDecodeError:
            self.skipped += 1
            return True
        return False

    async def _resolve(self, frame: _Frame, page: list[DirEntry]) -> list[DirEntry]:
        """Links become what they point to; dangling ones, and whatever is neither file nor directory, go (§3.7)."""

        async def follow(entry: DirEntry) -> DirEntry | None:
            try:
                found = await self.fs.lookup(frame.path + b"/" + entry.name)
            except FsError:
                return None
            return DirEntry(entry.name, found.attr.type, found.ino, found.attr)

        links = [e for e in page if e.type == SYMLINK]
        targets = dict(zip(links, await asyncio.gather(*map(follow, links)), strict=True)) if links else {}
        found = [targets.get(e, e) for e in page]
        return [e for e in found if e is not None and e.type in (FILE, DIRECTORY)]

    async def _mark_explicit(self, frame: _Frame, page: list[DirEntry]) -> None:
        """Directories whose marker survives only in s3-ext: a mount refreshed their atime (§3.5). One trip."""
        if not self.dir_objects:
            return
        dirs = [e for e in page if e.type == DIRECTORY and e.attr is not None and e.attr.atime_ns != 0]
        if dirs:
            for entry, xattrs in zip(dirs, await self.fs.get_xattrs([e.ino for e in dirs]), strict=True):
                if entry.attr is not None and xattrs and explicit_dir(entry.attr, xattrs):
                    frame.explicit.add(entry.ino)

    async def _read_ahead(self, frame: _Frame, first: DirEntry) -> None:
        """First pages of the next few directories at once, as long as they have been small."""
        # Not before a page of the size that `_fill` will ask for: a short page means the end there.
        self.page_size = max(self.page_size, 1001)
        ahead = [first, *(e for e in frame.upcoming(self._width - 1) if e.ino not in self._ready)]

        async def load(entry: DirEntry) -> None:
            try:
                self._ready[entry.ino] = await self.fs.list_dir(entry.ino, b"", self.page_size)
            except FsError:
                self._ready[entry.ino] = []

        await asyncio.gather(*map(load, ahead))
