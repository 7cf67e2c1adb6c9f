# SPDX-License-Identifier: Apache-2.0
"""Reading directories by handle.

Opening costs no round trip where the kernel checks permissions: the first read asks for the directory and its first
page together. A directory that was removed while it is open lists nothing. Source: metadata-semantics §4.8, §12.1.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.caller import Caller
from core.meta.records import FILE, ROOT, S_IFMT, TRASH, Attr
from core.meta.store import DirEntry
from core.vfs.posix.listing import FRESH_S, Fixed, Listing, position, same_position
from core.vfs.posix.nodes import Node, PosixBase

_DT: Final = {kind: bits >> 12 for kind, bits in S_IFMT.items()}
_DT_DIR: Final = 4
#: Names read at a time while looking for a position of another process.
_SEARCH: Final = 4096
_MAX_LEFT: Final = 64


class Listed(NamedTuple):
    """One entry. type: S_IFMT >> 12, 0 if unknown. node: attributes, where they were asked for and are fresh."""

    name: bytes
    ino: int
    type: int
    next_offset: int
    node: Node | None


class Directories(PosixBase):
    """Mixin of `Posix`."""

    @functools.cached_property
    def directories(self) -> dict[int, Listing]:
        """Open directories by handle number."""
        return {}

    @functools.cached_property
    def _left(self) -> OrderedDict[int, Listing]:
        """Large directories that were closed lately. An NFS server opens one anew for each piece of it, and goes on at
        a position of the handle before; with what is left of that, it is found in one trip."""
        return OrderedDict()

    def opendir_nowait(self, ino: int, flags: int) -> int | None:
        """A handle number where there is nothing to check here, else None: then `opendir`."""
        if self.config.check or self.config.squashes:
            return None
        return self._open_listing(ino, flags)

    async def opendir(self, ino: int, flags: int, caller: Caller) -> int:
        """ENOENT, ENOTDIR, EACCES; EMFILE if there are too many."""
        await self.meta.opendir(self.real(ino), caller)
        return self._open_listing(ino, flags)

    def _open_listing(self, ino: int, flags: int) -> int:
        fh = self.keeper.opened(ino, flags & ~os.O_CREAT, True)
        self._listing(fh, ino)
        return fh

    def _listing(self, fh: int, ino: int) -> Listing:
        """An unknown number is of a process before us: the inode is all it takes to go on."""
        listing = self.directories.get(fh)
        if listing is None:
            real = self.real(ino)
            listing = self._left.pop(real) if real in self._left else Listing(real)
            self.directories[fh] = listing
            self._listings.setdefault(listing.ino, set()).add(listing)
        return listing

    def releasedir(self, fh: int) -> None:
        listing = self.directories.pop(fh, None)
        if listing is not None:
            same = self._listings[listing.ino]
            same.discard(listing)
            if not same:
                del self._listings[listing.ino]
            if len(listing.pages) > 1 or (listing.pages and not listing.complete):
                listing.shrink()
                self._left[listing.ino] = listing
                if len(self._left) > _MAX_LEFT:
                    self._left.popitem(last=False)
        self.keeper.closed(fh)

    # -- reading -----------------------------------------------------------------------------------------------------

    def readdir_nowait(self, fh: int, offset: int, plus: bool) -> Iterator[Listed] | None:
        """What follows `offset`, if it was read ahead; None: ask `readdir`."""
        listing = self.directories.get(fh)
        if listing is None or offset < 1 << 32:
            return None
        if listing.gone:
            return iter(())
        index = listing.index_of(offset)
        return None if index is None else self._ready(listing, index, plus)

    async def readdir(self, fh: int, ino: int, offset: int, plus: bool) -> Iterator[Listed]:
        """Entries after position `offset` (0: all), as far as they are at hand; none at all means the end.

        To be consumed before anything else is awaited. plus: with attributes, none of them older than
        `listing_age_s` tells.
        """
        listing = self._listing(fh, ino)
        fixed: Iterator[Listed] = iter(())
        index: int | None = None
        if offset < 1 << 32:
            if offset == 0 or not listing.fixed:  # none: begun by a process before us
                await self._start(listing, ino, plus)
            elif listing.after or not self._usable(listing, plus):
                await self._load(listing, b"", plus)
            if listing.gone:
                return iter(())
            index = 0
            fixed = self._fixed(listing, offset)
            if offset < len(listing.fixed):
                return itertools.chain(fixed, self._entries(listing, 0, plus))
        else:
            if listing.gone:
                return iter(())
            index = listing.index_of(offset)
        while True:
            if index is None:
                after = await self._find(listing, offset)
            else:
                found = self._ready(listing, index, plus)
                if found is not None:
                    return found
                # All that is left is old, or was removed meanwhile.
                at = listing.live_from(index)
                after = listing.entries[at - 1].name if at else listing.after
            await self._load(listing, after, plus)
            index = 0

    def _ready(self, listing: Listing, index: int, plus: bool) -> Iterator[Listed] | None:
        """What was read ahead from `index` on, unless it must be read again or nothing of it is left."""
        index = listing.live_from(index)
        if index == len(listing.entries):
            return iter(()) if listing.complete else None
        return self._entries(listing, index, plus) if self._usable(listing, plus) else None

    def listing_age_s(self, fh: int) -> float:
        """How old the attributes of the last read are."""
        listing = self.directories.get(fh)
        return 0.0 if listing is None or not listing.read_at else max(0.0, time.monotonic() - listing.read_at)

    @staticmethod
    def _usable(listing: Listing, plus: bool) -> bool:
        if plus:
            return listing.plus and time.monotonic() - listing.read_at < FRESH_S
        return listing.read_at > 0

    async def _start(self, listing: Listing, ino: int, plus: bool) -> None:
        listing.rewind()
        limit, asked = listing.page_size, self._now()
        attr, entries = await asyncio.gather(
            self._look(listing.ino), self.meta.readdir(listing.ino, b"", limit, attrs=plus)
        )
        if attr is None:
            listing.gone = True
            return
        if not attr.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {ino} is no directory")
        self.meta.note_access(listing.ino, attr)
        listing.fixed = self._fixed_entries(ino, attr)
        listing.loaded(b"", entries, limit, plus, asked)

    def _now(self) -> tuple[float, int]:
        return time.monotonic(), self.vfs.commits.count

    async def _look(self, ino: int) -> Attr | None:
        try:
            return await self.meta.getattr(ino)
        except FsError as e:
            if e.errno != errno.ENOENT:
                raise
            return None

    async def _load(self, listing: Listing, after: bytes, plus: bool) -> None:
        limit, asked = listing.page_size, self._now()
        entries = await self.meta.readdir(listing.ino, after, limit, attrs=plus)
        listing.loaded(after, entries, limit, plus, asked)

    async def _find(self, listing: Listing, offset: int) -> bytes:
        """The name after which a listing goes on at a position that isn't at hand."""
        name, page = listing.name_at(offset)
        if name is not None:
            return name
        if page is not None:
            # The page is there still, but for what changed: one read finds the name.
            entries = await self.meta.readdir(listing.ino, page.after, page.count * 2)
            at = same_position(entries, offset)
            return entries[at].name if at is not None else page.after
        after = b""
        while True:
            entries = await self.meta.readdir(listing.ino, after, _SEARCH)
            at = same_position(entries, offset)
            if at is not None:
                return entries[at].name
            if len(entries) < _SEARCH:
                # That name is gone. From the start again: to show some twice is better than to leave some out, and
                # who removes what it lists (rm -r) finds just the rest.
                return b""
            after = entries[-1].name

    # -- entries -----------------------------------------------------------------------------------------------------

    def _fixed_entries(self, ino: int, attr: Attr) -> list[Fixed]:
        above = ROOT if ino == ROOT else self.shown(attr.parent or ROOT)
        fixed = [Fixed(b".", ino, _DT_DIR), Fixed(b"..", above, _DT_DIR)]
        if ino == ROOT and not self.config.hide_internal:
            for name, node in self.internal.entries() if self.internal is not None else ():
                if node.ino != TRASH:
                    fixed.append(Fixed(name, node.ino, _DT.get(node.attr.type, 0)))
            if self._root == ROOT:
                fixed.append(Fixed(self.trash_name, TRASH, _DT_DIR))
        return fixed

    def _fixed(self, listing: Listing, offset: int) -> Iterator[Listed]:
        for at in range(offset, len(listing.fixed)):
            name, ino, kind = listing.fixed[at]
            yield Listed(name, ino, kind, at + 1, None)

    def _entries(self, listing: Listing, index: int, plus: bool) -> Iterator[Listed]:
        entries, first, dead, touched = listing.entries, listing.first, listing.dead, listing.touched
        since, root, node_of = listing.since, self._root, self._listed_node
        for at in range(index, len(entries)):
            e = entries[at]
            name, kind, ino, _ = e
            if dead and name in dead:
                continue
            yield Listed(
                name, ROOT if ino == root else ino, _DT.get(kind, 0), position(first + at, name),
                node_of(e, touched, since) if plus else None,
            )  # fmt: skip

    def _listed_node(self, e: DirEntry, touched: set[int], since: int) -> Node | None:
        attr = e.attr
        if attr is None or e.ino in touched:
            return None  # the kernel asks for it
        if attr.type == FILE:
            attr = self.vfs.looked_nowait(e.ino, attr, since)
            if attr is None:
                return None
        if self._acl:
            self.saw_acl(e.ino, attr)
        return Node(self.shown(e.ino), attr, self.blocks(e.ino, attr))
