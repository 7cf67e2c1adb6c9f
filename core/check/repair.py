# SPDX-License-Identifier: Apache-2.0
"""Set one finding of a recount right, in a transaction that verifies that it still is as it was found.

Totals (counters, statistics, quotas) get what they lack added, so what others do at the same time is kept.
Source: spec metadata-semantics §1.2, §14.2.
"""

from __future__ import annotations

import msgspec

from core.check.findings import Finding
from core.errors import FsError
from core.gc import set_references
from core.meta import keys as k
from core.meta.base import Exists
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, FILE, ROOT, Attr, DirStat, Entry, NodePatch, node_space
from core.meta.recount import Sample, measure
from core.meta.store import ADD, Tx

DIRECTORY_MODE = 0o755


async def repair(meta: Meta, finding: Finding, *, directory_mode: int = DIRECTORY_MODE) -> bool:
    """Set one finding right if it still is as it was found; False if it can't be, or isn't any more.

    directory_mode: of directories whose attributes are lost.
    """
    if not finding.repairable:
        return False
    kind, key = finding.kind, finding.key
    if kind == "counters":
        return await _repair_counters(meta, finding)
    if kind == "references":
        # Upwards only, which is always safe; whether a count may go down is gc's to judge.
        return await set_references(meta.store, key[0], key[1], finding.stored, finding.expected)
    if kind == "dirstat":
        return await _repair_statistics(meta, key[0])
    if kind == "quota":
        return await _repair_quota(meta, key[0])
    if kind == "owner-quota":
        await meta.add_usage([(*key, *(e - s for e, s in zip(finding.expected, finding.stored, strict=True)))])
        return True
    if kind == "detached":
        return await meta.remove_detached(key[0], key[1])
    if kind == "session":
        await meta.finalise_sustained(key[1], key[0])
        return True
    if kind in ("no-inode", "type"):
        return await meta.store.transact(lambda tx: _repair_entry(meta, tx, finding, directory_mode))
    if kind == "no-entry":
        return await _rescue(meta, key[0])
    if kind == "no-quota-directory":
        return await meta.store.transact(lambda tx: _drop_quota(tx, key[0]))
    if kind == "lost-chunk":
        return await meta.release_lost(key[0], key[1])
    return await meta.store.transact(lambda tx: _repair_node(tx, finding))


# -- totals ----------------------------------------------------------------------------------------------------------


async def _repair_counters(meta: Meta, finding: Finding) -> bool:
    """The error is a constant that two passes agreed upon: added, whatever the counters are now."""
    names = finding.key
    await meta.store.commit(
        [],
        [
            (ADD, k.counter(name), want - have)
            for name, have, want in zip(names, finding.stored, finding.expected, strict=True)
            if want != have
        ],
    )
    return True


async def _repair_statistics(meta: Meta, ino: int) -> bool:
    """By a recount that nothing disturbed; of a directory that never rests, what is certain is added."""
    before = (await meta.store.read(k.dirstat(ino)))[0]
    await meta.recount_directory(ino)
    if before is not None:
        lacks = await statistics_lack(meta, ino)
        if any(lacks):
            await meta.store.commit([], [(ADD, k.dirstat(ino), lacks)])
    return True


async def statistics_lack(meta: Meta, ino: int) -> DirStat:
    """What the statistics of a directory certainly lack while others change it. The length only if it rests."""
    length = 0

    async def stored() -> DirStat:
        (stat,) = await meta.store.read(k.dirstat(ino))
        return DirStat(*stat) if stat is not None else DirStat(0, 0, 0)

    async def count() -> Sample:
        nonlocal length
        first = await stored()
        counted = await meta.sum_entries(ino)
        last = await stored()
        length = counted.length - last.length if first == last else 0
        return Sample(first[1:], counted[1:], last[1:], counted.length)

    lacks = await measure(count)
    return DirStat(length, lacks.space, lacks.inodes)


async def _repair_quota(meta: Meta, ino: int) -> bool:
    try:
        return (await meta.check_quota(ino, strict=True, repair=True)).repaired
    except FsError:
        return False  # deleted meanwhile


async def _drop_quota(tx: Tx, ino: int) -> bool:
    attr, quota = await tx.read(k.node(ino), k.quota(0, ino))
    if quota is None or (attr is not None and attr.type == DIRECTORY):
        return False
    tx.delete(k.quota(0, ino))
    return True


# -- nodes and entries -----------------------------------------------------------------------------------------------


async def _repair_node(tx: Tx, finding: Finding) -> bool:
    """nlink and parent."""
    ino = finding.key[0]
    (attr,) = await tx.read(k.node(ino))
    if attr is None:
        return False
    if finding.kind == "nlink":
        if attr.type == DIRECTORY:
            # Sub-directories may come and go meanwhile: the error stays what it was.
            tx.checks.clear()
            tx.patch(ino, NodePatch(finding.expected - finding.stored))
            return True
        if attr.nlink != finding.stored:
            return False
        tx.put(k.node(ino), msgspec.structs.replace(attr, nlink=finding.expected))
    elif len(finding.key) == 2:  # links of one parent
        (counts,) = await tx.read(k.parents(ino))
        if counts.get(finding.key[1], 0) != finding.stored:
            return False
        tx.add(k.parent(ino, finding.key[1]), finding.expected - finding.stored)
    else:
        if attr.parent != finding.stored:
            return False
        tx.put(k.node(ino), msgspec.structs.replace(attr, parent=finding.expected))
    return True


async def _repair_entry(meta: Meta, tx: Tx, finding: Finding, mode: int) -> bool:
    """Correct the type of an entry; give a directory without an inode record an empty record, so that what it holds
    can be reached again (root's, as nobody knows better; §14.2)."""
    parent, name, ino = finding.key[:3]
    entry, attr = await tx.read(k.entry(parent, name), k.node(ino))
    if entry is None or entry.ino != ino:
        return False
    if finding.kind == "type":
        if attr is None:
            return False
        tx.put(k.entry(parent, name), Entry(attr.type, ino))
        return True
    if attr is not None:
        return False
    now = meta.clock_ns()
    subdirs = sum(e.type == DIRECTORY for e in await meta.store.list_entries(ino, b"", 1 << 20))
    tx.put(k.node(ino), Attr(DIRECTORY, mode, 0, 0, now, now, now, 2 + subdirs, 4096, 0, parent))
    tx.add(k.counter("usedSpace"), 4096)
    tx.add(k.counter("totalInodes"), 1)
    meta.log_change(tx, "REPAIRDIR", ino, now=now)
    return True


async def _rescue(meta: Meta, ino: int) -> bool:
    """An inode in no directory: deleted if it was unlinked, else put into /lost+found under its number."""
    (attr,) = await meta.store.read(k.node(ino))
    if attr is None:
        return False
    if attr.type == FILE and attr.nlink == 0:
        await meta.finalise_sustained(0, ino)
        return True
    try:
        folder, _ = await meta.mkdir(ROOT, b"lost+found", 0o700)
    except Exists as e:
        folder = e.ino

    async def body(tx: Tx) -> bool:
        now, parent_attr = await tx.read(k.node(ino), k.node(folder))
        name = str(ino).encode()
        if now is None or parent_attr is None:
            return False
        tx.expect(k.entry(folder, name), None)
        tx.put(k.entry(folder, name), Entry(now.type, ino))
        if now.type == DIRECTORY:
            tx.put(k.node(ino), msgspec.structs.replace(now, parent=folder))
            tx.put(k.node(folder), msgspec.structs.replace(parent_attr, nlink=parent_attr.nlink + 1))
        else:
            tx.put(k.node(ino), msgspec.structs.replace(now, parent=folder, nlink=1))
            tx.delete(k.parents(ino))
        length = now.length if now.type == FILE else 0
        await meta.charge(tx, folder, length, node_space(now), 1, volume=False, check=False, owner=False)
        return True

    try:
        return await meta.store.transact(body)
    except FsError:
        return False
