# SPDX-License-Identifier: Apache-2.0
"""The parts of a JSON dump as types: msgspec checks structure, types and ranges, and says where they are wrong.

Ranges: spec metadata-format §1; fields: metadata-semantics §15.1.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from core.meta.acl import Rule
from core.meta.records import MAX_FILE_LENGTH

_I63: Final = (1 << 63) - 1
U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
U63 = Annotated[int, msgspec.Meta(ge=0, le=_I63)]
Id = Annotated[int, msgspec.Meta(ge=1, le=_I63)]
I64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=_I63)]
Index = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
Mode = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=999_999_999)]
Length = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_LENGTH - 1)]
Tier = Annotated[int, msgspec.Meta(ge=0, le=3)]
Type = Literal["regular", "directory", "symlink", "fifo", "blockdev", "chardev", "socket"]

TYPES: Final[dict[str, int]] = {
    "regular": 1, "directory": 2, "symlink": 3, "fifo": 4, "blockdev": 5, "chardev": 6, "socket": 7,
}  # fmt: skip


class AttrDoc(msgspec.Struct, gc=False):
    inode: Id
    type: Type
    mode: Mode
    uid: U32
    gid: U32
    atime: I64
    mtime: I64
    ctime: I64
    nlink: U32 = 1
    length: Length = 0
    flags: U8 = 0
    atimensec: Nanoseconds = 0
    mtimensec: Nanoseconds = 0
    ctimensec: Nanoseconds = 0
    rdev: U32 = 0
    tier: Tier = 0


class SliceDoc(msgspec.Struct, gc=False):
    size: U32
    len: U32
    id: U63 = 0
    chunkid: U63 = 0  # how dumps before 1.0 call it
    pos: U32 = 0
    off: U32 = 0


class ChunkDoc(msgspec.Struct, gc=False):
    index: Index
    slices: list[SliceDoc] | None = None


class XattrDoc(msgspec.Struct, gc=False):
    name: str
    value: str = ""


class NamedDoc(msgspec.Struct, gc=False):
    id: U32
    perm: U16


class AclDoc(msgspec.Struct, gc=False):
    owner: U16
    group: U16
    other: U16
    mask: U16
    users: list[NamedDoc] | None = None
    groups: list[NamedDoc] | None = None

    def rule(self) -> Rule:
        return Rule(
            self.owner, self.group, self.mask, self.other,
            tuple((e.id, e.perm) for e in self.users or ()), tuple((e.id, e.perm) for e in self.groups or ()),
        )  # fmt: skip


class EntryDoc(msgspec.Struct, gc=False):
    """Without `entries`, which the reader walks itself."""

    attr: AttrDoc
    symlink: str | None = None
    xattrs: list[XattrDoc] | None = None
    posix_acl_access: AclDoc | None = None
    posix_acl_default: AclDoc | None = None
    chunks: list[ChunkDoc] | None = None


ENTRY_KEYS: Final = frozenset(EntryDoc.__struct_fields__)
ATTR_KEYS: Final = frozenset(AttrDoc.__struct_fields__)


class DelFileDoc(msgspec.Struct):
    inode: Id
    length: Length
    expire: I64 = 0


class QuotaDoc(msgspec.Struct):
    maxSpace: I64 = -1
    maxInodes: I64 = -1


def problem_of(error: msgspec.ValidationError, prefix: str = "") -> str:
    """msgspec's words, with the place in ours: `attr.mode: Expected …`."""
    text, _, place = str(error).partition(" - at `$")
    place = (prefix + place.rstrip("`")).strip(".")
    return f"{place}: {text}" if place else text


def as_entry(found: dict[str, Any]) -> EntryDoc:
    return msgspec.convert(found, EntryDoc)
