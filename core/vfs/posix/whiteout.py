# SPDX-License-Identifier: Apache-2.0
"""RENAME_WHITEOUT: a rename that leaves a whiteout (a character device 0/0) under the old name, as overlay file systems
ask for.

One transaction: the metadata engine's own rename, whose removal of the old entry becomes the whiteout's entry. Other
clients of the volume see an ordinary device node. Source: rename(2); metadata-semantics §4.3, §4.7.
"""

from __future__ import annotations

from core.meta import keys as k
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.namespace import RENAME_NOREPLACE, RENAME_WHITEOUT
from core.meta.records import CHARDEV, TRASH
from core.meta.store import DELETE, PATCH, PUT, Tx


async def rename_with_whiteout(
    meta: Meta, src: int, src_name: bytes, dst: int, dst_name: bytes, flags: int, caller: Caller,
    who: Caller,
) -> int:  # fmt: skip
    """Returns the inode that moved. flags: RENAME_WHITEOUT, with RENAME_NOREPLACE or without. caller: who gets the
    whiteout; who: on whose authority things move."""
    if src >= TRASH or dst >= TRASH or meta.is_trash_name(src, src_name) or meta.is_trash_name(dst, dst_name):
        # The engine refuses it with the right words; nobody lays whiteouts in the trash.
        return await meta.rename(src, src_name, dst, dst_name, flags, who)
    meta.require_writable()
    meta.require_name(dst_name)
    trash = await meta.trash_dir(dst)
    ino = meta.inodes.take_nowait() or await meta.inodes.take()

    async def body(tx: Tx) -> tuple[Tx, int]:
        found = await tx.walk((src, [src_name]), (dst, [dst_name]), last_free=True)
        plain = flags & RENAME_NOREPLACE & ~RENAME_WHITEOUT
        moved = await meta._rename(tx, found, (src, src_name), (dst, dst_name), plain, who, trash, None)
        gone = (DELETE, k.entry(src, src_name), None)
        if gone not in tx.writes:
            return tx, moved  # the same name, or two names of one inode: nothing moves, nothing is left behind
        tx.writes.remove(gone)
        pattr = found[0].base
        assert pattr is not None
        now = meta.clock_ns()
        attr = await meta.new_attr(src, pattr, caller, CHARDEV, 0, 0, now)
        # The rename checked that directory, and touched its times already.
        touches = len(tx.writes)
        await meta.add_node(tx, src, pattr, src_name, ino, attr, now)
        added = [w for w in tx.writes[touches:] if w[0] != PATCH or w[1] != k.node(src)]
        del tx.writes[touches:]
        tx.writes.extend(added)
        assert (PUT, k.node(ino), attr) in tx.writes
        meta.log_create(tx, src, src_name, ino, attr, 0, 0, False, now, caller)
        return tx, moved

    tx, moved = await meta.store.transact(body)
    meta._dir_parents.pop(moved, None)
    meta.after_commit(tx)
    return moved
