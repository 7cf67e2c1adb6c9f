# SPDX-License-Identifier: Apache-2.0
"""Quotas: set, show, delete, and usage that is right although others are at work.

Enforcement is in `MetaBase.charge`: every operation adds its change to the quotas it knows, in its own transaction.
Here is what makes that complete. A new quota's record is created first, with no usage; from then on this client counts
into it, every other one from its next heartbeat on. What the record lacks is measured (`measure`, `recount`) and added
as a relative change, so nothing that happens meanwhile is lost; `settle_quotas` does so once more when all clients
have had their heartbeat. Source: spec metadata-semantics §3; format §1.7, §4.7.
"""

from __future__ import annotations

import asyncio
import errno
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.measure import TreeMeasure, TreeUsage
from core.meta.owners import DIRECTORY, GROUP, KINDS, NO_LIMIT, USER, Owners, QuotaCheck
from core.meta.records import ROOT, TRASH, Quota
from core.meta.recount import Drift, Range, Sample, measure
from core.meta.store import DELETE, Tx
from core.meta.version import CLIENT_VERSION

_REPAIRS: Final = 5
_BATCH: Final = 500
_GRACE_S: Final = 1.0
#: What our clients say in their version.
_OURS: Final = CLIENT_VERSION.partition("+")[2]


class QuotaEntry(NamedTuple):
    """One record. ident: inode, uid or gid."""

    kind: int
    ident: int
    quota: Quota


class Quotas(Owners):
    """Mixin of `Meta`."""

    #: A third of the time after which JuiceFS has written what it had pending (semantics §3.3).
    foreign_flush_s: float = 1.1

    # -- commands --------------------------------------------------------------------------------------------------

    async def set_quota(
        self, kind: int, ident: int, *, max_space: int = -1, max_inodes: int = -1, strict: bool = False
    ) -> Quota:
        """Set limits in bytes and inodes (0: unlimited but listed; negative: left as it is) and return the record.

        Switches directory statistics or the accounting of users and groups on if they are off. A new quota's usage
        is counted before this returns; strict: by listing everything instead of trusting directory statistics.
        Other clients enforce it from their next heartbeat on: see `settle_quotas`.
        """
        self.require_writable()
        await self._require_subject(kind, ident)
        if kind == DIRECTORY and not self.dir_stats:
            await self._enable("dir_stats")
        elif kind != DIRECTORY and not self.user_group_quota:
            await self._enable("user_group_quota")
        key = k.quota(kind, ident)

        async def body(tx: Tx) -> tuple[bool, Quota]:
            (old,) = await tx.read(key)
            quota: Quota = old or NO_LIMIT
            quota = quota._replace(
                max_space=max_space if max_space >= 0 else quota.max_space,
                max_inodes=max_inodes if max_inodes >= 0 else quota.max_inodes,
            )
            if old is None:
                # Unlimited, for clients that don't know a limit of -1 on directories.
                quota = quota._replace(max_space=max(0, quota.max_space), max_inodes=max(0, quota.max_inodes))
            tx.put(key, quota)
            self.log_change(tx, "SETQUOTA", kind, ident, quota.max_space, quota.max_inodes)
            return old is None, quota

        fresh, quota = await self.store.transact(body)
        self._quotas[kind, ident] = quota
        self._dir_quotas = self._dir_quotas or kind == DIRECTORY
        if fresh and kind == DIRECTORY:
            self.learned_quotas([ident])
        if fresh and kind == DIRECTORY:
            await self.check_quota(ident, strict=strict, repair=True)
        stored = (await self.store.read(key))[0] or quota
        if (kind, ident) in self._quotas:
            self._quotas[kind, ident] = stored
        return Quota(*stored)

    async def get_quota(self, kind: int, ident: int) -> Quota:
        """ENOENT if there is none (users and groups: none with a limit)."""
        (quota,) = await self.store.read(k.quota(kind, ident))
        if quota is None or not _listed(kind, quota):
            raise FsError(errno.ENOENT, f"{_who(kind, ident)} has no quota; `sluice quota set` makes one")
        return Quota(*quota)

    async def iter_quotas(self) -> AsyncIterator[QuotaEntry]:
        """All quotas, pure usage records of users and groups left out."""
        async for key, quota in self.store.scan(k.QUOTA):
            if _listed(key[1], quota):
                yield QuotaEntry(key[1], key[2], quota)

    async def delete_quota(self, kind: int, ident: int) -> None:
        """Directory: the record goes. User or group: the limits go, usage is kept. ENOENT if there is none."""
        self.require_writable()
        key = k.quota(kind, ident)

        async def body(tx: Tx) -> None:
            (old,) = await tx.read(key)
            if old is None or not _listed(kind, old):
                raise FsError(errno.ENOENT, f"{_who(kind, ident)} has no quota")
            if kind == DIRECTORY:
                tx.delete(key)
            else:
                tx.put(key, old._replace(max_space=-1, max_inodes=-1))
            self.log_change(tx, "DELQUOTA", kind, ident)

        await self.store.transact(body)
        known = self._quotas.pop((kind, ident), None)
        if kind != DIRECTORY and known is not None:
            self._quotas[kind, ident] = known._replace(max_space=-1, max_inodes=-1)

    async def _require_subject(self, kind: int, ident: int) -> None:
        if kind == USER and ident == 0:
            raise FsError(errno.EINVAL, "root can't have a quota: it would stop the programs that set things right")
        if kind != DIRECTORY:
            if not 0 <= ident <= self.store.caps.max_id:
                raise FsError(errno.EINVAL, f"{ident} is no id of a {KINDS[kind]}: 0 to {self.store.caps.max_id}")
            return
        if ident >= TRASH:
            raise FsError(errno.EPERM, "the trash can't have a quota; `sluice config --trash-days` bounds it")
        attr = await self.getattr(ident)
        if not attr.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {ident} is no directory; quotas are on directories")
        if (await self.ancestors(ident))[-1] != ROOT:
            raise FsError(errno.EPERM, f"directory inode {ident} is in the trash; restore it first")

    async def _enable(self, name: str) -> None:
        """Switch a kind of accounting on in the volume's setting; records of earlier times are worth nothing."""
        owners = name == "user_group_quota"
        stale = [key async for key, _ in self.store.scan(k.QUOTA if owners else k.DIRSTAT) if not owners or key[1]]
        step = min(_BATCH, self.store.caps.max_writes or _BATCH)
        for at in range(0, len(stale), step):
            await self.store.commit([], [(DELETE, key, None) for key in stale[at : at + step]])

        async def body(tx: Tx) -> Format:
            (raw,) = await tx.read(k.setting())
            fmt = Format.parse(raw)
            if not getattr(fmt, name):
                fmt = fmt.changed(**{name: True})
                tx.put(k.setting(), fmt.to_json())
                self.log_change(tx, "INIT_ENABLE_USERGROUPQUOTA" if owners else "INIT_ENABLE_DIRSTATS")
            return fmt

        self.use_format(await self.store.transact(body))
        await self.reload_usage()
        if owners:
            await self.check_owner_quotas(repair=True)

    # -- operations that began before a quota was known ----------------------------------------------------------

    _learned: dict[int, int] = {}  # noqa: RUF012 - replaced, never changed
    _late_from: int | None = None
    _repairing: asyncio.Lock | None = None

    def learned_quotas(self, directories: list[int]) -> None:
        if directories:
            self._quota_epoch += 1
            self._learned = {**self._learned, **dict.fromkeys(directories, self._quota_epoch)}

    def late_for_quotas(self, epoch: int) -> None:
        if self._late_from is None:
            self.spawn(self._recount_late())
        self._late_from = min(epoch, self._quota_epoch if self._late_from is None else self._late_from)

    async def _recount_late(self) -> None:
        await asyncio.sleep(0)  # whoever else is late joins
        epoch, self._late_from = self._late_from or 0, None
        for ino in [ino for ino, since in self._learned.items() if since > epoch]:
            try:
                await self.check_quota(ino, repair=True)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise

    # -- directories -----------------------------------------------------------------------------------------------

    async def check_quota(self, ino: int, *, strict: bool = False, repair: bool = False) -> QuotaCheck:
        """Usage of a directory's quota against its tree. ENOENT without a record.

        repair: add what is missing, again until nothing is. Operations of clients that know the quota are counted
        whenever they happen. strict: prove directory statistics, too (with repair they are set right first).
        """
        if repair:
            self.require_writable()
        if self._repairing is None:
            self._repairing = asyncio.Lock()
        # One correction at a time, else each adds what is missing. Two clients that meet see it at their next look.
        async with self._repairing if repair else nullcontext():
            return await self._check_quota(TreeMeasure(self, ino, strict=strict), ino, repair)

    async def _check_quota(self, tree: TreeMeasure, ino: int, repair: bool) -> QuotaCheck:
        first: QuotaCheck | None = None
        for attempt in range(_REPAIRS):
            if attempt:
                await asyncio.sleep(random.uniform(0, 0.01 * attempt))  # noqa: S311 - so that two repairs part
            found = await self._measured(tree, ino)
            first = first or found
            if not repair or (not found.missing and not tree.wrong):
                break
            await tree.mend()
            if found.missing:
                await self.add_usage([(DIRECTORY, ino, found.missing.space, found.missing.inodes)])
        assert first is not None
        return first._replace(repaired=repair and bool(first.missing))

    async def _measured(self, tree: TreeMeasure, ino: int) -> QuotaCheck:
        usage = await tree.run()
        if usage.exact:
            found = _compared(ino, usage)
            if found.missing and await self._foreign_clients():
                return await self._lasting(tree, ino, found)
            return found
        last: TreeUsage = usage

        async def count() -> Sample:
            nonlocal last
            (before,) = await self.store.read(k.quota(DIRECTORY, ino))
            last = await tree.run()
            (after,) = await self.store.read(k.quota(DIRECTORY, ino))
            if before is None or after is None:
                raise FsError(errno.ENOENT, f"{_who(DIRECTORY, ino)} has no quota (any more)")
            mark = zlib.crc32(repr((last.length, last.directories)).encode())
            return Sample(tuple(before[2:]), (last.space, last.inodes), tuple(after[2:]), mark)

        drift = await measure(count)
        return _compared(ino, last)._replace(missing=drift)

    async def _foreign_clients(self) -> bool:
        """Are there clients that don't change statistics and quotas in the transaction of an operation?"""
        return any(_OURS not in str(session.get("Version", "")) for session in await self.sessions())

    async def _lasting(self, tree: TreeMeasure, ino: int, found: QuotaCheck) -> QuotaCheck:
        """JuiceFS writes statistics after one second and quotas after three: only what lasts longer is missing."""
        space, inodes = (Range(value, value) for value in found.missing[:2])
        for _ in range(4):
            await asyncio.sleep(self.foreign_flush_s)
            found = _compared(ino, await tree.run())
            space = space.hull(Range(found.missing.space, found.missing.space))
            inodes = inodes.hull(Range(found.missing.inodes, found.missing.inodes))
        exact = found.missing.exact and space.low == space.high and inodes.low == inodes.high
        return found._replace(missing=Drift(space.certain, inodes.certain, exact))

    async def check_quotas(self, *, strict: bool = False, repair: bool = False) -> list[QuotaCheck]:
        """All quotas of directories, then those of users and groups; only what is wrong is in the answer."""
        found = []
        directories = [e.ident async for e in self.iter_quotas() if e.kind == DIRECTORY]
        for ino in directories:
            try:
                checked = await self.check_quota(ino, strict=strict, repair=repair)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise
                continue
            if checked.missing:
                found.append(checked)
        if self.user_group_quota:
            found += await self.check_owner_quotas(repair=repair)
        return found

    # -- other clients ---------------------------------------------------------------------------------------------

    async def settle_quotas(self, *, timeout_s: float = 60, poll_s: float = 0.5) -> list[int]:
        """Wait until every other client has had a heartbeat since now, and so knows all quotas; then count again.

        Returns the ids of sessions that gave no sign in time; what they change is missed until they do.
        """
        silent = await self.await_heartbeats(timeout_s=timeout_s, poll_s=poll_s)
        await self.check_quotas(repair=True)
        return silent

    async def await_heartbeats(self, *, timeout_s: float = 60, poll_s: float = 0.5) -> list[int]:
        """Until all other sessions have refreshed themselves, ended, or expired."""
        start = await self._expiries()
        if not start:
            return []
        clock = asyncio.get_running_loop().time
        end = clock() + timeout_s
        while start and clock() < end:
            await asyncio.sleep(poll_s)
            now = await self._expiries()
            start = {sid: expiry for sid, expiry in start.items() if now.get(sid) == expiry}
        # A heartbeat first says that it lives and then reads quotas.
        await asyncio.sleep(min(_GRACE_S, 2 * poll_s))
        return sorted(start)

    async def _expiries(self) -> dict[int, int]:
        now = self.clock_ns() // 1_000_000_000
        return {
            key[1]: expiry
            async for key, expiry in self.store.scan(k.SESSION)
            if key[1] != self.sid and expiry >= now
        }  # fmt: skip

    # -- df ----------------------------------------------------------------------------------------------------------

    async def quota_limits(self, ino: int) -> list[Quota]:
        """Quotas of a directory and of all above it as they are stored now, the nearest first (semantics §2.5)."""
        if not self.dir_stats or ino >= TRASH:
            return []
        attr = await self.getattr(ino)
        if not attr.is_dir:
            ino = attr.parent or ROOT
        chain = await self.ancestors(ino)
        return [Quota(*q) for q in await self.store.read(*(k.quota(DIRECTORY, above) for above in chain)) if q]


def _listed(kind: int, quota: Quota) -> bool:
    return kind == DIRECTORY or quota.max_space >= 0 or quota.max_inodes >= 0


def _who(kind: int, ident: int) -> str:
    return f"{KINDS[kind]} {'inode ' if kind == DIRECTORY else ''}{ident}"


def _compared(ino: int, usage: TreeUsage) -> QuotaCheck:
    if usage.stored is None:
        raise FsError(errno.ENOENT, f"{_who(DIRECTORY, ino)} has no quota (any more)")
    stored = Quota(*usage.stored)
    drift = Drift(usage.space - stored.used_space, usage.inodes - stored.used_inodes, usage.exact)
    return QuotaCheck(DIRECTORY, ino, stored, drift)


__all__ = ["DIRECTORY", "GROUP", "KINDS", "USER", "QuotaCheck", "QuotaEntry", "Quotas"]
