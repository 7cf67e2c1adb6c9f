# SPDX-License-Identifier: Apache-2.0
"""A file system in plain dictionaries: what a volume must look like after each operation. Readable before fast.

Only what the state machine compares: names, kinds, link counts, parents, lengths, bytes, targets, extended attributes,
and with which error a call is refused (metadata-semantics §4, §6, §9). No times, no permissions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from core.meta.records import CHUNK_SIZE, DIRECTORY, FILE, ROOT

#: Bytes of a file that may be anything else than zero: its begin, and both sides of the first chunk border.
WINDOWS = ((0, 1 << 20), (CHUNK_SIZE - (1 << 19), CHUNK_SIZE + (1 << 19)))


class Refused(Exception):
    """What the call must fail with; None: it must fail, the order of checks isn't the model's business."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code and errno.errorcode[code])
        self.code = code


class Bytes:
    """Content of a file: two windows, zeros elsewhere."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: dict[int, bytearray] = {}

    def write(self, offset: int, data: bytes) -> None:
        part, at = self._part(offset)
        part[at : at + len(data)] = data
        self.length = max(self.length, offset + len(data))

    def truncate(self, length: int) -> None:
        for begin, part in self._parts.items():
            keep = min(max(length - begin, 0), len(part))
            part[keep:] = bytes(len(part) - keep)
        self.length = length

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.length)
        if end <= offset:
            return b""
        out = bytearray(end - offset)
        for begin, part in self._parts.items():
            low, high = max(begin, offset), min(begin + len(part), end)
            if low < high:
                out[low - offset : high - offset] = part[low - begin : high - begin]
        return bytes(out)

    def zero(self, begin: int, end: int) -> None:
        """A hole; nothing beyond the length changes."""
        for low, part in self._parts.items():
            first, last = max(begin - low, 0), min(end - low, len(part))
            if first < last:
                part[first:last] = bytes(last - first)

    def copy(self) -> Bytes:
        other = Bytes()
        other.length = self.length
        other._parts = {begin: bytearray(part) for begin, part in self._parts.items()}
        return other

    def _part(self, offset: int) -> tuple[bytearray, int]:
        begin, end = next((b, e) for b, e in WINDOWS if b <= offset < e)
        return self._parts.setdefault(begin, bytearray(end - begin)), offset - begin


class Node:
    """A file, directory or symbolic link. `parent` is a directory; None once the node was hard-linked."""

    def __init__(self, kind: int, ino: int, parent: Node | None, target: bytes = b"") -> None:
        self.kind = kind
        self.ino = ino
        self.parent = parent
        self.nlink = 1
        self.target = target
        self.bytes = Bytes()
        self.xattrs: dict[bytes, bytes] = {}
        self.children: dict[bytes, Node] = {}
        self.dirty: int | None = None  # client that has bytes of it which may not be recorded
        self.gone = False  # no name leads to it any more, and it isn't in the trash either

    @property
    def is_dir(self) -> bool:
        return self.kind == DIRECTORY

    def below(self, top: Node) -> bool:
        """Is this directory `top` or somewhere under it?"""
        at: Node | None = self
        while at is not None:
            if at is top:
                return True
            at = at.parent
        return False


class Tree:
    """All names. Operations raise `Refused` and change nothing, or apply."""

    def __init__(self, *, trash: bool) -> None:
        self.root = Node(DIRECTORY, ROOT, None)
        self.trash = trash
        self._trashed: set[tuple[int, int, bytes]] = set()  # names in the trash: parent, inode, name

    # -- looking -------------------------------------------------------------------------------------------------

    def walk(self) -> Iterator[tuple[Node, bytes, Node]]:
        """(directory, name, node) of everything."""
        pending = [self.root]
        while pending:
            directory = pending.pop()
            for name, node in directory.children.items():
                yield directory, name, node
                if node.is_dir:
                    pending.append(node)

    def directories(self) -> list[Node]:
        return [self.root, *(node for _, _, node in self.walk() if node.is_dir)]

    def files(self) -> list[Node]:
        return list(dict.fromkeys(node for _, _, node in self.walk() if node.kind == FILE))

    def path(self, directory: Node, name: bytes) -> bytes:
        names = [name]
        while directory is not self.root:
            assert directory.parent is not None
            names.append(next(n for n, node in directory.parent.children.items() if node is directory))
            directory = directory.parent
        return b"/" + b"/".join(reversed(names))

    def directory_nlink(self, directory: Node) -> int:
        return 2 + sum(child.is_dir for child in directory.children.values())

    # -- changing ------------------------------------------------------------------------------------------------

    def require_free(self, directory: Node, name: bytes) -> None:
        if name in directory.children:
            raise Refused(errno.EEXIST)

    def add(self, directory: Node, name: bytes, kind: int, ino: int, target: bytes = b"") -> Node:
        node = directory.children[name] = Node(kind, ino, directory, target)
        return node

    def require_cloneable(self, node: Node, directory: Node, name: bytes) -> None:
        self.require_free(directory, name)
        if node.is_dir and directory.below(node):
            raise Refused(errno.EINVAL)

    def clone(self, node: Node, directory: Node, name: bytes, inos: Mapping[tuple[bytes, ...], int]) -> None:
        """A copy of a tree; `inos`: which inode each path below the copy got. Hard links become files of their own."""

        def copied(old: Node, parent: Node, path: tuple[bytes, ...]) -> Node:
            new = Node(old.kind, inos[path], parent, old.target)
            new.bytes, new.xattrs = old.bytes.copy(), dict(old.xattrs)
            new.children = {n: copied(child, new, (*path, n)) for n, child in old.children.items()}
            return new

        directory.children[name] = copied(node, directory, ())

    def find(self, directory: Node, name: bytes) -> Node:
        node = directory.children.get(name)
        if node is None:
            raise Refused(errno.ENOENT)
        return node

    def require_linkable(self, node: Node, directory: Node, name: bytes) -> None:
        if node.is_dir:
            raise Refused(errno.EPERM)
        self.require_free(directory, name)

    def link(self, node: Node, directory: Node, name: bytes) -> None:
        directory.children[name] = node
        node.parent = None
        node.nlink += 1

    def require_unlinkable(self, directory: Node, name: bytes) -> Node:
        node = self.find(directory, name)
        if node.is_dir:
            raise Refused(errno.EPERM)
        return node

    def unlink(self, directory: Node, name: bytes) -> None:
        node = directory.children.pop(name)
        if self.trash:
            key = (directory.ino, node.ino, name)
            if node.nlink == 1 or key not in self._trashed:
                self._trashed.add(key)
                return
        node.nlink -= 1
        node.gone = not node.nlink

    def require_rmdir(self, directory: Node, name: bytes) -> None:
        node = self.find(directory, name)
        if not node.is_dir:
            raise Refused(errno.ENOTDIR)
        if node.children:
            raise Refused(errno.ENOTEMPTY)

    def require_rename(self, src: Node, src_name: bytes, dst: Node, dst_name: bytes, flags: int) -> bool:
        """False: allowed, and nothing happens."""
        if flags in (RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE):
            raise Refused(errno.ENOTSUP)
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise Refused(errno.EINVAL)
        node = self.find(src, src_name)
        if src is dst and src_name == dst_name:
            return False
        there = dst.children.get(dst_name)
        exchange = flags == RENAME_EXCHANGE
        if (node.is_dir and dst.below(node)) or (exchange and there and there.is_dir and src.below(there)):
            raise Refused(None)
        if there is None:
            if exchange:
                raise Refused(errno.ENOENT)
            return True
        if flags == RENAME_NOREPLACE:
            raise Refused(errno.EEXIST)
        if exchange:
            return True
        if there is node:
            return False
        if node.is_dir and not there.is_dir:
            raise Refused(errno.ENOTDIR)
        if there.is_dir and not node.is_dir:
            raise Refused(errno.EISDIR)
        if there.children:
            raise Refused(errno.ENOTEMPTY)
        return True

    def rename(self, src: Node, src_name: bytes, dst: Node, dst_name: bytes, flags: int) -> None:
        there = dst.children.get(dst_name)
        if flags == RENAME_EXCHANGE:
            assert there is not None
            src.children[src_name], dst.children[dst_name] = there, src.children[src_name]
            self._hang(there, src)
        else:
            if there is not None and not there.is_dir:
                self.unlink(dst, dst_name)
            dst.children[dst_name] = src.children.pop(src_name)
        self._hang(dst.children[dst_name], dst)

    @staticmethod
    def _hang(node: Node, directory: Node) -> None:
        if node.parent is not None:
            node.parent = directory
