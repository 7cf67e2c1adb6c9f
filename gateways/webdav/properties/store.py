# SPDX-License-Identifier: Apache-2.0
"""Changing dead properties: all or nothing, in one transaction of the core, so that servers lose nothing.

Source: spec webdav §4.2, §6.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from core.vfs.filesystem import FileSystem
from gateways.webdav.config import MAX_DEAD_BYTES
from gateways.webdav.errors import DavError
from gateways.webdav.properties.dead import X_DEAD, Dead, Name, Unreadable, decode, encode


async def change(fs: FileSystem, ino: int, changes: Mapping[Name, Dead | None]) -> None:
    """Set or (None) remove properties of an inode (2 trips).

    409 if what is stored can't be read, 507 beyond 64 KiB, ENOENT if the inode is gone.
    """
    most = min(MAX_DEAD_BYTES, fs.meta.store.caps.max_xattr)

    def changed(raw: bytes | None) -> bytes | None:
        try:
            before = decode(raw)
        except Unreadable:
            raise DavError(409, "The stored properties can't be read; they are left as they are.") from None
        properties = dict(before)
        for name, value in changes.items():
            if value is None:
                properties.pop(name, None)
            else:
                properties[name] = value
        if properties == before:
            return raw
        if not properties:
            return None
        new = encode(properties)
        if len(new) > most:
            raise DavError(507, "The properties of one resource may take 64 KiB.")
        return new

    await fs.meta.update_xattr(ino, X_DEAD, changed)
