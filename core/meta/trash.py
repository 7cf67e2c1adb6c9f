# SPDX-License-Identifier: Apache-2.0
"""The trash: hourly directories, names in it, and what happens to a node that loses an entry.

`drop_node` is the one place that knows what unlink, rename-over and publish-over do to their target.
Source: spec metadata-semantics §4.5 (case table), §9; format §1.6, §1.8.
"""

from __future__ import annotations

import errno
import time
from typing import Final

import msgspec

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.base import MetaBase
from core.meta.records import (
    DIRECTORY,
    FILE,
    FLAG_SKIP_TRASH,
    MAX_NAME,
    SYMLINK,
    TRASH,
    Attr,
    DirStat,
    Entry,
    node_space,
)  # fmt: skip
from core.meta.store import Tx

_HOUR_NS: Final = 3_600_000_000_000


def trash_entry_name(parent: int, ino: int, name: bytes) -> bytes:
    """What an entry is called in the trash; cut from the end (format §1.8)."""
    return (b"%d-%d-" % (parent, ino) + name)[:MAX_NAME]


def hour_name(now_ns: int) -> bytes:
    return time.strftime("%Y-%m-%d-%H", time.gmtime(now_ns // 1_000_000_000)).encode()


class Trash(MetaBase):
    """Mixin of `Meta`."""

    _hour: tuple[int, int] = (-1, 0)  # number of the hour since the epoch, inode of its directory

    async def trash_dir(self, parent: int, *, skip: bool = False) -> int:
        """Inode of this hour's trash directory, made if missing; 0 if entries of `parent` don't go to the trash."""
        if skip or self.trash_days <= 0 or parent >= TRASH:
            return 0
        now = self.clock_ns()
        hour = now // _HOUR_NS
        if self._hour[0] != hour:
            self._hour = (hour, await self._make_hour(hour_name(now)))
        return self._hour[1]

    async def _make_hour(self, name: bytes) -> int:
        """Find or create; another client's directory of the same hour is as good as ours."""
        fresh = 0

        async def body(tx: Tx) -> int:
            nonlocal fresh
            root, found = await tx.peek(k.node(TRASH), k.entry(TRASH, name))
            if found is not None:
                entry: Entry = found
                if entry.ino <= TRASH:
                    raise MetaError(f"trash directory {name.decode()} has the impossible inode {entry.ino}")
                return entry.ino
            if root is None:
                raise MetaError("the trash is on but its root is missing; `sluice config --trash-days` recreates it")
            if not fresh:
                fresh = TRASH + await self.store.allocate("nextTrash", 1)
            now = self.clock_ns()
            tx.expect(k.entry(TRASH, name), None)
            tx.put(k.entry(TRASH, name), Entry(DIRECTORY, fresh))
            tx.put(k.node(fresh), Attr(DIRECTORY, 0o555, 0, 0, now, now, now, 2, 4096, 0, TRASH))
            if self.dir_stats:
                tx.put(k.dirstat(fresh), DirStat(0, 0, 0))
            await self.charge(tx, TRASH, 0, 4096, 1, check=False, owner=False)
            self.log_change(
                tx, "CREATE", TRASH, name, 0, 0, DIRECTORY, 0o555, 0, b"", "linux", False, result=fresh, now=now
            )
            return fresh

        return await self.store.transact(body)

    # -- losing an entry -----------------------------------------------------------------------------------------

    async def drop_node(
        self, tx: Tx, parent: int, name: bytes, entry: Entry, attr: Attr | None, trash: int, now: int
    ) -> None:
        """Writes for a node (no directory) whose entry `name` in `parent` is removed or overwritten by the caller.

        The caller verifies the entry; this verifies the node. `trash`: hour directory, or 0 to delete.
        """
        ino = entry.ino
        length = attr.length if attr is not None and entry.type == FILE else 0
        space = node_space(attr) if attr is not None else 4096
        if attr is None:
            # A corrupt entry: treated as the last link of an empty node (semantics §4.5).
            tx.expect(k.node(ino), None)
            await self.charge(tx, parent, 0, -4096, -1, check=False)
            return
        tx.expect(k.node(ino), attr)
        if (
            trash
            and not attr.flags & FLAG_SKIP_TRASH
            and await self._move_to_trash(tx, parent, name, entry, attr, trash, now)
        ):
            await self.charge(tx, parent, -length, -space, -1, volume=False, owner=False)
            if self.dir_stats:
                tx.add(k.dirstat(trash), DirStat(length, space, 1))
            return
        if attr.nlink > 1:
            tx.put(k.node(ino), msgspec.structs.replace(attr, nlink=attr.nlink - 1, ctime_ns=now))
            if attr.parent == 0:
                tx.add(k.parent(ino, parent), -1)
            await self.charge(tx, parent, -length, -space, -1, volume=False, owner=False)
            return
        tx.delete(k.xattrs(ino))
        if attr.parent == 0:
            tx.delete(k.parents(ino))
        if entry.type == FILE and self.sid and self.open_files.get(ino):
            tx.put(k.node(ino), msgspec.structs.replace(attr, nlink=0, ctime_ns=now))
            tx.put(k.sustained(self.sid, ino), True)
            tx.after.append(lambda: self.sustained.add(ino))
            # The node itself counts until it is closed.
            await self.charge(tx, parent, -length, -space, -1, volume=False, owner=False)
            return
        tx.delete(k.node(ino))
        if entry.type == FILE:
            tx.put(k.delfile(ino, attr.length), now // 1_000_000_000)
            tx.after.append(lambda: self._deleted(ino, attr.length))
        elif entry.type == SYMLINK:
            tx.delete(k.symlink(ino))
        await self.charge(tx, parent, -length, -space, -1, uid=attr.uid, gid=attr.gid, check=False)

    def _deleted(self, ino: int, length: int) -> None:
        if self.on_deleted is not None:
            self.on_deleted(ino, length)

    async def _move_to_trash(
        self, tx: Tx, parent: int, name: bytes, entry: Entry, attr: Attr, trash: int, now: int
    ) -> bool:
        """False if the same name is in the trash already and other links remain: then it is a plain removal."""
        trash_key = k.entry(trash, trash_entry_name(parent, entry.ino, name))
        if attr.nlink > 1:
            (there,) = await tx.peek(trash_key)
            if there is not None:
                return False
        tx.put(trash_key, entry)
        if attr.parent > 0:
            tx.put(k.node(entry.ino), msgspec.structs.replace(attr, parent=trash, ctime_ns=now))
        else:
            tx.put(k.node(entry.ino), msgspec.structs.replace(attr, ctime_ns=now))
            tx.add(k.parent(entry.ino, trash), 1)
            tx.add(k.parent(entry.ino, parent), -1)
        return True

    async def drop_directory(
        self, tx: Tx, parent: int, name: bytes, ino: int, attr: Attr, trash: int, now: int
    ) -> None:
        """Writes for an empty directory whose entry is removed or overwritten; the commit verifies that it is empty."""
        if tx.attempt:
            (occupied,) = await tx.peek(k.occupied(ino))
            if occupied:
                raise FsError(errno.ENOTEMPTY, f"directory inode {ino} is not empty")
        tx.expect(k.occupied(ino), False)
        tx.expect(k.node(ino), attr)
        if self.dir_stats:
            tx.delete(k.dirstat(ino))
        if (0, ino) in self._quotas:
            tx.delete(k.quota(0, ino))
            tx.after.append(lambda: self._quotas.pop((0, ino), None) and None)
        if trash and not attr.flags & FLAG_SKIP_TRASH:
            tx.put(k.entry(trash, trash_entry_name(parent, ino, name)), Entry(DIRECTORY, ino))
            tx.put(k.node(ino), msgspec.structs.replace(attr, parent=trash, ctime_ns=now))
            await self.charge(tx, parent, 0, -4096, -1, volume=False, owner=False)
            if self.dir_stats:
                tx.add(k.dirstat(trash), DirStat(0, 4096, 1))
            return
        tx.delete(k.node(ino))
        tx.delete(k.xattrs(ino))
        # Hourly directories belong to nobody.
        await self.charge(
            tx, parent, 0, -4096, -1, uid=attr.uid, gid=attr.gid, check=False, owner=parent != TRASH
        )  # fmt: skip
