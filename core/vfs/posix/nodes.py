# SPDX-License-Identifier: Apache-2.0
"""What all parts of the POSIX surface share: inode numbers as the mount shows them, attributes, special names.

An inode of a call is the mount's: 1 is its root, which with --subdir is another directory of the volume. `real` and
`shown` translate; nothing below this package knows about it. Source: metadata-semantics §1.4, §9, §12.1.
"""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from core.errors import FsError
from core.meta.base import show
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, FILE, MAX_NAME, ROOT, TRASH, TRASH_NAME, Attr
from core.vfs.keeper import Keeper, NoKeeper
from core.vfs.layouts import LEAST
from core.vfs.posix.aside import Aside
from core.vfs.posix.config import PosixConfig
from core.vfs.vfs import VFS

if TYPE_CHECKING:
    from core.vfs.posix.listing import Listing

#: What special files are called with --prefix-internal (semantics §12.1).
PREFIX: Final = b".jfs"
_MOST_MADE_OLD: Final = 10_000

#: Directories remembered for the case that they are removed while in use.
_MAX_TOLD: Final = 2048
_MAX_NO_ACL: Final = 65_536
ACL_FRESH_S: Final = 1.0


class Node(NamedTuple):
    """An inode as the mount shows it. blocks: 512 bytes each, holes not counted."""

    ino: int
    attr: Attr
    blocks: int


class SpecialFiles(Protocol):
    """Files that exist in this process only (`core.vfs.internal`). Parents and inodes are the mount's."""

    def is_internal(self, ino: int) -> bool: ...

    def find(self, parent: int, name: bytes) -> Node | None: ...

    def node(self, ino: int) -> Node: ...

    def entries(self) -> Iterable[tuple[bytes, Node]]:
        """Of the root, in the order in which they are listed."""


class PosixBase:
    """State of one mount, and the small rules. Each mixin of `Posix` is one concern, in a module of that name."""

    def __init__(
        self, vfs: VFS, config: PosixConfig | None = None, keeper: Keeper | None = None,
        internal: SpecialFiles | None = None,
    ) -> None:  # fmt: skip
        self.vfs = vfs
        self.meta: Meta = vfs.meta
        self.config = config or PosixConfig()
        self.keeper: Keeper = keeper or NoKeeper()
        self.internal = internal
        self.trash_name = PREFIX + TRASH_NAME if self.config.prefix_internal else TRASH_NAME
        self._root = self.config.root
        self._made_old: set[int] = set()  # real directories whose attributes the client forgot because of our change
        self._listings: dict[int, set[Listing]] = {}  # real directory -> open listings that hold entries of it
        self._told: OrderedDict[int, Attr] = OrderedDict()  # directories whose attributes were told lately
        self._removed: OrderedDict[int, Attr] = OrderedDict()  # those that were removed here since
        self._aside = Aside()
        self._acl = self.config.acl
        self._no_acl: dict[int, float] = {}  # inodes that were seen to have no ACL, and when; only with ACLs
        self._acl_set: OrderedDict[int, None] = OrderedDict()  # those that got one here: looks may be from before

    # -- numbers -----------------------------------------------------------------------------------------------------

    def real(self, ino: int) -> int:
        """Inode of the volume for one that the mount uses."""
        return self._root if ino == ROOT else ino

    def shown(self, ino: int) -> int:
        """Inode of the mount for one of the volume."""
        return ROOT if ino == self._root else ino

    # -- nodes -------------------------------------------------------------------------------------------------------

    def blocks(self, ino: int, attr: Attr) -> int:
        """512-byte blocks in use, as far as that can be told without asking anybody; ino is real."""
        return self.vfs.blocks(ino, attr) if attr.type == FILE else (attr.length + 511) >> 9

    async def node(self, ino: int, attr: Attr, since: int | None = None) -> Node:
        """The node of a real inode whose attributes were read after `vfs.commits.count` was `since`; None: they are
        the VFS's own answer, which counts what is buffered."""
        if since is not None and attr.type == FILE:
            seen = self.vfs.looked_nowait(ino, attr, since)
            attr = await self.vfs.looked(ino, attr, since) if seen is None else seen
        elif attr.type == DIRECTORY:
            self.told(ino, attr)
        if self._acl:
            self.saw_acl(ino, attr)
        return Node(self.shown(ino), attr, self.blocks(ino, attr))

    def saw_acl(self, ino: int, attr: Attr) -> None:
        """The kernel asks for the ACLs of each inode it is told of, and most have none: that need not cost a trip."""
        if attr.access_acl or attr.default_acl or ino in self._acl_set:
            self._no_acl.pop(ino, None)
            return
        if len(self._no_acl) >= _MAX_NO_ACL:
            self._no_acl.clear()
        self._no_acl[ino] = time.monotonic()

    def acl_set(self, ino: int) -> None:
        self._no_acl.pop(ino, None)
        self._acl_set[ino] = None
        if len(self._acl_set) > _MAX_TOLD:
            self._acl_set.popitem(last=False)

    def has_no_acl(self, ino: int) -> bool:
        """True: that was seen within the time for which attributes are believed."""
        at = self._no_acl.get(ino)
        return at is not None and time.monotonic() - at < ACL_FRESH_S

    # A directory that was removed may still be somebody's working directory, or open.

    def told(self, ino: int, attr: Attr) -> None:
        """Attributes of a directory went to the kernel: all that will be known of it once it is removed."""
        told = self._told
        told[ino] = attr
        if len(told) > _MAX_TOLD:
            told.popitem(last=False)

    def directory_removed(self, ino: int) -> None:
        """By this mount: remembered until the kernel forgets it, as far as there is room."""
        attr = self._told.pop(ino, None)
        if attr is not None:
            self._removed[ino] = msgspec.structs.replace(attr, nlink=0, ctime_ns=self.meta.clock_ns())
            if len(self._removed) > _MAX_TOLD:
                self._removed.popitem(last=False)

    def removed_directory(self, ino: int) -> Attr | None:
        """Attributes of a directory that isn't there any more, whoever removed it."""
        if ino in self._told:
            self.directory_removed(ino)
        return self._removed.get(ino)

    def forget(self, ino: int) -> None:
        """The kernel doesn't know the inode any more."""
        if self._removed:
            self._removed.pop(ino, None)

    def is_settled(self, node: Node) -> bool:
        """False: looking again would tell more (how much of a large file are holes), so nobody should remember it."""
        attr = node.attr
        return attr.type != FILE or attr.length < LEAST or self.vfs.blocks_known(node.ino, attr)

    # -- rules -------------------------------------------------------------------------------------------------------

    def require_writable(self) -> None:
        if self.config.read_only:
            raise FsError(errno.EROFS, "the volume is mounted read-only; mount it without --read-only to change it")

    @staticmethod
    def require_length(name: bytes) -> None:
        if len(name) > MAX_NAME:
            raise FsError(errno.ENAMETOOLONG, f"file name of {len(name)} bytes; at most {MAX_NAME} are possible")

    def is_trash(self, parent: int, name: bytes) -> bool:
        """Is this the name of the trash? Only the volume's real root shows it."""
        return parent == ROOT and self._root == ROOT and name == self.trash_name

    def find_special(self, parent: int, name: bytes) -> Node | None:
        """A file of this process by that name. The common name doesn't cost a call."""
        if self.internal is None or name[:1] != b".":
            return None
        return self.internal.find(parent, name)

    def is_special(self, parent: int, name: bytes) -> bool:
        """Is the name taken by the mount? Only in its root: what is found elsewhere gives way to files of users."""
        return (
            parent == ROOT
            and name[:1] == b"."
            and (self.is_trash(parent, name) or self.find_special(parent, name) is not None)
        )

    def is_special_inode(self, ino: int) -> bool:
        return self.internal is not None and self.internal.is_internal(ino)

    def require_free_name(self, parent: int, name: bytes) -> None:
        """Before something is created under a name: ENAMETOOLONG, EEXIST."""
        self.require_length(name)
        if self.is_special(parent, name):
            raise FsError(errno.EEXIST, f"{show(name)}: is a special name of every mount's root")

    def require_ordinary_name(self, parent: int, name: bytes) -> None:
        """Before a name is removed or replaced: ENAMETOOLONG, EPERM."""
        self.require_length(name)
        if self.is_special(parent, name):
            raise FsError(errno.EPERM, f"{show(name)}: is special; it can't be removed, renamed or replaced")

    def require_ordinary_inode(self, ino: int) -> None:
        if self.is_special_inode(ino):
            raise FsError(errno.EPERM, f"inode {ino} is a special file of this mount; it can't be changed")

    # -- what open listings must know --------------------------------------------------------------------------------

    def entry_removed(self, parent: int, name: bytes) -> None:
        """This mount removed a name of a real directory."""
        for listing in self._listings.get(parent, ()):
            listing.removed(name)

    def entry_replaced(self, parent: int, name: bytes) -> None:
        """Another node may have this name of a real directory now."""
        for listing in self._listings.get(parent, ()):
            listing.replaced(name)

    def entries_changed(self, parent: int) -> None:
        """This mount made, removed or moved a name of a real directory."""
        self.changed(parent)
        if len(self._made_old) >= _MOST_MADE_OLD:
            self._made_old.clear()
        self._made_old.add(parent)

    def changed(self, ino: int) -> None:
        """This mount changed, or may soon change, attributes of a real inode: what a listing read ahead is old.

        To be called when a file is opened for writing, too: what is written changes length and times later.
        """
        for listings in self._listings.values():
            for listing in listings:
                listing.touched.add(ino)


__all__ = ["DIRECTORY", "FILE", "PREFIX", "ROOT", "TRASH", "Node", "PosixBase", "SpecialFiles"]
