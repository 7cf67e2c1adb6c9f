# SPDX-License-Identifier: Apache-2.0
"""The binary backup's messages and framing: segment numbers, protobuf classes, footer.

    file    = segment* end-mark footer footer-length(u64)
    segment = type(u32) payload-length(u64) payload          integers big endian
    end mark = 0x00747083

The protobuf library does the wire format (C inside, faster than any Python codec; docs/backup.md has figures); its
classes are made here from a table, so there is no generated code. Text fields are declared as bytes, the same on the
wire, because names of extended attributes need not be UTF-8. Source: spec metadata-semantics §15.3.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MAGIC: Final = 0x747083
VERSION: Final = 1
HEAD: Final = struct.Struct(">IQ")
MARK: Final = struct.Struct(">I")
FOOTER_LENGTH: Final = struct.Struct(">Q")

#: Segment type -> (name in the footer, lists of the batch that it may fill). Type 1 carries Format instead.
SEGMENTS: Final[dict[int, tuple[str, tuple[str, ...]]]] = {
    1: ("format", ()),
    2: ("counter", ("counters",)),
    3: ("node", ("nodes",)),
    4: ("edge", ("edges",)),
    5: ("chunk", ("chunks",)),
    6: ("sliceRef", ("sliceRefs",)),
    7: ("symlink", ("symlinks",)),
    8: ("sustained", ("sustained",)),
    9: ("delFile", ("delfiles",)),
    10: ("xattr", ("xattrs",)),
    11: ("acl", ("acls",)),
    12: ("stat", ("dirstats",)),
    13: ("quota", ("quotas", "userQuotas", "groupQuotas")),
    14: ("parent", ("parents",)),
    15: ("changeLog", ("changelogs",)),
}
TYPE_OF: Final = {name: number for number, (name, _) in SEGMENTS.items()}

_F = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "bytes": _F.TYPE_BYTES, "int64": _F.TYPE_INT64, "uint64": _F.TYPE_UINT64, "uint32": _F.TYPE_UINT32,
}  # fmt: skip

#: Message -> fields in the order of their numbers; `*` repeated; other types are messages.
_MESSAGES: Final[dict[str, str]] = {
    "Format": "data bytes",
    "Counter": "key bytes, value int64",
    "Sustained": "sid uint64, inodes *uint64",
    "DelFile": "inode uint64, length uint64, expire int64",
    "SliceRef": "id uint64, size uint32, refs int64",
    "Acl": "id uint32, data bytes",
    "Xattr": "inode uint64, name bytes, value bytes",
    "Quota": "key uint64, maxSpace int64, maxInodes int64, usedSpace int64, usedInodes int64, type uint32",
    "Stat": "inode uint64, dataLength int64, usedSpace int64, usedInodes int64",
    "Node": "inode uint64, data bytes",
    "Edge": "parent uint64, inode uint64, name bytes, type uint32",
    "Parent": "inode uint64, parent uint64, cnt int64",
    "Chunk": "inode uint64, index uint32, slices bytes",
    "Symlink": "inode uint64, target bytes",
    "ChangeLog": "version int64, entry bytes",
    "Batch": "nodes *Node, edges *Edge, chunks *Chunk, sliceRefs *SliceRef, xattrs *Xattr, parents *Parent,"
    " symlinks *Symlink, sustained *Sustained, delfiles *DelFile, dirstats *Stat, quotas *Quota, acls *Acl,"
    " counters *Counter, changelogs *ChangeLog, userQuotas *Quota, groupQuotas *Quota",
    "SegInfo": "offset *uint64, num uint64",
    # A map on the wire is a list of such pairs.
    "SegInfoOf": "key bytes, value SegInfo",
    "Footer": "magic uint32, version uint32, infos *SegInfoOf",
}


def _build() -> dict[str, Any]:
    package = "sluicefs.backup"
    file = descriptor_pb2.FileDescriptorProto(name="sluicefs/backup.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(","), 1):
            label, kind = field.split()
            repeated, kind = kind.startswith("*"), kind.lstrip("*")
            made = message.field.add(
                name=label, number=number, label=_F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            )
            if kind in _SCALARS:
                made.type = _SCALARS[kind]
            else:
                made.type = _F.TYPE_MESSAGE
                made.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()
Format: Final = _CLASSES["Format"]
Batch: Final = _CLASSES["Batch"]
Footer: Final = _CLASSES["Footer"]
