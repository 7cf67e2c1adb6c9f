# SPDX-License-Identifier: Apache-2.0
"""The path facade that all doors use: look up, list, read, write, publish, rename, remove.

Paths are absolute bytes such as b"/bucket/dir/key" (b"/" is the root of the volume). No `.`/`..` are interpreted: doors
refuse or resolve them first. Errors are `FsError` with an errno and a message that names the path. Costs are given in
metadata round trips.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, NamedTuple

from core.chunk.api import FileRange, Piece
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.meta import keys as k
from core.meta.base import EXECUTE, show
from core.meta.caller import ROOT_CALLER, Caller, Condition
from core.meta.data import parse_chunk
from core.meta.meta import Meta
from core.meta.namespace import IsDirectory, SymlinkInPath
from core.meta.publish import Content, ImplicitDirs, Published, SourceChanged
from core.meta.records import CHUNK_BITS, DIRECTORY, FILE, ROOT, SYMLINK, Attr
from core.meta.slices import assemble, count_references, pieces_for
from core.meta.store import DirEntry, Resolved
from core.object.api import Buffer
from core.vfs.content import ContentWriter, RangeReader, content_of_piece, pack_limit

MAX_SYMLINKS: Final = 40
_CLONE_BATCH: Final = 1000


class Found(NamedTuple):
    """Answer of `lookup`. xattrs and chunk only if asked for (chunk: raw slice records of chunk 0)."""

    ino: int
    attr: Attr
    parent: int
    xattrs: dict[bytes, bytes] | None = None
    chunk: bytes | None = None


def split(path: bytes) -> list[bytes]:
    """Components of an absolute path."""
    return [name for name in path.split(b"/") if name]


class FileSystem:
    """One volume by path."""

    def __init__(self, meta: Meta, slices: BlockSliceStore, *, link_root: bytes = b"", umask: int = 0) -> None:
        self.meta = meta
        self.slices = slices
        self.umask = umask
        #: Absolute prefix that link targets use for the root of this volume (a mount point elsewhere).
        self._link_root = split(link_root)
        self._pack_limit = pack_limit(slices.block_size)

    # -- looking -------------------------------------------------------------------------------------------------

    async def lookup(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, xattrs: bool = False, chunk: bool = False,
        follow: bool = True,
    ) -> Found:  # fmt: skip
        """Inode and attributes (1 trip). ENOENT, ENOTDIR, EACCES, ELOOP. Symlinks on the way are followed (more
        trips); the last one only with `follow`; a target outside the volume is ENOENT."""
        names = split(path)
        for _ in range(MAX_SYMLINKS):
            found = await self.meta.resolve(ROOT, names, xattrs=xattrs, chunk=chunk)
            link = await self._first_link(found, names, caller, follow=follow, path=path)
            if link < 0:
                return self._found(found, names, path)
            names = await self._follow(names, link, found.steps[link].entry.ino, path)
        raise FsError(errno.ELOOP, f"{show(path)}: more than {MAX_SYMLINKS} symbolic links")

    async def _first_link(
        self, found: Resolved, names: list[bytes], caller: Caller, *, follow: bool, path: bytes
    ) -> int:
        """Index of the first component that is a symbolic link to follow, or -1; checks X on the way."""
        ino, attr = ROOT, found.base
        for at, step in enumerate(found.steps):
            if attr is not None and caller.uid:
                await self.meta.require_access(caller, ino, attr, EXECUTE)
            if step.entry.type == SYMLINK and (follow or at < len(names) - 1):
                return at
            if step.entry.type != DIRECTORY and at < len(names) - 1:
                raise FsError(errno.ENOTDIR, f"{show(path)}: {show(names[at])} is no directory")
            ino, attr = step.entry.ino, step.attr
        return -1

    def _found(self, found: Resolved, names: list[bytes], path: bytes) -> Found:
        steps = found.steps
        if not names:
            if found.base is None:
                raise FsError(errno.ENOENT, "the root directory has no record; run `sluice fsck`")
            return Found(ROOT, found.base, ROOT, found.xattrs, found.chunk)
        if len(steps) < len(names) or steps[-1].attr is None:
            raise FsError(errno.ENOENT, f"{show(path)}: no such file or directory")
        parent = steps[-2].entry.ino if len(steps) > 1 else ROOT
        return Found(steps[-1].entry.ino, steps[-1].attr, parent, found.xattrs, found.chunk)

    async def _follow(self, names: list[bytes], at: int, ino: int, path: bytes) -> list[bytes]:
        """The path with component `at`, a symbolic link, replaced by its target."""
        target = await self.meta.readlink(ino)
        parts = split(target)
        if target.startswith(b"/"):
            prefix = self._link_root
            if not prefix or parts[: len(prefix)] != prefix:
                raise FsError(errno.ENOENT, f"{show(path)}: a symbolic link leads out of the volume")
            result: list[bytes] = []
            parts = parts[len(prefix) :]
        else:
            result = names[:at]
        # What precedes the link is made of real directories, so `..` may be applied to the text.
        for part in parts:
            if part == b"..":
                if not result:
                    raise FsError(errno.ENOENT, f"{show(path)}: a symbolic link leads out of the volume")
                result.pop()
            elif part != b".":
                result.append(part)
        return result + names[at + 1 :]

    async def list_dir(self, ino: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = True) -> list[DirEntry]:
        """Entries of a directory with name > after, byte order (1 trip). Fewer than limit: the end."""
        return await self.meta.readdir(ino, after, limit, attrs=attrs)

    async def stat_entries(self, parent: int, names: Sequence[bytes]) -> list[DirEntry | None]:
        """Several entries of one directory at once, with attributes (2 trips)."""
        entries = await self.meta.store.read(*(k.entry(parent, name) for name in names))
        there = [e for e in entries if e is not None]
        attrs = iter(await self.meta.store.read(*(k.node(e.ino) for e in there)) if there else [])
        return [
            None if e is None else DirEntry(name, e.type, e.ino, next(attrs))
            for name, e in zip(names, entries, strict=True)
        ]

    async def get_xattrs(self, inos: Sequence[int]) -> list[dict[bytes, bytes]]:
        """All extended attributes of many inodes (1 trip)."""
        return await self.meta.store.read(*(k.xattrs(ino) for ino in inos)) if inos else []

    # -- reading -------------------------------------------------------------------------------------------------

    def iter_range(self, found: Found, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        """Bytes [offset, offset+length) in order, with read-ahead; local file ranges where they can be sent as
        they are. Needs no metadata trip for chunk 0 if `found.chunk` is there. EIO if data can't be had."""
        chunk0 = None if found.chunk is None else parse_chunk(found.ino, 0, found.chunk)
        if chunk0 is not None:
            self.meta.chunk_seen(found.ino, 0, chunk0)
        length = max(0, min(length, found.attr.length - offset))
        return RangeReader(self.meta, self.slices, found.ino, chunk0).iterate(offset, length)

    def read_nowait(self, found: Found, offset: int, length: int) -> Buffer | None:
        """The bytes if they are one piece that lies in memory, else None: the fast path of hot small objects."""
        if found.chunk is None or length <= 0 or offset + length > min(found.attr.length, 1 << CHUNK_BITS):
            return None
        pieces = pieces_for(parse_chunk(found.ino, 0, found.chunk), offset, offset + length)
        if len(pieces) != 1 or not pieces[0].id:
            return None
        _, slice_id, size, off, n = pieces[0]
        return self.slices.read_cached(slice_id, size, off, n)

    async def read(self, found: Found, offset: int, length: int) -> Buffer:
        """The same as one buffer, for small ranges; clipped to the file's length."""
        hot = self.read_nowait(found, offset, length)
        if hot is not None:
            return hot
        try:
            parts = [_load(p) if isinstance(p, FileRange) else p async for p in self.iter_range(found, offset, length)]
        except FileNotFoundError:
            # Another process has compacted the file and deleted what its records named a moment ago.
            now = found._replace(chunk=None)
            parts = [_load(p) if isinstance(p, FileRange) else p async for p in self.iter_range(now, offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    # -- writing -------------------------------------------------------------------------------------------------

    def new_content(self, size_hint: int | None = None) -> ContentWriter:
        """A writer for one body; `await open()` it before `buffer()` (`write` does so itself)."""
        return ContentWriter(self.slices, size_hint, self._discard_soon)

    async def content_of(self, data: Buffer) -> Content:
        """Store bytes that are at hand (packed if small)."""
        if not data:
            return Content(0, {})
        if len(data) <= self._pack_limit:
            return content_of_piece(await self.slices.pack(data))
        writer = self.new_content(len(data))
        try:
            await writer.write(data)
            return await writer.finish()
        except BaseException:
            await writer.abort()
            raise

    async def clone_content(self, parts: Sequence[tuple[int, int, int]]) -> Content:
        """Content made of ranges (ino, offset, length) of existing files, one after another; no data moves (1 trip
        per 1000 chunks). The sources must not lose these bytes before publish, which verifies that."""
        wanted = [
            (ino, index)
            for ino, offset, length in parts
            if length > 0
            for index in range(offset >> CHUNK_BITS, (offset + length - 1 >> CHUNK_BITS) + 1)
        ]
        wanted = list(dict.fromkeys(wanted))
        raws: dict[tuple[int, int], bytes] = {}
        for at in range(0, len(wanted), _CLONE_BATCH):
            batch = wanted[at : at + _CLONE_BATCH]
            values = await self.meta.store.read(*(k.chunk(ino, index) for ino, index in batch))
            raws.update((key, raw) for key, raw in zip(batch, values, strict=True) if raw)
        lists: dict[int, dict[int, list]] = {}  # type: ignore[type-arg]
        for (ino, index), raw in raws.items():
            lists.setdefault(ino, {})[index] = parse_chunk(ino, index, raw)
        chunks = assemble((lists.get(ino, {}), offset, length) for ino, offset, length in parts)
        return Content(
            sum(length for _, _, length in parts),
            chunks,
            shared=tuple(count_references(chunks)),
            sources=tuple((ino, index, raw) for (ino, index), raw in raws.items()),
        )

    async def publish(
        self,
        path: bytes,
        content: Content | None,
        caller: Caller = ROOT_CALLER,
        *,
        mode: int = 0o644,
        xattrs: Mapping[bytes, bytes] | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
        condition: Condition | None = None,
        parents: ImplicitDirs | None = None,
        replace_empty_dir: bool = False,
        skip_trash: bool = False,
    ) -> Published:
        """Bind content to a name, atomically: a new inode with all its data and xattrs, replacing a file if there
        is one (the old inode goes to the trash like any unlink, or nowhere with `skip_trash`). At most 2 trips.
        Content None makes a directory.

        parents: make missing parent directories in the same transaction. Errors: ENOENT (no parent), ENOTDIR (a
        parent is a file), EISDIR (target is a directory; with replace_empty_dir only if it isn't empty), EEXIST
        (condition.absent), ESTALE (another condition failed; `SourceChanged`), EDQUOT, ENOSPC,
        EPERM, EACCES. mtime_ns: default now.
        """
        names = split(path)
        base = ROOT
        for _ in range(MAX_SYMLINKS):
            try:
                return await self.meta.publish(
                    base, names, content, caller, mode=mode, umask=self.umask, xattrs=xattrs, mtime_ns=mtime_ns,
                    atime_ns=atime_ns, condition=condition, parents=parents, replace_empty_dir=replace_empty_dir,
                    skip_trash=skip_trash,
                )  # fmt: skip
            except SymlinkInPath as link:
                names = await self._follow(names, link.depth, link.ino, path)
        raise FsError(errno.ELOOP, f"{show(path)}: more than {MAX_SYMLINKS} symbolic links")

    async def discard(self, content: Content) -> None:
        """Content that will not be published: delete its fresh slices (best effort). Pieces of a pack that others
        share stay; their count is one too high then, and gc collects the rest."""
        for slice_id, size, refs in content.fresh:
            await self.slices.forget(Piece(slice_id, size, 0, size, refs))

    def _discard_soon(self, content: Content) -> None:
        self.meta.spawn(self.discard(content))

    # -- changing names ------------------------------------------------------------------------------------------

    @staticmethod
    def _names(path: bytes) -> list[bytes]:
        names = split(path)
        if not names:
            raise FsError(errno.EBUSY, "the root of the volume can't be changed")
        return names

    async def _parent(self, path: bytes, caller: Caller) -> tuple[int, bytes]:
        """Inode of the directory that holds the path's last component, and that component."""
        names = self._names(path)
        if len(names) == 1:
            return ROOT, names[0]
        found = await self.lookup(b"/" + b"/".join(names[:-1]), caller)
        return found.ino, names[-1]

    async def mkdir(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, mode: int = 0o755,
        xattrs: Mapping[bytes, bytes] | None = None, atime_ns: int | None = None, parents: ImplicitDirs | None = None,
    ) -> Found:  # fmt: skip
        """EEXIST if the name is taken (also by a directory) (2 trips)."""
        made = await self.publish(
            path, None, caller, mode=mode, xattrs=xattrs, atime_ns=atime_ns, parents=parents
        )  # fmt: skip
        return Found(made.ino, made.attr, made.attr.parent)

    async def unlink(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, condition: Condition | None = None, skip_trash: bool = False
    ) -> None:
        """Remove a file or link (2 trips). EISDIR for directories, ENOENT."""
        names = self._names(path)
        try:
            await self.meta.unlink(
                ROOT, names[-1], caller, skip_trash=skip_trash, condition=condition, below=names[:-1]
            )  # fmt: skip
        except SymlinkInPath:
            parent, name = await self._parent(path, caller)
            await self.meta.unlink(parent, name, caller, skip_trash=skip_trash, condition=condition)
        except IsDirectory as e:
            raise FsError(errno.EISDIR, f"{show(path)}: is a directory") from e

    async def rmdir(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> None:
        """ENOTEMPTY, ENOTDIR, ENOENT (2 trips)."""
        names = self._names(path)
        try:
            await self.meta.rmdir(ROOT, names[-1], caller, skip_trash=skip_trash, below=names[:-1])
        except SymlinkInPath:
            parent, name = await self._parent(path, caller)
            await self.meta.rmdir(parent, name, caller, skip_trash=skip_trash)

    async def rename(
        self, source: bytes, target: bytes, caller: Caller = ROOT_CALLER, *, flags: int = 0,
        condition: Condition | None = None,
    ) -> None:  # fmt: skip
        src, src_name = await self._parent(source, caller)
        dst, dst_name = await self._parent(target, caller)
        await self.meta.rename(src, src_name, dst, dst_name, flags, caller, condition=condition)

    async def remove_tree(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> int:
        """rm -r; returns how many entries went."""
        found = await self.lookup(path, caller, follow=False)
        if found.attr.type != DIRECTORY:
            await self.unlink(path, caller, skip_trash=skip_trash)
            return 1
        removed = await self.meta.remove_children(found.ino, skip_trash=skip_trash)
        await self.rmdir(path, caller, skip_trash=skip_trash)
        return removed + 1

    # -- changing attributes -------------------------------------------------------------------------------------

    async def set_times(self, ino: int, *, atime_ns: int | None = None, mtime_ns: int | None = None) -> Attr:
        changes = {"atime_ns": atime_ns, "mtime_ns": mtime_ns}
        return await self.meta.setattr(ino, {name: value for name, value in changes.items() if value is not None})

    async def set_xattrs(self, ino: int, values: Mapping[bytes, bytes | None]) -> None:
        """Set (bytes) or remove (None) several extended attributes in one transaction."""
        await self.meta.set_xattrs(ino, values)


def _load(part: FileRange) -> bytes:
    with open(part.path, "rb") as f:
        f.seek(part.offset)
        data = f.read(part.length)
    if len(data) != part.length:
        raise FsError(errno.EIO, f"block file {part.path} is shorter than its record says")
    return data


__all__ = [
    "FILE", "Content", "ContentWriter", "FileSystem", "Found", "ImplicitDirs", "Published", "SourceChanged", "split",
]  # fmt: skip
