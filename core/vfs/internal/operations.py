# SPDX-License-Identifier: Apache-2.0
"""What the control file can be asked for, done over the metadata engine and the data path of this process.

Numbers of requests are the mount's: 1 is its root. A mount of a sub-directory refuses inodes outside of it, whoever
asks; permissions are checked here as the kernel doesn't see what happens behind the control file.
Source: metadata-semantics §12.2, §13; cli §10.3.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from core.chunk.store import BlockSliceStore
from core.errors import FsError, SluiceError
from core.meta.base import READ, WRITE
from core.meta.caller import Caller
from core.meta.format import Format
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, ROOT, TRASH
from core.meta.tree import TreeSummary
from core.vfs.internal import protocol as p
from core.vfs.internal.describe import info_document, legacy_lines
from core.vfs.internal.inodes import is_internal
from core.vfs.internal.progress import Tally
from core.vfs.internal.warmup import Warmed, Warmer, find_paths
from core.vfs.vfs import VFS

log = logging.getLogger("sluice.control")

_MAX_DEPTH: Final = 4096

#: Told about a name of the mount that something behind the kernel's back made or removed.
NameChanged = Callable[[int, bytes], None]


class ControlOperations:
    """A `control.Performer`. One per mount."""

    def __init__(self, meta: Meta, slices: BlockSliceStore, fmt: Format, vfs: VFS | None = None, *, root: int = ROOT):
        self.name_changed: NameChanged | None = None
        self._meta = meta
        self._slices = slices
        self._format = fmt
        self._vfs = vfs
        self._root = root

    async def perform(self, command: int, request: p.Request, caller: Caller, tally: Tally) -> bytes:
        """The final reply; FsError becomes a lone errno, or is told inside of the JSON that the command answers."""
        caller = with_groups(caller)
        if isinstance(request, p.RemoveTree):
            return await self._remove(request, caller, tally)
        if isinstance(request, p.Info):
            return await self._info(command, request, caller, tally)
        if isinstance(request, p.WarmUp):
            return await self._warm_up(request, tally)
        if isinstance(request, p.CloneTree):
            return await self._clone(request, caller, tally)
        if isinstance(request, p.TreeSum):
            return await self._summary(request, caller, tally)
        return await self._compact(request, caller, tally)

    # -- commands ---------------------------------------------------------------------------------------------------

    async def _remove(self, request: p.RemoveTree, caller: Caller, tally: Tally) -> bytes:
        _require_plain(request.name)
        parent = await self._inside(request.parent)
        try:
            await self._meta.remove_tree(
                parent, request.name, caller, skip_trash=request.skip_trash, threads=request.threads,
                progress=lambda count: tally.set(count, 0),
            )  # fmt: skip
        finally:
            self._changed(request.parent, request.name)
        return p.errno_frame(0)

    async def _info(self, command: int, request: p.Info, caller: Caller, tally: Tally) -> bytes:
        try:
            ino = await self._inside(request.ino)
            await self._settle(ino)
            document = await info_document(
                self._meta, self._format, ino, recursive=request.recursive, raw=request.raw, strict=request.strict,
                below=await self._below(),
            )  # fmt: skip
        except FsError as e:
            document = {
                "Ino": request.ino, "Failed": True, "Reason": e.strerror or str(e), "Summary": None, "Paths": None,
                "Chunks": None, "Objects": None, "PLocks": None, "FLocks": None, "Tier": 0, "RestoreStatus": "",
            }  # fmt: skip
        if document["Summary"]:
            tally.set(document["Summary"]["Files"], document["Summary"]["Size"])
        if command == p.INFO_LEGACY:
            return p.legacy_text(legacy_lines(document, request.raw).encode())
        return p.data_frame(msgspec.json.encode(document))

    async def _warm_up(self, request: p.WarmUp, tally: Tally) -> bytes:
        inodes = []
        for ino in dict.fromkeys(await find_paths(self._meta, self._root, request.paths)):
            # Paths lead nowhere else; numbers could.
            inodes.append(await self._inside(ino))
        await self._settle(*inodes)
        warmer = Warmer(self._meta, self._slices, request.action, request.threads, tally)
        if request.background:
            self._meta.spawn(self._warm_in_background(warmer, inodes))
            return p.data_frame(msgspec.json.encode(Warmed().document()))
        return p.data_frame(msgspec.json.encode((await warmer.run(inodes)).document()))

    async def _warm_in_background(self, warmer: Warmer, inodes: list[int]) -> None:
        report = await warmer.run(inodes)
        log.info(
            "warm-up: %d files, %d bytes, %d of them were missing, %d failed", report.files, report.total,
            report.missing, report.failed,
        )  # fmt: skip

    async def _clone(self, request: p.CloneTree, caller: Caller, tally: Tally) -> bytes:
        _require_plain(request.name)
        source = await self._inside(request.ino)
        parent = await self._inside(request.parent)
        await self._settle(source)
        await self._meta.clone(
            source, parent, request.name, caller, preserve=bool(request.mode & p.PRESERVE), umask=request.umask,
            concurrency=request.threads, progress=tally.set,
        )  # fmt: skip
        self._changed(request.parent, request.name)
        return p.errno_frame(0)

    async def _summary(self, request: p.TreeSum, caller: Caller, tally: Tally) -> bytes:
        document: dict[str, Any] = {"Errno": 0, "Tree": None}
        try:
            ino = await self._inside(request.ino)
            await self._settle(ino)
            tree = await self._meta.tree_summary(
                ino, depth=request.depth, top=request.entries, strict=request.strict
            )  # fmt: skip
            tally.set(tree.total.files, tree.total.size)
            paths = [b"/"] if ino == self._root else await self._meta.paths(ino)
            top = paths[0].rpartition(b"/")[2] if paths else b""
            document["Tree"] = summary_tree(tree, top.decode("utf-8", "replace"))
        except FsError as e:
            document["Errno"] = e.errno or errno.EIO
        return p.data_frame(msgspec.json.encode(document))

    async def _compact(self, request: p.Compact, caller: Caller, tally: Tally) -> bytes:
        ino = await self._inside(request.ino)
        attr = await self._meta.getattr(ino)
        await self._meta.require_access(caller, ino, attr, WRITE if attr.type != DIRECTORY else READ | WRITE)
        await self._settle(ino)
        report = await self._meta.compact_tree(
            ino, concurrency=request.threads, progress=lambda done: tally.set(done.chunks, done.compacted)
        )
        tally.set(report.chunks, report.compacted)
        for failure in report.failures[:20]:
            log.warning("compact: %s", failure)
        return p.errno_frame(errno.EIO if report.failures else 0)

    # -- rules ------------------------------------------------------------------------------------------------------

    async def _inside(self, ino: int) -> int:
        """The volume's inode of one of the mount. ENOENT unless it lies in the mounted directory."""
        if ino == ROOT:
            return self._root
        if ino <= 0 or is_internal(ino):
            raise FsError(errno.EINVAL, f"inode {ino} is none of the volume")
        if self._root == ROOT or ino == self._root:
            return ino
        if ino < TRASH:
            seen = 0
            waiting = list(await self._meta.parents(ino))
            while waiting and seen < _MAX_DEPTH:
                at = waiting.pop()
                if at == self._root:
                    return ino
                seen += 1
                if at != ROOT and at < TRASH:
                    with suppress(FsError):
                        waiting.append((await self._meta.getattr(at)).parent)
        raise FsError(errno.ENOENT, f"inode {ino} is not in the mounted directory")

    async def _below(self) -> bytes:
        """Path of the mounted directory, b"" for the volume's root."""
        if self._root == ROOT:
            return b""
        paths = await self._meta.paths(self._root)
        return paths[0] if paths else b""

    async def _settle(self, *inodes: int) -> None:
        """What this process has buffered of these, or of anything if one may be a directory, is recorded first. What
        can't be written is its writer's trouble."""
        vfs = self._vfs
        if vfs is None:
            return
        for ino in inodes if all(map(vfs.is_open, inodes)) else list(self._meta.open_files):
            with suppress(FsError):
                await vfs.flush(ino)

    def _changed(self, parent: int, name: bytes) -> None:
        if self.name_changed is not None:
            try:
                self.name_changed(parent, name)
            except (OSError, SluiceError) as e:
                log.warning("the kernel could not be told of a changed name: %s", e)


def _require_plain(name: bytes) -> None:
    """A name of one entry: `..` would lead out of the mounted directory."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise FsError(errno.EINVAL, f"{name.decode('utf-8', 'backslashreplace')!r} is no name of an entry")


def summary_tree(tree: TreeSummary, path: str) -> dict[str, Any]:
    """A summary as the control file tells it; paths are relative to the directory above the top."""
    children = [
        summary_tree(child, f"{path}/{child.name.decode('utf-8', 'replace')}".lstrip("/")) for child in tree.children
    ]
    return {
        "Inode": tree.ino, "Path": path or "/", "Type": tree.type, "Size": tree.total.size, "Files": tree.total.files,
        "Dirs": tree.total.dirs, "Children": children or None,
    }  # fmt: skip


def with_groups(caller: Caller) -> Caller:
    """The caller with its supplementary groups and with permissions tested here: the kernel only tests who may open
    the control file, which is everybody."""
    gids = caller.gids
    if caller.uid and caller.pid > 0 and len(gids) <= 1:
        gids = (caller.gid, *_supplementary(caller.pid, caller.uid))
    return caller._replace(gids=gids, check=True)


def _supplementary(pid: int, uid: int) -> list[int]:
    """Groups of a process, if it still is the user's; none if it can't be told (another pid namespace)."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
            lines = dict(line.split(":", 1) for line in f if ":" in line)
        if str(uid) not in lines["Uid"].split():
            return []
        return [int(g) for g in lines["Groups"].split()]
    except (OSError, KeyError, ValueError):
        return []
