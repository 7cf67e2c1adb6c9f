# SPDX-License-Identifier: Apache-2.0
"""Rename with all its flags. Source: spec metadata-semantics §4.7 (numbers in comments are its check numbers)."""

from __future__ import annotations

import errno
from typing import Any, Final

import msgspec

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import EXECUTE, WRITE, Exists, show
from core.meta.caller import ROOT_CALLER, Caller, Condition
from core.meta.measure import TreeMeasure
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_RESTORE, RENAME_WHITEOUT
from core.meta.recent import forget_oldest
from core.meta.records import (
    DIRECTORY,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    TRASH,
    Attr,
    DirStat,
    Entry,
    NodePatch,
    node_space,
)
from core.meta.statistics import Statistics
from core.meta.store import Resolved, Tx

_FROZEN: Final = FLAG_IMMUTABLE | FLAG_APPEND
#: Directories of a moved tree whose rest a commit verifies, at most.
_MAX_VERIFIED: Final = 2000
#: Trees whose directories are remembered between the tries of a rename.
_MAX_MEASURES: Final = 32


class Place(msgspec.Struct, frozen=True):
    """One end of a rename: a name in a directory, and what was found there."""

    parent: int
    name: bytes
    pattr: Attr
    entry: Entry | None
    attr: Attr | None


class Rename(Statistics):
    """Mixin of `Meta`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._measures: dict[int, TreeMeasure] = {}

    async def rename(
        self, src: int, src_name: bytes, dst: int, dst_name: bytes, flags: int = 0, caller: Caller = ROOT_CALLER, *,
        condition: Condition | None = None,
    ) -> int:  # fmt: skip
        """Move a name (2 trips; more only when a directory changes its parent); returns the inode moved.

        flags: 0, NOREPLACE, EXCHANGE, NOREPLACE|RESTORE. `condition` is about the target name.
        """
        if self.is_trash_name(src, src_name) or self.is_trash_name(dst, dst_name) or (
            (dst >= TRASH and not flags & RENAME_RESTORE) or (src >= TRASH and caller.uid != 0)
        ):  # fmt: skip
            raise FsError(errno.EPERM, f"{show(src_name)}: nothing moves into the trash, only root moves out of it")
        self.require_writable()
        self.require_name(dst_name)
        if flags in (RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE):
            raise FsError(errno.ENOTSUP, "rename with WHITEOUT is not supported")
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_NOREPLACE | RENAME_RESTORE):
            raise FsError(errno.EINVAL, f"rename flags {flags:#x} can't be combined")
        trash = 0 if flags & RENAME_EXCHANGE else await self.trash_dir(dst)

        async def body(tx: Tx) -> tuple[Tx, int]:
            found = await tx.walk((src, [src_name]), (dst, [dst_name]), last_free=True)
            return tx, await self._rename(tx, found, (src, src_name), (dst, dst_name), flags, caller, trash, condition)

        tx, ino = await self.store.transact(body)
        self._dir_parents.pop(ino, None)
        self.after_commit(tx)
        if src >= TRASH and not flags & RENAME_RESTORE and self.dir_stats:
            self.spawn(self.recount_directory(ino))  # trashing dropped the record; `restore` sees to it itself
        return ino

    async def _rename(
        self, tx: Tx, found: list[Resolved], source: tuple[int, bytes], target: tuple[int, bytes], flags: int,
        caller: Caller, trash: int, condition: Condition | None,
    ) -> int:  # fmt: skip
        (src, src_name), (dst, dst_name) = source, target
        s_step = found[0].steps[0] if found[0].steps else None
        d_step = found[1].steps[0] if found[1].steps else None
        if s_step is None:
            if found[0].base is not None:
                await self.require_access(caller, src, found[0].base, EXECUTE)
            raise FsError(errno.ENOENT, f"{show(src_name)}: no such name in directory inode {src}")  # 8
        entry, attr = s_step
        if src == dst and src_name == dst_name:
            return entry.ino  # 9
        if attr is None or found[0].base is None or found[1].base is None:
            raise FsError(errno.ENOENT, f"{show(src_name)}: its inode or a parent directory is gone")  # 10
        a = Place(src, src_name, found[0].base, entry, attr)
        b = Place(dst, dst_name, found[1].base, d_step.entry if d_step else None, d_step.attr if d_step else None)
        await self._check_parents(caller, a, b, flags)
        if a.pattr.flags & _FROZEN or b.pattr.flags & FLAG_IMMUTABLE or attr.flags & _FROZEN:  # 16
            raise FsError(errno.EPERM, f"{show(src_name)}: it or a parent directory is immutable or append-only")
        if (  # 17
            src != dst
            and a.pattr.mode & 0o1000
            and caller.uid != 0
            and caller.uid != attr.uid
            and (caller.uid != a.pattr.uid or attr.type == DIRECTORY)
        ):
            raise FsError(errno.EACCES, f"{show(src_name)}: its directory is sticky and owned by others")
        self.require_condition(condition, b.entry, b.attr, dst_name)
        now = self.clock_ns()
        if b.entry is not None:
            if flags & RENAME_NOREPLACE:
                raise Exists(f"{show(dst_name)}: exists in directory inode {dst}", b.entry.ino, b.attr)  # 18
            if b.attr is not None and b.attr.flags & _FROZEN:
                raise FsError(errno.EPERM, f"{show(dst_name)}: is immutable or append-only")  # 19
            if not flags & RENAME_EXCHANGE:
                if b.entry.ino == entry.ino:
                    return entry.ino  # 20
                if entry.type == DIRECTORY and b.entry.type != DIRECTORY:
                    raise FsError(errno.ENOTDIR, f"{show(dst_name)}: a directory can't replace a non-directory")  # 21
                if entry.type != DIRECTORY and b.entry.type == DIRECTORY:
                    raise FsError(errno.EISDIR, f"{show(dst_name)}: is a directory")
            if self.sticky_denies(caller, b.pattr, b.attr):
                raise FsError(errno.EACCES, f"{show(dst_name)}: its directory is sticky and owned by others")  # 23
        elif flags & RENAME_EXCHANGE:
            raise FsError(errno.ENOENT, f"{show(dst_name)}: nothing to exchange with")  # 24
        if self.sticky_denies(caller, a.pattr, attr):
            raise FsError(errno.EACCES, f"{show(src_name)}: its directory is sticky and owned by others")  # 25

        tx.expect(k.entry(src, src_name), entry)
        tx.expect(k.entry(dst, dst_name), b.entry)
        tx.expect_identity(src, a.pattr)
        if dst != src:
            tx.expect_identity(dst, b.pattr)
            if entry.type == DIRECTORY:
                await self._require_no_loop(tx, entry.ino, dst, b.pattr)
            if flags & RENAME_EXCHANGE and b.entry is not None and b.entry.type == DIRECTORY:
                await self._require_no_loop(tx, b.entry.ino, src, a.pattr)
        if flags & RENAME_EXCHANGE:
            await self._write_exchange(tx, a, b, now)
        else:
            await self._write_move(tx, a, b, trash, now)
        replaced = b.entry.ino if b.entry is not None else 0
        self.log_change(tx, "MOVE", src, src_name, dst, dst_name, flags, replaced, trash, result=entry.ino, now=now)
        return entry.ino

    async def _check_parents(self, caller: Caller, a: Place, b: Place, flags: int) -> None:
        if a.pattr.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"inode {a.parent} is no directory")  # 11
        await self.require_access(caller, a.parent, a.pattr, WRITE | EXECUTE)
        if b.pattr.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"inode {b.parent} is no directory")  # 12
        if b.pattr.in_trash and not flags & RENAME_RESTORE:
            raise FsError(errno.ENOENT, f"directory inode {b.parent} is in the trash")  # 13
        await self.require_access(caller, b.parent, b.pattr, WRITE | EXECUTE)  # 14
        assert a.entry is not None
        if a.entry.ino in (b.parent, b.pattr.parent):
            raise FsError(errno.EPERM, f"{show(a.name)}: can't move into itself")  # 15

    async def _require_no_loop(self, tx: Tx, moved: int, into: int, into_attr: Attr) -> None:
        """EINVAL if `into` lies below `moved`. The original tests two levels only; a door has no kernel to do the
        rest, so the whole chain is walked, and the commit verifies that nobody re-hung a part of it meanwhile."""
        ino, attr = into, into_attr
        if ino == moved:
            raise FsError(errno.EINVAL, f"inode {moved}: a directory can't be exchanged with what it contains")
        while ino > 1 and attr.parent not in (0, ino):
            ino = attr.parent
            if ino == moved:
                raise FsError(errno.EINVAL, f"inode {moved}: a directory can't move below itself")
            if ino <= 1 or ino >= TRASH:
                return
            (above,) = await tx.peek(k.node(ino))
            if above is None:
                return
            tx.expect_identity(ino, above)
            attr = above

    async def _write_move(self, tx: Tx, a: Place, b: Place, trash: int, now: int) -> None:
        assert a.entry is not None and a.attr is not None
        is_dir = a.entry.type == DIRECTORY
        replaced_dir = b.entry is not None and b.entry.type == DIRECTORY
        tx.delete(k.entry(a.parent, a.name))
        if b.entry is not None:
            if replaced_dir:
                if b.attr is None:
                    tx.expect(k.node(b.entry.ino), None)
                else:
                    await self.drop_directory(tx, b.parent, b.name, b.entry.ino, b.attr, trash, now)
            else:
                await self.drop_node(tx, b.parent, b.name, b.entry, b.attr, trash, now)
        tx.put(k.entry(b.parent, b.name), a.entry)
        self._write_rehung(tx, a.entry, a.attr, a.parent, b.parent, now)
        if a.parent == b.parent:
            self.touch_parent(tx, a.parent, a.pattr, now, -1 if replaced_dir else 0)
            return
        self._touch(tx, a.parent, a.pattr, now, -1 if is_dir else 0)
        self._touch(tx, b.parent, b.pattr, now, (1 if is_dir else 0) - (1 if replaced_dir else 0))
        await self._shift_usage(tx, a.entry, a.attr, a.parent, b.parent, check=True)

    async def _write_exchange(self, tx: Tx, a: Place, b: Place, now: int) -> None:
        assert a.entry is not None and a.attr is not None and b.entry is not None
        tx.put(k.entry(a.parent, a.name), b.entry)
        tx.put(k.entry(b.parent, b.name), a.entry)
        if a.entry.ino == b.entry.ino:
            return
        self._write_rehung(tx, a.entry, a.attr, a.parent, b.parent, now)
        if b.attr is not None:
            self._write_rehung(tx, b.entry, b.attr, b.parent, a.parent, now)
        if a.parent == b.parent:
            self.touch_parent(tx, a.parent, a.pattr, now)
            return
        into_b = (a.entry.type == DIRECTORY) - (b.entry.type == DIRECTORY)
        self._touch(tx, a.parent, a.pattr, now, -into_b)
        self._touch(tx, b.parent, b.pattr, now, into_b)
        await self._shift_usage(tx, a.entry, a.attr, a.parent, b.parent, check=False)
        if b.attr is not None:
            await self._shift_usage(tx, b.entry, b.attr, b.parent, a.parent, check=False)

    def _touch(self, tx: Tx, ino: int, attr: Attr, now: int, nlink: int) -> None:
        if ino < TRASH:
            self.touch_parent(tx, ino, attr, now, nlink)
        elif nlink:
            tx.patch(ino, NodePatch())  # hour directories keep nlink 2 (format §1.8); the patch only requires it

    def _write_rehung(self, tx: Tx, entry: Entry, attr: Attr, old: int, new: int, now: int) -> None:
        """The moved node: ctime, and where it hangs (parent field, or counts once it was hard-linked)."""
        tx.expect(k.node(entry.ino), attr)
        parent = attr.parent
        if old != new:
            if entry.type == DIRECTORY or attr.parent > 0:
                parent = new
            else:
                tx.add(k.parent(entry.ino, new), 1)
                tx.add(k.parent(entry.ino, old), -1)
        tx.put(k.node(entry.ino), msgspec.structs.replace(attr, ctime_ns=now, parent=parent))

    async def _shift_usage(self, tx: Tx, entry: Entry, attr: Attr, old: int, new: int, *, check: bool) -> None:
        """Directory statistics and quotas of a node that changes its directory. Volume usage stays."""
        length = attr.length if entry.type == FILE else 0
        space, inodes = node_space(attr), 1
        if self.dir_stats:
            tx.add(k.dirstat(old), DirStat(-length, -space, -1))
            tx.add(k.dirstat(new), DirStat(length, space, 1))
        self._mark_epoch(tx)
        if not self._dir_quotas:
            return
        above_old = await self.ancestors(old, tx) if old < TRASH else []
        above_new = await self.ancestors(new, tx) if new < TRASH else []
        left = [ino for ino in set(above_old) - set(above_new) if (0, ino) in self._quotas]
        entered = [ino for ino in set(above_new) - set(above_old) if (0, ino) in self._quotas]
        if entry.type == DIRECTORY and (left or entered):
            space, inodes = await self.tree_usage(entry.ino, tx)
        for ino in left:
            self._add_quota(tx, 0, ino, -space, -inodes)
        if check:
            await self.require_quotas([(0, ino) for ino in entered], space, inodes)
        for ino in entered:
            self._add_quota(tx, 0, ino, space, inodes)

    async def tree_usage(self, ino: int, tx: Tx) -> tuple[int, int]:
        """(space, inodes) of a whole subtree, its top included; only on volumes with directory statistics.

        The commit verifies that nothing in it changed meanwhile, by the statistics of its directories, which every
        operation changes with the entries. A tree of too many directories for that is counted as it was seen.
        """
        # Not in the dictionary while it is at work: two renames of one tree would explore half of it each.
        measure = self._measures.pop(ino, None) or TreeMeasure(self, ino)
        usage = await measure.run()
        while len(self._measures) >= _MAX_MEASURES:
            forget_oldest(self._measures)
        self._measures[ino] = measure  # the next try of a rename that loses a race explores only what changed
        room = min(_MAX_VERIFIED, (self.store.caps.max_writes or 2 * _MAX_VERIFIED) // 2)
        if usage.exact and usage.directories <= room:
            for directory, stat in measure.statistics.items():
                tx.expect(k.dirstat(directory), stat)
        return usage.space + 4096, usage.inodes + 1
