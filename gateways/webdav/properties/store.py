# SPDX-License-Identifier: Apache-2.0
"""Changing dead properties: read, decide and write the attribute in one transaction, so that servers lose nothing.

Source: spec webdav §4.2, §6.1.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from core.errors import FsError
from core.meta import keys as k
from core.meta.store import Tx
from core.vfs.filesystem import FileSystem
from gateways.webdav.config import MAX_DEAD_BYTES
from gateways.webdav.errors import DavError
from gateways.webdav.properties.dead import X_DEAD, Dead, Name, Unreadable, decode, encode


async def change(fs: FileSystem, ino: int, changes: Mapping[Name, Dead | None]) -> None:
    """Set or (None) remove properties of an inode, all or nothing (2 trips).

    409 if what is stored can't be read, 507 beyond 64 KiB, ENOENT if the inode is gone.
    """
    meta = fs.meta
    meta.require_writable()

    async def body(tx: Tx) -> None:
        attr, raw = await tx.read(k.node(ino), k.xattr(ino, X_DEAD))
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        try:
            properties = decode(raw)
        except Unreadable:
            raise DavError(409, "The stored properties can't be read; they are left as they are.") from None
        before = dict(properties)
        for name, value in changes.items():
            if value is None:
                properties.pop(name, None)
            else:
                properties[name] = value
        if properties == before:
            return
        if not properties:
            tx.delete(k.xattr(ino, X_DEAD))
            meta.log_change(tx, "REMOVEXATTR", ino, X_DEAD)
            return
        raw = encode(properties)
        if len(raw) > min(MAX_DEAD_BYTES, meta.store.caps.max_xattr):
            raise DavError(507, "The properties of one resource may take 64 KiB.")
        tx.put(k.xattr(ino, X_DEAD), raw)
        meta.log_change(tx, "SETXATTR", ino, X_DEAD, raw, 0)

    await meta.store.transact(body)
