# SPDX-License-Identifier: Apache-2.0
"""What all metadata operations share: the store, ids, time, the volume's settings, permission and usage rules.

`Meta` (core/meta/meta.py) is this class plus one mixin per concern. Source: spec metadata-semantics §1–§3.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import FsError, MetaError
from core.meta import acl as aclmod, changelog, keys as k
from core.meta.caller import Caller
from core.meta.ids import inode_pool, slice_pool
from core.meta.records import (
    DIRECTORY,
    FLAG_IMMUTABLE,
    FLAG_SKIP_TRASH,
    ROOT,
    SYMLINK,
    TRASH,
    TRASH_NAME,
    Attr,
    DirStat,
    Quota,
)  # fmt: skip
from core.meta.store import IDENTITY, PUT, RecordStore, Tx

if TYPE_CHECKING:
    from core.meta.format import Format

log = logging.getLogger("sluice.meta")

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1

#: When reading changes the access time (semantics §1.8).
NOATIME: Final = "noatime"
RELATIME: Final = "relatime"
STRICTATIME: Final = "strictatime"

_SETGID: Final = 0o2000
_DAY_NS: Final = 86400 * 1_000_000_000
_SECOND_NS: Final = 1_000_000_000
_MAX_CACHED_DIRS: Final = 100_000


class Exists(FsError):
    """EEXIST that knows what is there."""

    def __init__(self, message: str, ino: int, attr: Attr | None) -> None:
        super().__init__(errno.EEXIST, message)
        self.ino = ino
        self.attr = attr


def show(name: bytes) -> str:
    """A name as error messages print it."""
    return name.decode("utf-8", "backslashreplace")


class MetaBase:
    """State of one client of one volume. One event loop; no locks needed between awaits."""

    def __init__(
        self,
        store: RecordStore,
        fmt: Format,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        read_only: bool = False,
        skip_dir_mtime_ns: int = 0,
        atime_mode: str = NOATIME,
    ) -> None:
        self.store = store
        self.clock_ns = clock_ns
        self.read_only = read_only
        self.skip_dir_mtime_ns = skip_dir_mtime_ns
        self.atime_mode = atime_mode
        self._accessed: set[int] = set()  # inodes whose access time is being written
        self.sid = 0
        self.inodes = inode_pool(store)
        self.slice_ids = slice_pool(store)
        self.open_files: dict[int, int] = {}  # inode -> handles of this process
        self.sustained: set[int] = set()  # inodes unlinked while open here
        self.on_freed: Callable[[list[tuple[int, int]]], None] | None = None  # slices nobody uses any more
        self.on_deleted: Callable[[int, int], None] | None = None  # (inode, length) whose data may go
        self._acls: dict[int, aclmod.Rule] = {}
        self._acl_ids: dict[aclmod.Rule, int] = {}
        self._dir_parents: dict[int, int] = {}  # directory -> parent, for walking up to quotas
        self._dir_attrs: dict[int, Attr] = {}  # what was seen of them; valid only together with `_dir_parents`
        self._quotas: dict[tuple[int, int], Quota] = {}
        self._dir_quotas = False  # does any directory have one
        self._quota_epoch = 0  # grows when this client learns of another quota
        self._used_space = 0
        self._used_inodes = 0
        self._background: set[asyncio.Task[None]] = set()
        self._recounting: set[int] = set()
        self._logged = 0
        self.use_format(fmt)

    def use_format(self, fmt: Format) -> None:
        self.format = fmt
        self.trash_days: int = fmt.trash_days
        self.dir_stats: bool = fmt.dir_stats
        self.capacity: int = fmt.capacity
        self.max_inodes: int = fmt.inodes
        self.user_group_quota: bool = fmt.user_group_quota
        self.change_log: bool = fmt.change_log and self.store.caps.change_log

    def log_change(
        self, tx: Tx, op: str, *args: changelog.Argument, result: int | str | None = None, now: int | None = None
    ) -> None:
        """Add a line to the change log with the commit of `tx`; nothing if the volume keeps none (format §9)."""
        if self.change_log:
            self._logged += 1
            when = self.clock_ns() if now is None else now
            tx.log(changelog.line(when, op, args, result, self.sid, self._logged))

    # -- small rules ---------------------------------------------------------------------------------------------

    def require_writable(self) -> None:
        if self.read_only:
            raise FsError(errno.EROFS, "the volume is opened read-only; reopen it without --read-only to change it")

    @staticmethod
    def require_name(name: bytes) -> None:
        if not name or b"/" in name or b"\0" in name:
            raise FsError(errno.EINVAL, f"bad file name {show(name)!r}: empty, or with a slash or NUL byte")
        if len(name) > 255:
            raise FsError(errno.ENAMETOOLONG, f"file name of {len(name)} bytes; at most 255 are possible")

    @staticmethod
    def is_trash_name(parent: int, name: bytes) -> bool:
        return parent == ROOT and name == TRASH_NAME

    async def require_access(self, caller: Caller, ino: int, attr: Attr, wanted: int) -> None:
        """EACCES unless the caller may do `wanted` (READ | WRITE | EXECUTE). Semantics §1.3."""
        if caller.uid == 0 or not caller.check:
            return
        if attr.access_acl and attr.mode & 0o070:
            rule = await self.acl_rule(attr.access_acl)
            ok = aclmod.permits(rule, caller.uid, caller.gids, attr.uid, attr.gid, wanted)
        else:
            if caller.uid == attr.uid:
                bits = attr.mode >> 6
            elif attr.gid in caller.gids:
                bits = attr.mode >> 3
            else:
                bits = attr.mode
            ok = bits & wanted == wanted
        if not ok:
            raise FsError(errno.EACCES, f"inode {ino}: uid {caller.uid} lacks permission {wanted:03b} (rwx)")

    def sticky_denies(self, caller: Caller, parent: Attr, attr: Attr | None) -> bool:
        return bool(
            parent.mode & 0o1000
            and caller.uid != 0
            and caller.uid != parent.uid
            and (attr is None or caller.uid != attr.uid)
        )

    # -- access time ---------------------------------------------------------------------------------------------

    def note_access(self, ino: int, attr: Attr) -> None:
        """Something of this inode was read: write its access time if the mode asks for it. Nobody waits for that."""
        if self._wants_atime(attr) and ino not in self._accessed:
            self._accessed.add(ino)
            self.spawn(self._write_atime(ino))

    def _wants_atime(self, attr: Attr) -> bool:
        if self.atime_mode == NOATIME or self.read_only:
            return False
        age = self.clock_ns() - attr.atime_ns
        stale = attr.mtime_ns > attr.atime_ns or attr.ctime_ns > attr.atime_ns or age > _DAY_NS
        return stale or (self.atime_mode == STRICTATIME and age > _SECOND_NS)

    async def _write_atime(self, ino: int) -> None:
        async def body(tx: Tx) -> None:
            (attr,) = await tx.read(k.node(ino))
            if attr is not None and self._wants_atime(attr):
                now = self.clock_ns()
                tx.put(k.node(ino), msgspec.structs.replace(attr, atime_ns=now))
                self.log_change(tx, "ACCESS", ino, now=now)

        try:
            await self.store.transact(body)
        finally:
            self._accessed.discard(ino)

    # -- what the format can hold --------------------------------------------------------------------------------

    def require_ids(self, *ids: int) -> None:
        """EINVAL for a uid or gid that this metadata engine has no room for (format §5.2)."""
        for ident in ids:
            if not 0 <= ident <= self.store.caps.max_id:
                raise FsError(
                    errno.EINVAL,
                    f"{self.store.name} holds user and group ids up to {self.store.caps.max_id} only, not {ident}",
                )

    # -- directory checks ----------------------------------------------------------------------------------------

    async def require_target_dir(self, caller: Caller, parent: int, attr: Attr | None, name: bytes) -> Attr:
        """The checks on a directory that is about to get an entry (semantics §4.3 steps 8–13)."""
        if attr is None:
            raise FsError(errno.ENOENT, f"directory inode {parent} does not exist any more")
        if attr.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"inode {parent}, parent of {show(name)!r}, is no directory")
        if attr.in_trash:
            raise FsError(errno.ENOENT, f"directory inode {parent} is in the trash")
        await self.require_access(caller, parent, attr, WRITE | EXECUTE)
        if attr.flags & FLAG_IMMUTABLE:
            raise FsError(errno.EPERM, f"directory inode {parent} is immutable (chattr -i lifts that)")
        return attr

    # -- ACL rules -----------------------------------------------------------------------------------------------

    async def acl_rule(self, rule_id: int) -> aclmod.Rule:
        rule = self._acls.get(rule_id)
        if rule is None:
            (raw,) = await self.store.read(k.acl(rule_id))
            if raw is None:
                raise MetaError(f"ACL rule {rule_id} is referred to but not stored; the volume needs a check")
            rule = aclmod.decode(raw)
            self._remember_acl(rule_id, rule)
        return rule

    def _remember_acl(self, rule_id: int, rule: aclmod.Rule) -> None:
        self._acls[rule_id] = rule
        self._acl_ids.setdefault(rule, rule_id)

    async def load_acls(self) -> None:
        async for key, raw in self.store.scan(k.ACL):
            self._remember_acl(key[1], aclmod.decode(raw))

    async def acl_id(self, rule: aclmod.Rule) -> int:
        """Id of a stored rule with this content, storing it first if there is none. Rules are never changed."""
        known = self._acl_ids.get(rule)
        if known is not None:
            return known
        rule_id = await self.store.allocate("aclMaxId", 1)
        await self.store.commit([], [(PUT, k.acl(rule_id), aclmod.encode(rule))])
        self._remember_acl(rule_id, rule)
        return rule_id

    # -- new inodes ----------------------------------------------------------------------------------------------

    async def new_attr(
        self, parent: int, pattr: Attr, caller: Caller, kind: int, mode: int, umask: int, now: int, *,
        length: int = 0, rdev: int = 0,
    ) -> Attr:  # fmt: skip
        """Attributes of a node created in a directory: owner, mode, ACL inheritance (format §1.11, §1.12)."""
        mode &= 0o7777
        access = default = 0
        if pattr.default_acl and kind != SYMLINK:
            rule = await self.acl_rule(pattr.default_acl)
            mode, inherited = aclmod.inherit(rule, mode)
            if inherited is not None:
                access = await self.acl_id(inherited)
            if kind == DIRECTORY:
                default = pattr.default_acl
        else:
            mode &= ~umask
        self.require_ids(caller.uid, caller.gid)
        gid = caller.gid
        if pattr.mode & _SETGID:
            gid = pattr.gid
            if kind == DIRECTORY:
                mode |= _SETGID
            elif mode & 0o2010 == 0o2010 and caller.check and caller.uid != 0 and pattr.gid not in caller.gids:
                mode &= ~_SETGID
        return Attr(
            kind, mode, caller.uid, gid, now, now, now, 2 if kind == DIRECTORY else 1,
            4096 if kind == DIRECTORY else length, rdev, parent, pattr.flags & FLAG_SKIP_TRASH, access, default,
            pattr.tier,
        )  # fmt: skip

    # -- usage ---------------------------------------------------------------------------------------------------

    async def charge(
        self, tx: Tx, parent: int, length: int, space: int, inodes: int, *, uid: int = 0, gid: int = 0,
        volume: bool = True, check: bool = True, owner: bool = True,
    ) -> None:  # fmt: skip
        """Account a change of the entries of `parent` in the same transaction: directory statistics, directory
        quotas up to the root and, with `volume`, the volume's counters; with `owner` those of uid and gid.

        Raises EDQUOT or ENOSPC if it would exceed a limit (only growth can, and only with `check`). Semantics §3.2.
        """
        if space == 0 and inodes == 0 and length == 0:
            return
        self._mark_epoch(tx)
        if owner and self.user_group_quota:
            if check:  # one more link is tested, but an inode counts once
                await self.require_quotas([(1, uid), (2, gid)], space if volume else 0, inodes)
            if volume:
                self._add_quota(tx, 1, uid, space, inodes)
                self._add_quota(tx, 2, gid, space, inodes)
        if check and volume and (space > 0 or inodes > 0):
            self._require_room(space, inodes)
        if volume:
            if space:
                tx.add(k.counter("usedSpace"), space)
            if inodes:
                tx.add(k.counter("totalInodes"), inodes)
            tx.after.append(lambda: self._used(space, inodes))
        if not self.dir_stats:
            return
        if parent and parent != TRASH:
            tx.add(k.dirstat(parent), DirStat(length, space, inodes))
        if parent and parent < TRASH and self._dir_quotas:
            chain = await self.ancestors(parent, tx)
            if check:
                await self.require_quotas([(0, ino) for ino in chain], space, inodes, below=parent)
            for ino in chain:
                self._add_quota(tx, 0, ino, space, inodes)

    def _require_room(self, space: int, inodes: int) -> None:
        if self.capacity and space > 0 and self._used_space + space > self.capacity:
            raise FsError(
                errno.ENOSPC,
                f"the volume's {self.capacity >> 30} GiB are used up; raise them with `sluice config --capacity`",
            )
        if self.max_inodes and inodes > 0 and self._used_inodes + inodes > self.max_inodes:
            raise FsError(
                errno.ENOSPC,
                f"the volume's {self.max_inodes} files are used up; raise them with `sluice config --inodes`",
            )

    def _add_quota(self, tx: Tx, kind: int, ident: int, space: int, inodes: int) -> None:
        if (kind, ident) not in self._quotas:
            if kind == 0:
                return
            # Usage of users and groups is kept even without a limit (semantics §3.3).
            tx.put_new(k.quota(kind, ident), Quota(-1, -1, 0, 0))
            tx.add(k.quota(kind, ident), (space, inodes))
            return
        tx.add(k.quota(kind, ident), (space, inodes))
        tx.after.append(lambda: self._used_quota((kind, ident), space, inodes))

    async def require_quotas(
        self, subjects: list[tuple[int, int]], space: int, inodes: int, *, below: int = 0
    ) -> None:  # fmt: skip
        """EDQUOT if the growth exceeds one of the limits. What is known may be as old as a heartbeat, so nobody is
        refused without a look at the records. below: where the chain of directories began."""
        if (space <= 0 and inodes <= 0) or not any(self._exceeds(s, space, inodes) for s in subjects):
            return
        if below:
            self._dir_parents.clear()
            self._dir_attrs.clear()
            subjects = [(0, ino) for ino in await self.ancestors(below)]
        subjects = [subject for subject in subjects if subject in self._quotas]
        for subject, quota in zip(subjects, await self.store.read(*(k.quota(*s) for s in subjects)), strict=True):
            if quota is None:
                continue  # deleted meanwhile
            self._quotas[subject] = quota
            over = self._exceeds(subject, space, inodes)
            if over:
                who = ("directory inode", "user", "group")[subject[0]]
                raise FsError(
                    errno.EDQUOT,
                    f"quota of {who} {subject[1]} on {over} is used up; remove files, or raise it with"
                    " `sluice quota set`",
                )

    def _exceeds(self, subject: tuple[int, int], space: int, inodes: int) -> str:
        """What the quota would run out of, "" if nothing."""
        quota = self._quotas.get(subject)
        if quota is None:
            return ""
        if space > 0 and 0 < quota.max_space < quota.used_space + space:
            return "space"
        return "number of files" if inodes > 0 and 0 < quota.max_inodes < quota.used_inodes + inodes else ""

    def _mark_epoch(self, tx: Tx) -> None:
        """An operation that decided before a quota was known and commits after it isn't counted in it."""
        epoch = self._quota_epoch
        tx.after.append(lambda: self.late_for_quotas(epoch) if epoch != self._quota_epoch else None)

    def learned_quotas(self, directories: list[int]) -> None:
        """Quotas of directories that this client counts into from now on."""

    def late_for_quotas(self, epoch: int) -> None:
        """Count what became known since then once more (`core/meta/quota.py` does it)."""

    # What is known between two reloads: the last stored usage plus our own committed changes.

    def _used(self, space: int, inodes: int) -> None:
        self._used_space += space
        self._used_inodes += inodes

    def _used_quota(self, key: tuple[int, int], space: int, inodes: int) -> None:
        q = self._quotas.get(key)
        if q is not None:
            self._quotas[key] = Quota(q.max_space, q.max_inodes, q.used_space + space, q.used_inodes + inodes)

    async def ancestors(self, ino: int, tx: Tx | None = None) -> list[int]:
        """The directory itself and every directory above it, root last.

        With `tx` its commit verifies that they still are: a directory that another client moved meanwhile belongs to
        other quotas than those we know (and what lies in it was counted when it moved).
        """
        made: dict[int, int] | None = None  # directories that exist only in this transaction
        room = self.store.caps.max_writes // 2  # checks that a commit surely has room for
        chain: list[int] = []
        while ino != ROOT and len(chain) < 4096:
            chain.append(ino)
            above, attr = self._dir_parents.get(ino), self._dir_attrs.get(ino)
            if tx is not None and (attr is None or tx.attempt):
                if made is None:
                    made = {key[1]: value.parent for op, key, value in tx.writes if op == PUT and key[0] == k.NODE}
                above, attr = made.get(ino), None
            if above is None:
                (attr,) = await self.store.read(k.node(ino))
                if attr is None:
                    break
                above = attr.parent
                if len(self._dir_parents) >= _MAX_CACHED_DIRS:
                    self._dir_parents.clear()
                    self._dir_attrs.clear()
                self._dir_parents[ino] = above
                self._dir_attrs[ino] = attr
            if tx is not None and attr is not None and (not room or len(tx.checks) < room):
                check = (IDENTITY, k.node(ino), attr)
                if check not in tx.checks:
                    tx.checks.append(check)
            if above == 0 or above >= TRASH:
                return chain
            ino = above
        if ino == ROOT:
            chain.append(ROOT)
        return chain

    async def reload_usage(self) -> None:
        """Counters and quotas as the volume has them now (at start and every heartbeat)."""
        self._used_space, self._used_inodes = await self.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        if self.dir_stats or self.user_group_quota:
            known, self._quotas = self._quotas, {
                (key[1], key[2]): quota async for key, quota in self.store.scan(k.QUOTA)
            }  # fmt: skip
            self._dir_quotas = any(kind == 0 for kind, _ in self._quotas)
            self.learned_quotas([ident for kind, ident in self._quotas if kind == 0 and (0, ident) not in known])
        self._dir_parents.clear()
        self._dir_attrs.clear()

    # -- background ----------------------------------------------------------------------------------------------

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine that the caller doesn't wait for; `Meta.close` does."""
        task: asyncio.Task[None] = asyncio.create_task(coro)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("background work failed; it is tried again later: %s", error)

    def after_commit(self, tx: Tx) -> None:
        """What a commit found out: recount directories without statistics, delete slices nobody uses."""
        if tx.outcome.no_dirstat and self.dir_stats:
            for ino in set(tx.outcome.no_dirstat) - self._recounting:
                self._recounting.add(ino)
                self.spawn(self._recount(ino))
        if tx.outcome.freed and self.on_freed:
            self.on_freed(tx.outcome.freed)

    async def _recount(self, ino: int) -> None:
        try:
            await self.recount_directory(ino)
        finally:
            self._recounting.discard(ino)

    async def recount_directory(self, ino: int) -> None:
        """Count the entries of a directory anew (`core/meta/jobs.py` does it)."""
        raise NotImplementedError
