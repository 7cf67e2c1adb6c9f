# SPDX-License-Identifier: Apache-2.0
"""A `FileSystem` in plain dictionaries: the model that the S3 rules are tested against.

Follows the docstrings of `core.vfs.filesystem` and nothing else. `trips` counts metadata round trips as the facade
promises them, so that tests can assert costs. Data of a content is one slice of any length.
"""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from sortedcontainers import SortedDict

from core.chunk.api import FileRange
from core.errors import FsError
from core.meta.records import DIRECTORY, FILE, SYMLINK, Attr, Slice
from core.meta.store import DirEntry
from core.object.api import Buffer
from core.vfs.api import ROOT_CALLER, Caller, Condition
from core.vfs.filesystem import Content, ContentWriter, FileSystem, Found, ImplicitDirs, Published, SourceChanged


class Node:
    def __init__(self, ino: int, type_: int, mode: int, now: int, parent: int) -> None:
        self.ino = ino
        self.type = type_
        self.mode = mode
        self.atime = self.mtime = self.ctime = now
        self.parent = parent
        self.data = b""
        self.target = b""
        self.children: SortedDict = SortedDict()
        self.xattrs: dict[bytes, bytes] = {}

    @property
    def attr(self) -> Attr:
        length = len(self.data) if self.type == FILE else 4096
        nlink = 2 if self.type == DIRECTORY else 1
        return Attr(
            self.type, self.mode, 0, 0, self.atime, self.mtime, self.ctime, nlink, length, parent=self.parent
        )  # fmt: skip


class FakeWriter(ContentWriter):
    def __init__(self, fs: FakeFileSystem) -> None:  # none of the real writer's state
        self.fs = fs
        self.length = 0
        self.block = bytearray(1 << 16)
        self.data = bytearray()
        self.content: Content | None = None
        self.opened = False

    async def open(self) -> None:
        self.opened = True

    def buffer(self) -> memoryview:
        assert self.opened
        return memoryview(self.block)

    async def advance(self, n: int) -> None:
        self.data += memoryview(self.block)[:n]
        self.length += n

    async def write(self, data: Buffer) -> None:
        self.data += bytes(data)
        self.length += len(data)

    async def finish(self) -> Content:
        self.content = self.fs._store(bytes(self.data))
        return self.content

    async def abort(self) -> None:
        self.data.clear()
        if self.content is not None:
            await self.fs.discard(self.content)


class FakeFileSystem(FileSystem):
    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self.now_ns = now_ns
        self.next_ino = 2
        self.next_slice = 1
        self.slices: dict[int, bytes] = {}
        self.nodes: dict[int, Node] = {1: Node(1, DIRECTORY, 0o777, now_ns(), 1)}
        self.trips = 0
        self.before_publish: Callable[[bytes], None] | None = None

    # -- helpers -------------------------------------------------------------------------------------------------

    def _store(self, data: bytes) -> Content:
        if not data:
            return Content(0, {})
        ident = self.next_slice
        self.next_slice += 1
        self.slices[ident] = data
        return Content(len(data), {0: [Slice(0, ident, len(data), 0, len(data))]}, fresh=((ident, len(data), 1),))

    def _walk(self, path: bytes, follow: bool = True, depth: int = 0) -> Node:
        if depth > 20:
            raise FsError(errno.ELOOP, repr(path))
        node = self.nodes[1]
        names = [n for n in path.split(b"/") if n]
        for i, name in enumerate(names):
            if node.type != DIRECTORY:
                raise FsError(errno.ENOTDIR, repr(path))
            ino = node.children.get(name)
            if ino is None:
                raise FsError(errno.ENOENT, repr(path))
            child = self.nodes[ino]
            if child.type == SYMLINK and (follow or i + 1 < len(names)):
                if child.target.startswith(b"/"):
                    raise FsError(errno.ENOENT, "outside")
                stack: list[bytes] = names[:i]
                for part in child.target.split(b"/"):
                    if part == b"..":
                        if not stack:
                            raise FsError(errno.ENOENT, "outside")
                        stack.pop()
                    elif part not in (b"", b"."):
                        stack.append(part)
                child = self._walk(b"/".join(stack), True, depth + 1)
            node = child
        return node

    def _parent(self, path: bytes, parents: ImplicitDirs | None) -> tuple[Node, bytes]:
        names = [n for n in path.split(b"/") if n]
        node = self.nodes[1]
        for i, name in enumerate(names[:-1]):
            ino = node.children.get(name)
            if ino is None:
                if parents is None:
                    raise FsError(errno.ENOENT, repr(path))
                for missing in names[i:-1]:
                    node = self._make(node, missing, DIRECTORY, parents.mode)
                    node.xattrs.update(parents.xattrs)
                break
            node = self._walk(b"/".join(names[: i + 1]))
            if node.type != DIRECTORY:
                raise FsError(errno.ENOTDIR, repr(path))
        return node, names[-1]

    def _make(self, parent: Node, name: bytes, type_: int, mode: int) -> Node:
        if len(name) > 255:
            raise FsError(errno.ENAMETOOLONG)
        now = self.now_ns()
        node = Node(self.next_ino, type_, mode, now, parent.ino)
        self.next_ino += 1
        self.nodes[node.ino] = node
        parent.children[name] = node.ino
        parent.mtime = parent.ctime = now
        return node

    def add(self, path: bytes, type_: int = FILE, *, data: bytes = b"", target: bytes = b"") -> Node:
        """Test helper: what another front end made, parents included."""
        parent, name = self._parent(path, ImplicitDirs())
        node = self._make(parent, name, type_, 0o644)
        node.data, node.target = data, target
        return node

    def _check(self, condition: Condition | None, node: Node | None) -> None:
        if condition is None:
            return
        if condition.absent:
            if node is not None:
                raise FsError(errno.EEXIST)
            return
        wanted = (condition.ino, condition.mtime_ns, condition.ctime_ns)
        have = (node.ino, node.mtime, node.ctime) if node else (None, None, None)
        if any(w is not None and w != h for w, h in zip(wanted, have, strict=True)):
            raise FsError(errno.ESTALE)

    def _entry(self, name: bytes, ino: int, attrs: bool = True) -> DirEntry:
        node = self.nodes[ino]
        return DirEntry(name, node.type, ino, node.attr if attrs else None)

    def _drop(self, parent: Node, name: bytes) -> None:
        del parent.children[name]
        parent.mtime = parent.ctime = self.now_ns()

    # -- the facade ----------------------------------------------------------------------------------------------

    async def lookup(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, xattrs: bool = False, chunk: bool = False,
        follow: bool = True,
    ) -> Found:  # fmt: skip
        self.trips += 1
        node = self._walk(path, follow)
        return Found(
            node.ino, node.attr, node.parent, dict(node.xattrs) if xattrs else None, b"" if chunk else None
        )  # fmt: skip

    async def list_dir(self, ino: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = True) -> list[DirEntry]:
        self.trips += 1
        node = self.nodes.get(ino)
        if node is None:
            raise FsError(errno.ENOENT)
        out = []
        for name in node.children.irange(after, inclusive=(False, False)) if after else node.children:
            if len(out) >= limit:
                break
            out.append(self._entry(name, node.children[name], attrs))
        return out

    async def stat_entries(self, parent: int, names: Sequence[bytes]) -> list[DirEntry | None]:
        self.trips += 2
        children = self.nodes[parent].children
        return [self._entry(n, children[n]) if n in children else None for n in names]

    async def get_xattrs(self, inos: Sequence[int]) -> list[dict[bytes, bytes]]:
        self.trips += 1
        return [dict(self.nodes[i].xattrs) if i in self.nodes else {} for i in inos]

    async def _iterate(self, ino: int, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        data = self.nodes[ino].data
        for at in range(offset, offset + length, 1 << 18):
            yield memoryview(data)[at : min(at + (1 << 18), offset + length)]

    def iter_range(self, found: Found, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        return self._iterate(found.ino, offset, length)

    def read_nowait(self, found: Found, offset: int, length: int) -> Buffer | None:
        return None

    async def read(self, found: Found, offset: int, length: int) -> Buffer:
        return self.nodes[found.ino].data[offset : offset + length]

    def new_content(self, size_hint: int | None = None) -> ContentWriter:
        return FakeWriter(self)

    async def content_of(self, data: Buffer) -> Content:
        return self._store(bytes(data))

    async def clone_content(self, parts: Sequence[tuple[int, int, int]]) -> Content:
        self.trips += 1
        for ino, _, _ in parts:
            if ino not in self.nodes:
                raise FsError(errno.ENOENT)
        data = b"".join(self.nodes[i].data[o : o + n] for i, o, n in parts)
        content = self._store(data)
        return Content(content.length, content.chunks, content.fresh, sources=tuple((i, 0, b"") for i, _, _ in parts))

    async def publish(
        self, path: bytes, content: Content, caller: Caller = ROOT_CALLER, *, mode: int = 0o644,
        xattrs: Mapping[bytes, bytes] | None = None, mtime_ns: int | None = None, condition: Condition | None = None,
        parents: ImplicitDirs | None = None, replace_empty_dir: bool = False, skip_trash: bool = False,
    ) -> Published:  # fmt: skip
        self.trips += 2
        if self.before_publish:
            self.before_publish(path)
        for ino, _, _ in content.sources:
            if ino not in self.nodes:
                raise SourceChanged(errno.ESTALE)
        try:
            existing = self._walk(path, follow=False)
        except FsError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            existing = None
        self._check(condition, existing)
        parent, name = self._parent(path, parents)
        old = parent.children.get(name)
        is_dir = old is not None and self.nodes[old].type == DIRECTORY
        if is_dir and (not replace_empty_dir or self.nodes[old].children):
            raise FsError(errno.EISDIR, repr(path))
        node = self._make(parent, name, FILE, mode)
        if old is not None:
            del self.nodes[old]
        node.data = b"".join(self.slices[s.id] for s in content.chunks.get(0, []))
        for ident, _, _ in content.fresh:
            self.slices.pop(ident, None)
        node.xattrs.update(xattrs or {})
        if mtime_ns is not None:
            node.mtime = mtime_ns
        return Published(node.ino, node.attr, old is not None)

    async def discard(self, content: Content) -> None:
        for ident, _, _ in content.fresh:
            self.slices.pop(ident, None)

    async def mkdir(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, mode: int = 0o755,
        xattrs: Mapping[bytes, bytes] | None = None, atime_ns: int | None = None, parents: ImplicitDirs | None = None,
    ) -> Found:  # fmt: skip
        self.trips += 2
        parent, name = self._parent(path, parents)
        if name in parent.children:
            raise FsError(errno.EEXIST, repr(path))
        node = self._make(parent, name, DIRECTORY, mode)
        node.xattrs.update(xattrs or {})
        if atime_ns is not None:
            node.atime = atime_ns
        return Found(node.ino, node.attr, parent.ino, dict(node.xattrs))

    async def unlink(
        self, path: bytes, caller: Caller = ROOT_CALLER, *, condition: Condition | None = None, skip_trash: bool = False
    ) -> None:
        self.trips += 2
        node = self._walk(path, follow=False)
        self._check(condition, node)
        if node.type == DIRECTORY:
            raise FsError(errno.EISDIR, repr(path))
        parent, name = self._parent(path, None)
        self._drop(parent, name)
        del self.nodes[node.ino]

    async def rmdir(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> None:
        self.trips += 2
        node = self._walk(path, follow=False)
        if node.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, repr(path))
        if node.children:
            raise FsError(errno.ENOTEMPTY, repr(path))
        parent, name = self._parent(path, None)
        self._drop(parent, name)
        del self.nodes[node.ino]

    async def rename(
        self, source: bytes, target: bytes, caller: Caller = ROOT_CALLER, *, flags: int = 0,
        condition: Condition | None = None,
    ) -> None:  # fmt: skip
        self.trips += 2
        node = self._walk(source, follow=False)
        try:
            existing: Node | None = self._walk(target, follow=False)
        except FsError as e:
            if e.errno != errno.ENOENT:
                raise
            existing = None
        self._check(condition, existing)
        if flags & 1 and existing is not None:
            raise FsError(errno.EEXIST)
        if existing is not None and existing.type == DIRECTORY:
            if node.type != DIRECTORY:
                raise FsError(errno.EISDIR)
            if existing.children:
                raise FsError(errno.ENOTEMPTY)
        elif existing is not None and node.type == DIRECTORY:
            raise FsError(errno.ENOTDIR)
        parent, name = self._parent(target, None)
        old_parent, old_name = self._parent(source, None)
        self._drop(old_parent, old_name)
        parent.children[name] = node.ino
        node.parent = parent.ino
        node.ctime = self.now_ns()

    async def remove_tree(self, path: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False) -> int:
        node = self._walk(path, follow=False)
        count = 1
        for name in list(node.children):
            count += await self.remove_tree(path + b"/" + name)
        parent, name = self._parent(path, None)
        self._drop(parent, name)
        self.nodes.pop(node.ino, None)
        return count

    async def set_times(self, ino: int, *, atime_ns: int | None = None, mtime_ns: int | None = None) -> Attr:
        self.trips += 2
        node = self.nodes[ino]
        if atime_ns is not None:
            node.atime = atime_ns
        if mtime_ns is not None:
            node.mtime = mtime_ns
        node.ctime = self.now_ns()
        return node.attr

    async def set_xattrs(self, ino: int, values: Mapping[bytes, bytes | None]) -> None:
        self.trips += 2
        node = self.nodes.get(ino)
        if node is None:
            raise FsError(errno.ENOENT)
        for name, value in values.items():
            if value is None:
                node.xattrs.pop(name, None)
            else:
                node.xattrs[name] = value
