# SPDX-License-Identifier: Apache-2.0
"""What one user sees of the volume: a root, and paths below it that are resolved without ever leaving it.

Links are followed here, not in the core, because each step has to stay inside the export and off the hidden names;
later calls get the path that came out, which holds no links. Source: spec webdav §2.3, §16.2, §20.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.base import EXECUTE
from core.meta.records import DIRECTORY, FILE, ROOT, SYMLINK
from core.vfs.api import ROOT_CALLER, Caller
from core.vfs.filesystem import MAX_SYMLINKS, FileSystem, Found, split
from gateways.webdav.errors import DavError
from gateways.webdav.names import TRASH, Path, is_hidden, starts_with, volume_bytes


class Node(NamedTuple):
    """A resource. path: as asked, below the export's root; real: where it lies on the volume, free of links."""

    path: Path
    real: Path
    found: Found

    @property
    def is_dir(self) -> bool:
        return self.found.attr.is_dir

    @property
    def ino(self) -> int:
        return self.found.ino


_SHOWN: Final = frozenset({FILE, DIRECTORY, SYMLINK})


class Export:
    """The part of a volume that a user may see, and as whom it is read and written."""

    def __init__(
        self, fs: FileSystem, root: Path = (), *, caller: Caller = ROOT_CALLER, read_only: bool = False,
        show_trash: bool = False,
    ) -> None:  # fmt: skip
        self.fs = fs
        self.root = root
        self.caller = caller
        self.read_only = read_only
        #: Only where the volume's root is served: whose files lie there can't be told.
        self.show_trash = show_trash and not root and not caller.uid

    def place(self, path: Path) -> Path:
        """The volume path of a request path, before any link."""
        return self.root + path

    def hides(self, path: Path) -> bool:
        return is_hidden(self.root + path, show_trash=self.show_trash)

    def in_trash(self, path: Path) -> bool:
        """Is it what was removed? Shown to be read and to be moved out, nothing else."""
        return self.show_trash and path[:1] == (TRASH,)

    async def find(self, path: Path, *, follow: bool = True, chunk: bool = False) -> Node | None:
        """The resource, or None: missing, hidden, a device, or behind a link that dangles, loops or leads out.

        One trip, more only for links. EACCES if the caller may not pass.
        """
        names = self.root + path
        for _ in range(MAX_SYMLINKS):
            if is_hidden(names, show_trash=self.show_trash) or not starts_with(names, self.root):
                return None
            meta = self.fs.meta
            resolved = await meta.resolve(ROOT, list(names), xattrs=True, chunk=chunk)
            steps = resolved.steps
            ino, attr, link = ROOT, resolved.base, -1
            for at, step in enumerate(steps):
                if attr is not None and self.caller.uid:
                    await meta.require_access(self.caller, ino, attr, EXECUTE)
                if step.entry.type == SYMLINK and (follow or at < len(names) - 1):
                    link = at
                    break
                ino, attr = step.entry.ino, step.attr
            if link < 0:
                if len(steps) < len(names) or attr is None or attr.type not in _SHOWN:
                    return None
                parent = steps[-2].entry.ino if len(steps) > 1 else ROOT
                return Node(path, names, Found(ino, attr, parent, resolved.xattrs, resolved.chunk))
            target = self._target(names, link, await meta.readlink(steps[link].entry.ino))
            if target is None:
                return None
            names = target
        return None

    def _target(self, names: Path, at: int, text: bytes) -> Path | None:
        """`names` with the link at `at` replaced; None if it leads out. Absolute targets belong to another tree."""
        if text.startswith(b"/"):
            return None
        result = list(names[:at])
        for part in split(text):
            if part == b"..":
                if len(result) <= len(self.root):
                    return None
                result.pop()
            elif part != b".":
                result.append(part)
        return (*result, *names[at + 1 :])

    async def find_parent(self, path: Path) -> Node:
        """The collection that holds the last name; 409 if there is none (§8, §10, §11)."""
        node = await self.find(path[:-1])
        if node is None or not node.is_dir:
            raise DavError(409, "The collection that should hold it is missing or is a file.")
        return node

    async def link_end(self, node: Node) -> Node:
        """Like `node`, but a link at its end stays a link: what DELETE and MOVE act on."""
        if not node.path:
            return node
        found = await self.find(node.path, follow=False)
        return found if found is not None else node

    def bytes_of(self, real: Path) -> bytes:
        return volume_bytes(real)


def is_missing(error: FsError) -> bool:
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
