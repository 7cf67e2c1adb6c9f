# SPDX-License-Identifier: Apache-2.0
"""Clone: a copy of a file or tree that shares its data.

One file is one transaction that verifies what it read of the source. A tree is built where nobody sees it (detached,
`core/meta/detached.py`), in batches of verified copies, and gets its name in one last transaction: readers see all of
it or nothing. A file with more records than one transaction takes is built in the same way. Whatever stops a clone
removes what it built; a crash leaves that to the jobs of any client.

The source may change meanwhile: each file is a copy of it at one moment, what vanishes is left out. Hard links become
files of their own. Source: spec metadata-semantics §13.2, §2.3, §2.4; format §1.14, §3.3.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from core.errors import FsError, SluiceError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import EXECUTE, READ, Exists, show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.copying import CloneJob, Copying, Made, Progress, Source, TooLarge
from core.meta.detached import sum_stat
from core.meta.records import DIRECTORY, FILE, ROOT, TRASH, Attr, Entry, NodePatch, node_space
from core.meta.store import DirEntry, Tx

log = logging.getLogger("sluice.clone")

#: Chunks that are read together with everything else of a file; one trip more if there are others.
_FIRST_CHUNKS: Final = 4
_PAGE: Final = 1000
_BATCH: Final = 200
#: The detached record is renewed so often; after 24 hours any client would take the tree for abandoned.
_RENEW_S: Final = 600


class Cloned(NamedTuple):
    """The copy: its inode, attributes, and how many nodes it has."""

    ino: int
    attr: Attr
    nodes: int


class Clone(Copying):
    """Mixin of `Meta`."""

    async def clone(
        self, src: int, parent: int, name: bytes, caller: Caller = ROOT_CALLER, *, preserve: bool = False,
        umask: int = 0, concurrency: int = 4, progress: Progress | None = None,
    ) -> Cloned:  # fmt: skip
        """Make `name` in directory `parent` a copy of inode `src` (2 trips for a file or link of usual size).

        preserve: owner, mode and times too. Errors: EPERM (trash), EROFS, ENOENT, EACCES, ENOTDIR, EEXIST (`Exists`),
        EINVAL (a directory into itself), EDQUOT, ENOSPC, EBUSY (a huge file that never rests), EIO. After an error
        there is no copy, except that a connection lost at the very end may have let it through.
        """
        if src >= TRASH or parent >= TRASH or self.is_trash_name(parent, name):
            raise FsError(errno.EPERM, f"{show(name)}: nothing is cloned out of the trash or into it; restore it first")
        self.require_writable()
        if not name:
            raise FsError(errno.ENOENT, "the copy has no name")
        self.require_name(name)
        job = CloneJob(
            caller, preserve, umask, progress or (lambda done, total: None), asyncio.Semaphore(max(concurrency, 1)),
            max(concurrency, 1),
        )  # fmt: skip
        ino = self.inodes.take_nowait() or await self.inodes.take()

        async def body(tx: Tx) -> tuple[Tx, Attr | None]:
            keys = (k.node(src), k.node(parent), k.entry(parent, name), k.xattrs(src), k.symlink(src))
            sattr, pattr, there, xattrs, target, chunks = await self.store.read(*keys, k.chunks(src, _FIRST_CHUNKS))
            pattr = await self._require_cloneable(job, src, sattr, parent, pattr, there, name)
            if sattr.is_dir:
                return tx, None
            source = await self.whole_source(src, sattr, xattrs, target, chunks, _FIRST_CHUNKS)
            now = self.clock_ns()
            tx.expect_identity(parent, pattr)
            tx.expect(k.entry(parent, name), None)
            attr = job.attr(sattr, parent, now)
            if source.chunks and self.weight(source) > self.touch_limit(24):
                raise TooLarge
            self.put_copy(tx, job, source, parent, name, ino, attr, now, top=True)
            tx.patch(parent, NodePatch(0, now, now))
            await self.charge(
                tx, parent, attr.length if attr.type == FILE else 0, node_space(attr), 1, uid=attr.uid, gid=attr.gid
            )
            return tx, attr

        try:
            tx, attr = await self.store.transact(body)
        except TooLarge:
            attr = None
        else:
            self.after_commit(tx)
        if attr is not None:
            job.count([attr])
            return Cloned(ino, attr, 1)
        return await self._clone_detached(job, src, parent, name)

    async def _require_cloneable(
        self,
        job: CloneJob,
        src: int,
        sattr: Attr | None,
        parent: int,
        pattr: Attr | None,
        there: Entry | None,
        name: bytes,
    ) -> Attr:
        if sattr is None:
            raise FsError(errno.ENOENT, f"inode {src}, the source of the clone, does not exist")
        if sattr.in_trash or (pattr is not None and pattr.in_trash):
            raise FsError(errno.EPERM, f"{show(name)}: nothing is cloned out of the trash or into it; restore it first")
        await self.require_access(job.caller, src, sattr, READ)
        pattr = await self.require_target_dir(job.caller, parent, pattr, name)
        if there is not None:
            (attr,) = await self.store.read(k.node(there.ino))
            raise Exists(f"{show(name)}: exists in directory inode {parent}", there.ino, attr)
        if sattr.is_dir and src in await self._above(parent):
            raise FsError(errno.EINVAL, f"{show(name)}: directory inode {src} can't be cloned into itself")
        return pattr

    async def _above(self, ino: int) -> set[int]:
        """A directory and all above it, as they are now (1 trip each)."""
        seen: set[int] = set()
        while ino not in seen:
            seen.add(ino)
            (attr,) = await self.store.read(k.node(ino)) if ino != ROOT else (None,)
            if attr is None:
                break
            ino = attr.parent
        return seen

    # -- detached trees ------------------------------------------------------------------------------------------

    async def _clone_detached(self, job: CloneJob, src: int, parent: int, name: bytes) -> Cloned:
        """A directory, or a huge file inside a directory of its own that goes when the file gets its name."""
        sattr, xattrs = await self.store.read(k.node(src), k.xattrs(src))
        if sattr is None:
            raise FsError(errno.ENOENT, f"inode {src}, the source of the clone, was removed")
        space, job.total = await self._measure(src, sattr)
        # The limits of today; each transaction looks again (only growth is refused, nothing is written here).
        await self.charge(Tx(self.store), parent, 0, space, job.total, uid=job.caller.uid, gid=job.caller.gid)
        top = await self._make_top(job, src, sattr, xattrs)
        try:
            await point("clone.started")
            if sattr.is_dir:
                await self._fill(job, src, top)
                made, final = job.top, job.attr(sattr, parent, self.clock_ns())
            else:
                built = await self.build_huge(job, top, job.top, name, src)
                if built is None:
                    raise FsError(errno.ENOENT, f"inode {src}, the source of the clone, was removed")
                made, final = built
                final = msgspec.structs.replace(final, parent=parent)
            await point("clone.built")
            attr = await self._attach(job, parent, name, made, final, top)
        except BaseException as e:
            await self._give_up(job, e)
            raise
        await point("clone.attached")
        if attr.is_dir:
            self._dir_parents[made] = parent
        return Cloned(made, attr, job.nodes)

    async def _make_top(self, job: CloneJob, src: int, sattr: Attr, xattrs: Mapping[bytes, bytes]) -> Attr:
        """The detached directory. Its times are those of today until it is attached: clients may remove what is old
        and in no directory."""
        job.top = self.inodes.take_nowait() or await self.inodes.take()
        now = self.clock_ns()
        job.when = now // 1_000_000_000
        if sattr.is_dir:
            top = msgspec.structs.replace(job.attr(sattr, 0, now), atime_ns=now, mtime_ns=now, ctime_ns=now)
        else:
            top = Attr(DIRECTORY, 0o700, job.caller.uid, job.caller.gid, now, now, now, 2, 4096)
            xattrs = {}

        async def body(tx: Tx) -> None:
            self.put_node(tx, Source(src, sattr, xattrs), job.top, top)
            tx.put(k.detached(job.top), job.when)
            await self.charge_nodes(tx, [top], 1)
            if sattr.is_dir:
                self.log_change(
                    tx, "CLONE", src, 0, b"", job.top, job.bits, job.umask, True, result=job.top, now=now
                )  # fmt: skip

        await self.store.transact(body)
        if sattr.is_dir:
            job.count([top])
        return top

    async def _attach(self, job: CloneJob, parent: int, name: bytes, ino: int, final: Attr, top: Attr) -> Attr:
        """Give what was built its name, if that is still free and nobody took the tree for abandoned."""

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            pattr, there, built, mark = await self.store.read(
                k.node(parent), k.entry(parent, name), k.node(ino), k.detached(job.top)
            )
            if mark != job.when or built is None:
                raise FsError(errno.EIO, f"{show(name)}: the unfinished clone was removed by another client; try again")
            pattr = await self.require_target_dir(job.caller, parent, pattr, name)
            if there is not None:
                raise Exists(f"{show(name)}: was made in directory inode {parent} meanwhile", there.ino, None)
            now = self.clock_ns()
            attr = msgspec.structs.replace(final, nlink=built.nlink)
            tx.expect(k.detached(job.top), job.when)
            tx.expect(k.node(ino), built)
            tx.expect_identity(parent, pattr)
            tx.expect(k.entry(parent, name), None)
            tx.put(k.entry(parent, name), Entry(attr.type, ino))
            tx.put(k.node(ino), attr)
            tx.delete(k.detached(job.top))
            tx.patch(parent, NodePatch(1 if attr.is_dir else 0, now, now))
            if ino != job.top:
                # The directory around a huge file has done its work.
                tx.delete(k.entry(job.top, name))
                tx.delete(k.node(job.top))
                tx.delete(k.dirstat(job.top))
                await self.charge_nodes(tx, [top], -1)
            await self._charge_tree(tx, parent, attr, job.space, job.nodes)
            self.log_change(tx, "ATTACH", ino, parent, name, now=now)
            return tx, attr

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        return attr

    async def _charge_tree(self, tx: Tx, parent: int, attr: Attr, space: int, inodes: int) -> None:
        """What a tree adds to its new parent's statistics and, once, to the directory quotas above it. The volume and
        the owners have it already."""
        if not self.dir_stats:
            return
        tx.add(k.dirstat(parent), sum_stat([attr]))
        self._mark_epoch(tx)
        if self._dir_quotas:
            chain = await self.ancestors(parent, tx)
            await self.require_quotas([(0, above) for above in chain], space, inodes, below=parent)
            for above in chain:
                self._add_quota(tx, 0, above, space, inodes)

    async def _give_up(self, job: CloneJob, reason: BaseException) -> None:
        """Remove what was built. Not waited for when the caller is cancelled; `Meta.close` waits."""

        async def remove() -> None:
            try:
                if await self.remove_detached(job.top, job.when):
                    log.info("clone stopped (%s); what it had built is removed", reason or type(reason).__name__)
            except (SluiceError, FsError) as e:
                log.warning("clone stopped; its unfinished tree %d stays for the hourly job: %s", job.top, e)

        if isinstance(reason, Exception):
            await remove()
        else:
            self.spawn(remove())

    async def _renew(self, job: CloneJob) -> None:
        """A clone that takes long is no abandoned one. One task does this, so that `when` is what is stored."""
        now = self._now_s()
        if now - job.when < _RENEW_S:
            return

        async def body(tx: Tx) -> None:
            (mark,) = await tx.read(k.detached(job.top))
            if mark != job.when:
                raise FsError(errno.EIO, "the unfinished clone was removed by another client; try again")
            tx.put(k.detached(job.top), now)
            # JuiceFS's gc on Redis looks at the times of nodes that are in no directory.
            tx.patch(job.top, NodePatch(ctime_ns=self.clock_ns()))

        await self.store.transact(body)
        job.when = now

    async def _measure(self, src: int, attr: Attr) -> tuple[int, int]:
        """(space, nodes) of a tree, as the statistics of its directories say: an estimate for limits and progress."""
        space, nodes = node_space(attr), 1
        waiting = [src] if attr.is_dir else []
        while waiting:
            some, waiting = waiting[-100:], waiting[:-100]
            found = await self.store.read(*(key for ino in some for key in (k.node(ino), k.dirstat(ino))))
            for at, ino in enumerate(some):
                node, stat = found[2 * at : 2 * at + 2]
                if node is None:
                    continue
                known = self.dir_stats and stat is not None and min(stat) >= 0
                if known:
                    space, nodes = space + stat.space, nodes + stat.inodes
                    if node.nlink == 2:  # no sub-directory
                        continue
                after = b""
                while page := await self.readdir(ino, after, _PAGE, attrs=not known):
                    waiting += [entry.ino for entry in page if entry.type == DIRECTORY]
                    if not known:
                        seen = sum_stat(entry.attr for entry in page if entry.attr is not None)
                        space, nodes = space + seen.space, nodes + seen.inodes
                    after = page[-1].name
        return space, nodes

    # -- many nodes ----------------------------------------------------------------------------------------------

    async def _fill(self, job: CloneJob, src: int, top: Attr) -> None:
        """Clone what is in a directory into the detached one, deepest first, so that few directories wait."""
        waiting: list[Made] = [(src, job.top, top)]
        running: set[asyncio.Task[list[Made]]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < job.concurrency:
                    running.add(asyncio.create_task(self._clone_directory(job, *waiting.pop())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED, timeout=_RENEW_S)
                for task in done:
                    waiting += task.result()
                await self._renew(job)
        finally:
            await _end(running)

    async def _clone_directory(self, job: CloneJob, source: int, ino: int, attr: Attr) -> list[Made]:
        """The children of one directory; returns its sub-directories, which are still empty."""
        (sattr,) = await self.store.read(k.node(source))
        if sattr is None:
            return []
        await self.require_access(job.caller, source, sattr, READ | EXECUTE)
        below: list[Made] = []
        after = b""
        step = max(min(_BATCH, self.touch_limit(24) // 8), 1)
        while page := await self.readdir(source, after, _PAGE, attrs=True):
            await _all(
                self._gated(job, ino, attr, page[at : at + step], below) for at in range(0, len(page), step)
            )  # fmt: skip
            after = page[-1].name
            if len(page) < _PAGE:
                break
        return below

    async def _gated(self, job: CloneJob, ino: int, attr: Attr, entries: Sequence[DirEntry], below: list[Made]) -> None:
        async with job.gate:
            await self.clone_entries(job, ino, attr, entries, below)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Together; the first error ends the others before it is raised."""
    tasks = {asyncio.create_task(coroutine) for coroutine in work}
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
