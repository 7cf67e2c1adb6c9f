# SPDX-License-Identifier: Apache-2.0
"""What a name, a link target and a slice record must be like in any volume. Pure; spec metadata-format §1, §3.1."""

from __future__ import annotations

from typing import Final

from core.meta.records import CHUNK_SIZE, MAX_NAME, MAX_SYMLINK, ROOT, Slice

_MAX_ID: Final = (1 << 63) - 1


def bad_name(name: bytes, parent: int = 0, trash: int = 0) -> str:
    """Why a name can't be; "" if it can."""
    if not 0 < len(name) <= MAX_NAME:
        return f"a name must have 1 to {MAX_NAME} bytes, this one has {len(name)}"
    if b"/" in name or b"\0" in name:
        return "a name with a slash or a zero byte"
    if name in (b".", b".."):
        return "a name that every directory has by itself"
    if parent == ROOT and not trash and name == b".trash":
        return "the name .trash is reserved in the root"
    return ""


def bad_target(target: bytes) -> str:
    if not 0 < len(target) <= MAX_SYMLINK:
        return f"the target of a symbolic link must have 1 to {MAX_SYMLINK} bytes, this one has {len(target)}"
    return "the target of a symbolic link holds a zero byte" if b"\0" in target else ""


def bad_slice(s: Slice) -> str:
    if s.pos + s.length > CHUNK_SIZE:
        return "a slice that reaches beyond its chunk"
    if s.id and s.off + s.length > s.size:
        return "a slice that uses more than it has"
    if s.id > _MAX_ID:
        return "a slice with an impossible id"
    return ""
