# SPDX-License-Identifier: Apache-2.0
"""POSIX ACL rules: codecs, inheritance and the access algorithm. Pure.

Source: format §1.12 (stored form), semantics §5.6 (external form, algorithm).
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from core.errors import FsError

UNDEFINED: Final = 0xFFFF
XATTR_ACCESS: Final = b"system.posix_acl_access"
XATTR_DEFAULT: Final = b"system.posix_acl_default"

_HEAD = struct.Struct(">HHHHI")
_NAMED = struct.Struct(">IH")
_COUNT = struct.Struct(">I")
# External entries are in native byte order; every platform we run on is little endian.
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 0x10, 0x20
_NO_ID = 0xFFFFFFFF


class Rule(msgspec.Struct, frozen=True):
    """One ACL. Permissions are three bits; UNDEFINED where a field is absent."""

    owner: int = UNDEFINED
    group: int = UNDEFINED
    mask: int = UNDEFINED
    other: int = UNDEFINED
    users: tuple[tuple[int, int], ...] = ()
    groups: tuple[tuple[int, int], ...] = ()

    @property
    def empty(self) -> bool:
        return not self.users and not self.groups and (self.owner & self.group & self.mask & self.other) == UNDEFINED

    @property
    def minimal(self) -> bool:
        return not self.users and not self.groups and self.mask == UNDEFINED

    @property
    def mode(self) -> int:
        middle = self.group if self.minimal else self.mask
        return (self.owner & 7) << 6 | (middle & 7) << 3 | self.other & 7


def encode(rule: Rule) -> bytes:
    parts = [_HEAD.pack(rule.owner, rule.group, rule.mask, rule.other, len(rule.users))]
    parts += [_NAMED.pack(*e) for e in rule.users]
    parts.append(_COUNT.pack(len(rule.groups)))
    parts += [_NAMED.pack(*e) for e in rule.groups]
    return b"".join(parts)


def decode(raw: bytes) -> Rule:
    """Raises ValueError on a damaged record."""
    try:
        owner, group, mask, other, users_n = _HEAD.unpack_from(raw)
        at = _HEAD.size
        users = tuple(_NAMED.iter_unpack(raw[at : at + 6 * users_n]))
        at += 6 * users_n
        (groups_n,) = _COUNT.unpack_from(raw, at)
        at += 4
        groups = tuple(_NAMED.iter_unpack(raw[at : at + 6 * groups_n]))
    except struct.error as e:
        raise ValueError(f"ACL record of {len(raw)} bytes is damaged") from e
    if len(users) != users_n or len(groups) != groups_n:
        raise ValueError(f"ACL record of {len(raw)} bytes is cut")
    return Rule(owner, group, mask, other, users, groups)


def to_xattr(rule: Rule) -> bytes:
    """Value of system.posix_acl_*: version 2, then entries in the kernel's order."""
    entries = [(_USER_OBJ, rule.owner, _NO_ID)]
    entries += [(_USER, perm, ident) for ident, perm in rule.users]
    entries.append((_GROUP_OBJ, rule.group, _NO_ID))
    entries += [(_GROUP, perm, ident) for ident, perm in rule.groups]
    if rule.mask != UNDEFINED:
        entries.append((_MASK, rule.mask, _NO_ID))
    entries.append((_OTHER, rule.other, _NO_ID))
    return struct.pack("<I", 2) + b"".join(_ENTRY.pack(*e) for e in entries)


def from_xattr(raw: bytes) -> Rule:
    """Inverse of `to_xattr`; EINVAL on anything malformed. No entries at all mean the empty rule."""
    bad = FsError(errno.EINVAL, "malformed POSIX ACL value: expected version 2 and 8-byte entries")
    if len(raw) < 4 or (len(raw) - 4) % 8 or struct.unpack_from("<I", raw)[0] != 2:
        raise bad
    single: dict[int, int] = {}
    users: list[tuple[int, int]] = []
    groups: list[tuple[int, int]] = []
    for tag, perm, ident in _ENTRY.iter_unpack(raw[4:]):
        if tag == _USER:
            users.append((ident, perm))
        elif tag == _GROUP:
            groups.append((ident, perm))
        elif tag in (_USER_OBJ, _GROUP_OBJ, _MASK, _OTHER) and tag not in single:
            single[tag] = perm
        else:
            raise bad
    if (users or groups) and _MASK not in single:
        raise bad
    return Rule(
        single.get(_USER_OBJ, UNDEFINED), single.get(_GROUP_OBJ, UNDEFINED), single.get(_MASK, UNDEFINED),
        single.get(_OTHER, UNDEFINED), tuple(users), tuple(groups),
    )  # fmt: skip


def inherit(default: Rule, requested: int) -> tuple[int, Rule | None]:
    """Mode and access rule of a node created under a default ACL (umask does not apply)."""
    special = requested & 0xFE00
    if default.minimal:
        return requested & (0xFE00 | default.mode), None
    rule = Rule(
        requested >> 6 & 7 & default.owner, default.group, requested >> 3 & 7 & default.mask,
        requested & 7 & default.other, default.users, default.groups,
    )  # fmt: skip
    return special | rule.mode, rule


def with_mode(rule: Rule, mode: int) -> Rule:
    """chmod on a node with an access ACL: a copy with the new owner, mask (or group) and other bits."""
    changes = {"owner": mode >> 6 & 7, "other": mode & 7, ("group" if rule.minimal else "mask"): mode >> 3 & 7}
    return msgspec.structs.replace(rule, **changes)


def permits(rule: Rule, uid: int, gids: Sequence[int], owner: int, group: int, wanted: int) -> bool:
    """May a caller (not root) with this uid and groups do `wanted` (4 read, 2 write, 1 execute)?"""
    if uid == owner:
        return rule.owner & 7 & wanted == wanted
    for ident, perm in rule.users:
        if ident == uid:
            return perm & rule.mask & 7 & wanted == wanted
    matched = False
    if group in gids:
        matched = True
        if rule.group & rule.mask & 7 & wanted == wanted:
            return True
    for ident, perm in rule.groups:
        if ident in gids:
            matched = True
            if perm & rule.mask & 7 & wanted == wanted:
                return True
    return not matched and rule.other & 7 & wanted == wanted
