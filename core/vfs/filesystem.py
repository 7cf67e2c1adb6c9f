# SPDX-License-Identifier: Apache-2.0
"""The path facade that all doors use: look up, list, read, write, publish, rename, remove.

Paths are absolute bytes such as b"/bucket/dir/key" (b"/" is the root of the volume). No `.`/`..` are interpreted: doors
refuse or resolve them first. Errors are `FsError` with an errno and a message that names the path.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from core.chunk.api import FileRange
from core.meta.records import Attr, Slice
from core.meta.store import DirEntry
from core.object.api import Buffer
from core.vfs.api import ROOT_CALLER, Caller, Condition


class Found(NamedTuple):
    """Answer of `lookup`. xattrs and chunk only if asked for (chunk: raw slice records of chunk 0)."""

    ino: int
    attr: Attr
    parent: int
    xattrs: dict[bytes, bytes] | None = None
    chunk: bytes | None = None


class Content(msgspec.Struct, frozen=True):
    """Bytes that are stored but bound to no name yet: chunk index -> slice records, oldest first.

    fresh: (slice id, size, refs) to register at publish. shared: (slice id, size, extra references) taken from
    existing files, which are `sources`: (ino, chunk index, raw value) that must still hold at publish.
    """

    length: int
    chunks: dict[int, list[Slice]]
    fresh: tuple[tuple[int, int, int], ...] = ()
    shared: tuple[tuple[int, int, int], ...] = ()
    sources: tuple[tuple[int, int, bytes], ...] = ()


class Published(NamedTuple):
    ino: int
    attr: Attr
    replaced: bool


class ImplicitDirs(msgspec.Struct, frozen=True):
    """How `publish` and `mkdir` make missing parent directories."""

    mode: int = 0o777
    xattrs: Mapping[bytes, bytes] = {}


class ContentWriter:
    """Receives one body front to back; see `FileSystem.new_content`. Memory is bounded: `advance` waits."""

    length: int

    def buffer(self) -> memoryview:
        """Writable part of a pooled buffer (never empty). Fill n bytes of it, then `await advance(n)`."""
        raise NotImplementedError

    async def advance(self, n: int) -> None:
        raise NotImplementedError

    async def write(self, data: Buffer) -> None:
        """Append a copy of data."""
        raise NotImplementedError

    async def finish(self) -> Content:
        """All bytes are stored when this returns. A small body is packed together with others'."""
        raise NotImplementedError

    async def abort(self) -> None:
        """Give up; what was uploaded is deleted (best effort). Safe to call at any time, also after finish."""
        raise NotImplementedError


class FileSystem:
    """One volume by path. Costs are given in metadata round trips."""

    # -- looking -------------------------------------------------------------------------------------------------

    async def lookup(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, xattrs: bool = False, chunk: bool = False,
        follow: bool = True,
    ) -> Found:  # fmt: skip
        """Inode and attributes (1 trip). ENOENT, ENOTDIR, EACCES, ELOOP. Symlinks on the way are followed (more trips);
        the last one only with `follow`; a target outside the volume is ENOENT."""
        raise NotImplementedError

    async def list_dir(self, ino: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = True) -> list[DirEntry]:
        """Entries of a directory with name > after, byte order (1 trip). Fewer than limit: the end."""
        raise NotImplementedError

    async def stat_entries(self, parent: int, names: Sequence[bytes]) -> list[DirEntry | None]:
        """Several entries of one directory at once, with attributes (2 trips)."""
        raise NotImplementedError

    async def get_xattrs(self, inos: Sequence[int]) -> list[dict[bytes, bytes]]:
        """All extended attributes of many inodes (1 trip)."""
        raise NotImplementedError

    # -- reading -------------------------------------------------------------------------------------------------

    def iter_range(self, found: Found, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        """Bytes [offset, offset+length) in order, with read-ahead; local file ranges where they can be sent as
        they are. Needs no metadata trip for chunk 0 if `found.chunk` is there. EIO if data can't be had."""
        raise NotImplementedError

    async def read(self, found: Found, offset: int, length: int) -> Buffer:
        """The same as one buffer, for small ranges; clipped to the file's length."""
        raise NotImplementedError

    # -- writing -------------------------------------------------------------------------------------------------

    def new_content(self, size_hint: int | None = None) -> ContentWriter:
        raise NotImplementedError

    async def content_of(self, data: Buffer) -> Content:
        """Store bytes that are at hand (packed if small)."""
        raise NotImplementedError

    async def clone_content(self, parts: Sequence[tuple[int, int, int]]) -> Content:
        """Content made of ranges (ino, offset, length) of existing files, one after another; no data moves (1 trip
        per 1000 files). The sources must not lose these bytes before publish, which verifies that."""
        raise NotImplementedError

    async def publish(
        self,
        path: bytes,
        content: Content,
        caller: Caller = ROOT_CALLER,
        *,
        mode: int = 0o644,
        xattrs: Mapping[bytes, bytes] | None = None,
        mtime_ns: int | None = None,
        condition: Condition | None = None,
        parents: ImplicitDirs | None = None,
        replace_empty_dir: bool = False,
        skip_trash: bool = False,
    ) -> Published:
        """Bind content to a name, atomically: a new inode with all its data and xattrs, replacing a file if there
        is one (the old inode goes to the trash like any unlink, or nowhere with `skip_trash`). At most 2 trips.

        parents: make missing parent directories in the same transaction. Errors: ENOENT (no parent), ENOTDIR (a
        parent is a file), EISDIR (target is a directory; with replace_empty_dir only if it isn't empty), EEXIST (condition.absent), ESTALE (another condition failed),
        EDQUOT, ENOSPC, EPERM, EACCES. mtime_ns: default now.
        """
        raise NotImplementedError

    async def discard(self, content: Content) -> None:
        """Content that will not be published: delete its fresh slices (best effort)."""
        raise NotImplementedError

    # -- changing names ------------------------------------------------------------------------------------------

    async def mkdir(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, mode: int = 0o755,
        xattrs: Mapping[bytes, bytes] | None = None, atime_ns: int | None = None, parents: ImplicitDirs | None = None,
    ) -> Found:  # fmt: skip
        """EEXIST if the name is taken (also by a directory)."""
        raise NotImplementedError

    async def unlink(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, condition: Condition | None = None, skip_trash: bool = False
    ) -> None:
        """Remove a file or link (2 trips). EISDIR for directories, ENOENT."""
        raise NotImplementedError

    async def rmdir(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> None:
        """ENOTEMPTY, ENOTDIR, ENOENT (2 trips)."""
        raise NotImplementedError

    async def rename(
        self, source: bytes, target: bytes, caller: Caller = ROOT_CALLER, *, flags: int = 0,
        condition: Condition | None = None,
    ) -> None:  # fmt: skip
        raise NotImplementedError

    async def remove_tree(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> int:
        """rm -r; returns how many entries went."""
        raise NotImplementedError

    # -- changing attributes -------------------------------------------------------------------------------------

    async def set_times(self, ino: int, *, atime_ns: int | None = None, mtime_ns: int | None = None) -> Attr:
        raise NotImplementedError

    async def set_xattrs(self, ino: int, values: Mapping[bytes, bytes | None]) -> None:
        """Set (bytes) or remove (None) several extended attributes in one transaction."""
        raise NotImplementedError
