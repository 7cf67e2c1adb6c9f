# SPDX-License-Identifier: Apache-2.0
"""All metadata operations of one client of one volume, and how a volume comes into being."""

from __future__ import annotations

from typing import NamedTuple

from core.errors import VolumeError
from core.meta import keys as k
from core.meta.clone import Clone
from core.meta.compact import Compaction
from core.meta.format import Format
from core.meta.jobs import Jobs
from core.meta.length import Lengths
from core.meta.locks import Locks
from core.meta.lost import Lost
from core.meta.quota import Quotas
from core.meta.ranges import Ranges
from core.meta.recording import Recording
from core.meta.records import DIRECTORY, ROOT, TRASH, Attr, DirStat
from core.meta.restore import Restore
from core.meta.store import DELETE, EXACT, PUT, PUT_NEW, RecordStore, Write
from core.meta.tree import Trees

_PIB = 1 << 50
_TEN_MI = 10 << 20


class StatFs(NamedTuple):
    """Bytes and inodes of the volume, as `df` shows them."""

    total: int
    available: int
    used: int
    used_inodes: int
    available_inodes: int


class Meta(Clone, Restore, Quotas, Trees, Jobs, Locks, Compaction, Ranges, Recording, Lengths, Lost):
    """Every operation in one object; each base class is one concern, in a module of that name."""

    async def statfs(self, ino: int = ROOT) -> StatFs:
        """What `df` shows at an inode: the volume, narrowed by every directory quota above it (semantics §2.5)."""
        space, inodes = await self.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
        used, used_inodes = max(0, space), max(0, inodes)
        if self.capacity:
            total = max(self.capacity, used)
        else:
            total = _PIB
            while total * 8 < used * 10:
                total *= 2
        if self.max_inodes:
            free = max(0, self.max_inodes - used_inodes)
        else:
            free = _TEN_MI
            while used_inodes > 4 * free:
                free *= 2
        available = total - used
        limits = await self.quota_limits(ino)
        for quota in limits:
            if quota.max_space > 0:
                available = min(available, max(0, quota.max_space - max(0, quota.used_space)))
            if quota.max_inodes > 0:
                free = min(free, max(0, quota.max_inodes - max(0, quota.used_inodes)))
        if limits:
            used, used_inodes = max(0, limits[0].used_space), max(0, limits[0].used_inodes)
            total = used + available
        return StatFs(total, available, used, used_inodes, free)

    async def run_jobs(self) -> None:
        await super().run_jobs()
        await self.clean_detached()

    async def close(self) -> None:
        await self.stop_jobs()
        await self.end_session()
        await self.store.close()


async def load_format(store: RecordStore) -> Format | None:
    """The volume's setting, or None if the database holds no volume."""
    (raw,) = await store.read(k.setting())
    return None if raw is None else Format.parse(raw)


async def init_format(store: RecordStore, fmt: Format, now_ns: int) -> None:
    """Write the setting; a new volume also gets its root, and the trash root if the trash is on (format §7.1)."""
    await store.prepare()
    (raw,) = await store.read(k.setting())
    fresh = raw is None
    text = fmt.to_json()
    writes: list[Write] = [(PUT, k.setting(), text)]
    if fmt.trash_days > 0:
        trash = Attr(DIRECTORY, 0o555, 0, 0, now_ns, now_ns, now_ns, 2, 4096, 0, ROOT)
        writes.append((PUT_NEW, k.node(TRASH), trash))
    if fresh:
        root = Attr(DIRECTORY, 0o777, 0, 0, now_ns, now_ns, now_ns, 2, 4096, 0, ROOT)
        writes.append((PUT, k.node(ROOT), root))
        if fmt.dir_stats:
            # The original leaves it to the first recount; then the first changes of the root would each start one.
            writes.append((PUT, k.dirstat(ROOT), DirStat(0, 0, 0)))
        writes += store.initial_counters()
    await store.commit([(EXACT, k.setting(), raw)], writes)
    if raw is not None and not Format.parse(raw).dir_stats and fmt.dir_stats:
        # Statistics kept while nobody maintained them are wrong; readers recount what is missing.
        stale = [key async for key, _ in store.scan(k.DIRSTAT)]
        for at in range(0, len(stale), 1000):
            await store.commit([], [(DELETE, key, None) for key in stale[at : at + 1000]])


async def require_format(store: RecordStore, shown_url: str) -> Format:
    fmt = await load_format(store)
    if fmt is None:
        raise VolumeError(f"{shown_url} holds no volume; create one with `sluice format META-URL NAME`")
    fmt.check_client()
    return fmt
