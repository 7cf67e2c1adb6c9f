# SPDX-License-Identifier: Apache-2.0
"""Whole trees: recursive remove, summary, paths of an inode.

Nothing here recurses and nothing holds a whole tree: work waits on a stack, the deepest first, at most one page per
directory on the way down. Source: spec metadata-semantics §4.10, §13.1, §13.3.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import EXECUTE, WRITE, show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.jobs import Jobs
from core.meta.records import DIRECTORY, FILE, ROOT, TRASH, TRASH_NAME, Attr, DirStat, node_space
from core.meta.store import DirEntry

#: Entries of a directory that are worked on at a time.
_PAGE: Final = 1000
#: Directories whose statistics are read in one trip.
_BATCH: Final = 200
_WALKS: Final = 50
MAX_THREADS: Final = 255
MAX_DEPTH: Final = 10
MAX_TOP: Final = 100
#: How often a directory that keeps filling up is emptied again.
_ROUNDS: Final = 100

Progress = Callable[[int], None]


@dataclass(slots=True)
class Summary:
    """length: bytes of regular files; size: space, directories included."""

    length: int = 0
    size: int = 0
    files: int = 0
    dirs: int = 0

    def add(self, other: Summary) -> None:
        self.length += other.length
        self.size += other.size
        self.files += other.files
        self.dirs += other.dirs

    def add_node(self, attr: Attr | None, kind: int) -> None:
        if kind == DIRECTORY:
            self.dirs += 1
            self.size += 4096
        else:
            self.files += 1
            self.size += node_space(attr) if attr is not None else 4096
            if kind == FILE and attr is not None:
                self.length += attr.length


@dataclass(slots=True)
class TreeSummary:
    """One node of a tree summary. name is empty at the top; `...` (a file) is the sum of what isn't shown."""

    name: bytes
    ino: int
    type: int
    total: Summary
    children: list[TreeSummary] = field(default_factory=list)


class Trees(Jobs):
    """Mixin of `Meta`."""

    # -- remove ----------------------------------------------------------------------------------------------------

    async def remove_tree(
        self, parent: int, name: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False, threads: int = 50,
        progress: Progress | None = None,
    ) -> int:  # fmt: skip
        """rm -r of a name: how many entries went. With the trash on, each goes there by itself.

        `.trash` in the root and hourly directories are emptied and stay. What others remove at the same time is no
        error, what they add is removed too. Errors: ENOENT, EACCES, EPERM (skip_trash without being root), ENOTEMPTY
        (somebody fills it faster); what was removed until then is gone. Cancelling stops it between entries.
        """
        self.require_writable()
        if skip_trash and caller.uid != 0:
            raise FsError(errno.EPERM, "only root removes without the trash; leave out --skip-trash")
        ino, attr = await self.lookup(parent, name, caller)
        if attr.type != DIRECTORY:
            await self.unlink(parent, name, caller, skip_trash=skip_trash)
            return 1
        if parent < TRASH and ino != TRASH:
            await self.require_access(caller, parent, await self.getattr(parent), WRITE | EXECUTE)
        elif caller.uid != 0:
            raise FsError(errno.EPERM, f"{show(name)}: only root empties the trash")
        in_trash = parent >= TRASH or ino == TRASH  # what is in the trash can't go there again
        removal = _Removal(self, caller, skip_trash or in_trash, max(1, min(threads, MAX_THREADS)), progress)
        await removal.run(parent, name, ino)
        return removal.removed

    async def remove_children(self, ino: int, *, skip_trash: bool = True, threads: int = 10) -> int:
        """Everything below a directory, as root; the directory itself stays. How many entries went."""
        removal = _Removal(self, ROOT_CALLER, skip_trash, threads, None, keep_top=True)
        await removal.run(0, b"", ino)
        return removal.removed

    # -- summary ---------------------------------------------------------------------------------------------------

    async def summary(self, ino: int, *, recursive: bool = True, strict: bool = False) -> Summary:
        """Sums over a node and what is below it (or its own entries only).

        By directory statistics where they are kept: one trip for many directories. strict: every entry is looked at.
        """
        attr = await self.getattr(ino)
        total = Summary()
        total.add_node(attr, attr.type)
        if attr.type != DIRECTORY:
            return total
        strict = strict or not self.dir_stats
        if not recursive:
            found, _ = await self._listed(ino, attrs=True)
            total.add(found)
            return total
        waiting = [ino]
        while waiting:
            batch = [waiting.pop() for _ in range(min(_WALKS if strict else _BATCH, len(waiting)))]
            if strict:
                results = await asyncio.gather(*(self._listed(d, attrs=True) for d in batch))
            else:
                results = await self._by_statistics(batch)
            for found, below in results:
                total.add(found)
                waiting += below
        return total

    async def _listed(self, ino: int, *, attrs: bool) -> tuple[Summary, list[int]]:
        """Sums over the entries of one directory, and its sub-directories."""
        found = Summary()
        below: list[int] = []
        after = b""
        while page := await self.readdir(ino, after, _PAGE, attrs=attrs):
            for e in page:
                found.add_node(e.attr, e.type)
                if e.type == DIRECTORY:
                    below.append(e.ino)
            after = page[-1].name
            if len(page) < _PAGE:
                break
        return found, below

    async def _by_statistics(self, inodes: list[int]) -> list[tuple[Summary, list[int]]]:
        values = await self.store.read(*(k.dirstat(i) for i in inodes), *(k.node(i) for i in inodes))
        stats, attrs = values[: len(inodes)], values[len(inodes) :]
        return await asyncio.gather(*(self._of_one(*found) for found in zip(inodes, stats, attrs, strict=True)))

    async def _of_one(self, ino: int, stat: DirStat | None, attr: Attr | None) -> tuple[Summary, list[int]]:
        if attr is None:
            return Summary(), []  # removed meanwhile
        if stat is None or min(stat) < 0:
            if not self.read_only and ino < TRASH and ino not in self._recounting:
                self._recounting.add(ino)
                self.spawn(self._recount(ino))
            return await self._listed(ino, attrs=True)
        below: list[int] = []
        if attr.nlink > 2 or ino >= TRASH:  # hourly directories keep 2 whatever they hold
            _, below = await self._listed(ino, attrs=False)
        files = max(0, stat.inodes - len(below))
        return Summary(stat.length, stat.space, files, len(below)), below

    async def tree_summary(self, ino: int, *, depth: int = 2, top: int = 10, strict: bool = False) -> TreeSummary:
        """Sums of a directory and of its largest children, `depth` levels down (at most 10); of each directory the
        `top` largest (at most 100), the rest as one child named `...`."""
        attr = await self.getattr(ino)
        node = TreeSummary(b"", ino, attr.type, Summary())
        await self._grow(node, attr, max(0, min(depth, MAX_DEPTH)), max(1, min(top, MAX_TOP)), strict)
        return node

    async def _grow(self, node: TreeSummary, attr: Attr | None, depth: int, top: int, strict: bool) -> None:
        if node.type != DIRECTORY or depth == 0:
            try:
                node.total = await self.summary(node.ino, strict=strict) if node.type == DIRECTORY else _single(attr)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise
            return
        node.total.add_node(attr, DIRECTORY)
        largest: list[tuple[int, int, TreeSummary]] = []  # a heap, the smallest first
        rest = TreeSummary(b"...", 0, FILE, Summary())
        number = 0
        after = b""
        while page := await self.readdir(node.ino, after, _PAGE, attrs=True):
            # The walks of the last level are parallel, fifty at a time; those above follow each other.
            step = _WALKS if depth == 1 else 1
            for at in range(0, len(page), step):
                children = [TreeSummary(e.name, e.ino, e.type, Summary()) for e in page[at : at + step]]
                await asyncio.gather(
                    *(self._grow(c, e.attr, depth - 1, top, strict) for c, e in zip(children, page[at:], strict=False))
                )
                for child in children:
                    node.total.add(child.total)
                    number += 1
                    heapq.heappush(largest, (child.total.size, -number, child))
                    if len(largest) > top:
                        rest.total.add(heapq.heappop(largest)[2].total)
            after = page[-1].name
            if len(page) < _PAGE:
                break
        node.children = [child for _, _, child in sorted(largest, reverse=True)]
        if rest.total.files or rest.total.dirs:
            node.children.append(rest)

    # -- paths -----------------------------------------------------------------------------------------------------

    async def paths(self, ino: int) -> list[bytes]:
        """Every path of an inode, one per name; none if it is open without a name. ENOENT if it doesn't exist.

        What is in the trash is below /.trash. Costs a listing of each directory on the way up.
        """
        if ino == ROOT:
            return [b"/"]
        if ino == TRASH:
            return [b"/" + TRASH_NAME]
        known: dict[int, bytes | None] = {ROOT: b"", TRASH: b"/" + TRASH_NAME}
        found: list[bytes] = []
        for parent in await self.parents(ino):
            above = await self._path_of(parent, known)
            if above is not None:
                found += [above + b"/" + name for name in await self._names(parent, ino)]
        return sorted(found)

    async def _path_of(self, ino: int, known: dict[int, bytes | None]) -> bytes | None:
        """Path of a directory, None if it is nowhere (detached, or removed meanwhile)."""
        way: list[tuple[int, bytes]] = []
        at = ino
        while at not in known and len(way) < 4096:
            (attr,) = await self.store.read(k.node(at))
            names = await self._names(attr.parent, at, 1) if attr is not None and attr.parent else []
            if not names:
                known[at] = None
                break
            way.append((at, names[0]))
            at = attr.parent
        path = known.get(at)
        for step, name in reversed(way):
            path = None if path is None else path + b"/" + name
            known[step] = path
        return path

    async def _names(self, parent: int, ino: int, limit: int = 0) -> list[bytes]:
        found: list[bytes] = []
        after = b""
        while page := await self.readdir(parent, after, _PAGE):
            found += [e.name for e in page if e.ino == ino]
            after = page[-1].name
            if len(page) < _PAGE or (limit and len(found) >= limit):
                break
        return found


def _single(attr: Attr | None) -> Summary:
    one = Summary()
    if attr is not None:
        one.add_node(attr, attr.type)
    return one


class _Directory:
    """A directory that is being emptied. waiting: entries of the present page that aren't done yet."""

    __slots__ = ("above", "after", "ino", "name", "parent", "rounds", "seen", "waiting")

    def __init__(self, above: _Directory | None, parent: int, name: bytes, ino: int) -> None:
        self.above = above
        self.parent = parent
        self.name = name
        self.ino = ino
        self.after = b""
        self.waiting = 0
        self.rounds = 0
        self.seen = -1


class _Removal:
    """One recursive remove: a stack of directories and entries, and workers that take from its top.

    The workers' unlinks are in flight at the same time, so stores that group commits do so.
    """

    def __init__(
        self, meta: Trees, caller: Caller, skip_trash: bool, threads: int, progress: Progress | None, *,
        keep_top: bool = False,
    ) -> None:  # fmt: skip
        self.meta = meta
        self.caller = caller
        self.skip_trash = skip_trash
        self.threads = threads
        self.progress = progress
        self.keep_top = keep_top
        self.removed = 0
        self._stack: asyncio.LifoQueue[tuple[_Directory, DirEntry | None]] = asyncio.LifoQueue()
        self._idle: set[asyncio.Task[None]] = set()
        self._ending = False

    async def run(self, parent: int, name: bytes, ino: int) -> None:
        self._stack.put_nowait((_Directory(None, parent, name, ino), None))
        workers = [asyncio.create_task(self._work()) for _ in range(self.threads)]
        done = asyncio.create_task(self._stack.join())
        abandoned: Iterable[asyncio.Task[None]] = workers
        try:
            await asyncio.wait([done, *workers], return_when=asyncio.FIRST_COMPLETED)
            abandoned = self._idle  # a commit that is on its way can't be called back: nothing changes after the answer
            for worker in workers:
                if worker.done():
                    worker.result()  # only a failure ends a worker
        finally:
            self._ending = True
            for task in (done, *abandoned):
                task.cancel()
            await asyncio.gather(done, *workers, return_exceptions=True)

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None
        while not self._ending:
            self._idle.add(me)
            directory, entry = await self._stack.get()
            self._idle.discard(me)
            if entry is None:
                await self._step(directory)
            else:
                await self._unlink(directory, entry)
            self._stack.task_done()

    async def _unlink(self, directory: _Directory, entry: DirEntry) -> None:
        try:
            await self.meta.unlink(directory.ino, entry.name, self.caller, skip_trash=self.skip_trash)
            self._went()
        except FsError as e:
            if e.errno != errno.ENOENT and not await self._became_directory(e, directory, entry):
                raise
        self._done(directory)

    async def _became_directory(self, error: FsError, directory: _Directory, entry: DirEntry) -> bool:
        """Somebody put a directory in its place: the next round takes it."""
        if error.errno != errno.EPERM:
            return False
        found = await self.meta.store.resolve(directory.ino, [entry.name])
        return bool(found.steps) and found.steps[0].entry.type == DIRECTORY

    async def _step(self, directory: _Directory) -> None:
        """The next page of a directory; when there is none, the directory itself."""
        page = await self.meta.readdir(directory.ino, directory.after, _PAGE)
        if page:
            directory.after = page[-1].name
            directory.waiting = len(page)
            # Files are on top of the stack: few directories are open at a time.
            for e in page:
                if e.type == DIRECTORY:
                    self._stack.put_nowait((_Directory(directory, directory.ino, e.name, e.ino), None))
            for e in page:
                if e.type != DIRECTORY:
                    self._stack.put_nowait((directory, e))
            return
        if directory.ino >= TRASH or (self.keep_top and directory.above is None):
            self._stay(directory)
            return
        try:
            await self.meta.rmdir(directory.parent, directory.name, self.caller, skip_trash=self.skip_trash)
        except FsError as e:
            if e.errno == errno.ENOTEMPTY and directory.rounds < _ROUNDS:
                # Somebody added something behind us.
                directory.rounds += 1
                directory.after = b""
                self._stack.put_nowait((directory, None))
                return
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            self._finish(directory)
            return
        self._went()
        self._finish(directory)

    def _stay(self, directory: _Directory) -> None:
        """The end of a directory that is only emptied: looked at once more as long as that brings something. The
        trash itself, whose hours stay, is looked at once."""
        if directory.ino != TRASH and directory.after and self.removed != directory.seen:
            directory.seen = self.removed
            directory.after = b""
            self._stack.put_nowait((directory, None))
            return
        self._finish(directory)

    def _went(self) -> None:
        self.removed += 1
        if self.progress is not None:
            self.progress(self.removed)

    def _finish(self, directory: _Directory) -> None:
        if directory.above is not None:
            self._done(directory.above)

    def _done(self, directory: _Directory) -> None:
        """One entry of a directory is dealt with; after the last one of a page comes the next page."""
        directory.waiting -= 1
        if directory.waiting == 0:
            self._stack.put_nowait((directory, None))
