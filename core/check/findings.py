# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a volume, one finding each.

Source: spec metadata-semantics §1.2, §14.2; metadata-format §1.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from core.meta.records import DIRECTORY

#: Kinds of findings: what is wrong, and whether it can be set right.
KINDS: Final[dict[str, tuple[str, bool]]] = {
    "counters": ("the volume's usage counters differ from a recount", True),
    "no-directory": ("entries lie in a directory that doesn't exist and that nothing names", False),
    "no-inode": ("an entry names an inode that doesn't exist", True),  # directories only
    "type": ("an entry says another type than its inode", True),
    "no-entry": ("an inode is in no directory and nobody has it open", True),
    "twice": ("a directory has more than one entry", False),
    "nlink": ("a link count differs from the number of entries", True),
    "parent": ("an inode names another parent than the one that holds it", True),
    "dirstat": ("the statistics of a directory differ from a recount", True),
    "quota": ("the usage of a directory's quota differs from a recount", True),
    "no-quota-directory": ("a quota is on a directory that doesn't exist", True),
    "owner-quota": ("the usage of a user (1) or group (2) differs from a recount", True),
    "chunk": ("slice records can't be read", False),
    "lost-chunk": ("slices belong to a file that doesn't exist and isn't being deleted", True),
    "delayed": ("a record of slices that a compaction replaced can't be read whole", False),
    "references": ("a slice is counted less often than it is used", True),
    "overcounted": ("a slice is counted more often than it is used (`sluice gc --delete` sets old ones right)", False),
    "symlink": ("a symbolic link has no target", False),
    "acl": ("an inode refers to an access control list that doesn't exist", False),
    "detached": ("a clone was never finished; its tree is in no directory", True),
    "session": ("a removed file is held open for a client that isn't registered", True),
    "object": ("an object that a file needs is missing", False),
    "object-size": ("an object that a file needs has a size that it can't have", False),
    "object-data": ("an object that a file needs can't be read, or isn't what it was", False),
}

#: Kinds about objects; `core/check/salvage.py` can set some of them right from copies.
OBJECTS: Final = ("object", "object-size", "object-data")


class Finding(NamedTuple):
    """One thing that is wrong. key: inode, or what else identifies it within its kind."""

    kind: str
    key: tuple[Any, ...]
    stored: Any
    expected: Any
    path: str = ""
    #: Of an object: (offset, length) in the file of the bytes that are lost with it.
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def repairable(self) -> bool:
        if self.kind == "no-inode":
            return bool(self.key[3] == DIRECTORY)
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        if self.kind in OBJECTS:
            lost = ", ".join(f"{offset}+{length}" for offset, length in self.ranges[:8])
            more = f" and {len(self.ranges) - 8} more" if len(self.ranges) > 8 else ""
            lost = f"; bytes {lost}{more} of the file are lost" if lost else "; no byte of it is visible"
            return f"{where}{KINDS[self.kind][0]}: {self.key[1]}: {self.stored}{lost}"
        return f"{where}{KINDS[self.kind][0]}: {self.key}: stored {self.stored}, expected {self.expected}"
