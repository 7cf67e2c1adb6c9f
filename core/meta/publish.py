# SPDX-License-Identifier: Apache-2.0
"""Publish: bind finished content to a path in one transaction.

What S3 PUT, multipart completion, WebDAV PUT and COPY are made of. Before the commit nothing is visible; after it
everything is: parents, entry, inode with length, slices and extended attributes, the old target in the trash.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from core.errors import FsError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import show
from core.meta.caller import ROOT_CALLER, Caller, Condition
from core.meta.data import Data
from core.meta.keys import Key
from core.meta.known import KnownPlaces, Place, Target
from core.meta.namespace import SymlinkInPath
from core.meta.records import (
    DIRECTORY,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    ROOT,
    SYMLINK,
    TRASH,
    Attr,
    DirStat,
    Entry,
    Slice,
    encode_slices,
    node_space,
)
from core.meta.store import Tx


class Content(msgspec.Struct, frozen=True):
    """Bytes that are stored but bound to no name yet: chunk index -> slice records, oldest first.

    fresh: (slice id, size, refs) to register at publish. shared: (slice id, size, extra references) taken from
    existing files, which are `sources`: (ino, chunk index, raw value) that must still hold at publish.
    """

    length: int
    chunks: dict[int, list[Slice]]
    fresh: tuple[tuple[int, int, int], ...] = ()
    shared: tuple[tuple[int, int, int], ...] = ()
    sources: tuple[tuple[int, int, bytes], ...] = ()


class ImplicitDirs(msgspec.Struct, frozen=True):
    """How missing parent directories are made."""

    mode: int = 0o777
    umask: int = 0
    xattrs: Mapping[bytes, bytes] = {}


class Published(msgspec.Struct, frozen=True, gc=False):
    ino: int
    attr: Attr
    replaced: bool


class SourceChanged(FsError):
    """ESTALE: a chunk of what the content was cloned from is no longer the same: written to, or only compacted."""


class GuardChanged(FsError):
    """ESTALE: one of the `guards` of a publish is no longer what the caller has seen."""


class Publish(Data):
    """Mixin of `Meta`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._known = KnownPlaces()

    async def publish(
        self,
        base: int,
        names: Sequence[bytes],
        content: Content | None,
        caller: Caller = ROOT_CALLER,
        *,
        mode: int = 0o644,
        umask: int = 0,
        xattrs: Mapping[bytes, bytes] | None = None,
        mtime_ns: int | None = None,
        atime_ns: int | None = None,
        condition: Condition | None = None,
        parents: ImplicitDirs | None = None,
        replace_empty_dir: bool = False,
        skip_trash: bool = False,
        inherit: Collection[bytes] | None = None,
        guards: Sequence[tuple[Key, Any]] = (),
    ) -> Published:
        """Make `names` below directory `base` a new file with this content (2 trips, 1 in a known
        directory); content None makes a directory.

        inherit: a file that is replaced hands on mode, owner, group, access rules and extended attributes, except
        those of these names (1 trip more then); only a file may be replaced, a link is `SymlinkInPath`.
        guards: records that the caller's decision rests upon; the commit proves them, or `GuardChanged` is raised.

        Errors: ENOENT (a parent is missing and `parents` is None), ENOTDIR, EISDIR, EEXIST (`Exists`), ESTALE
        (condition, a guard, or a source of the content changed), EPERM, EACCES, EDQUOT, ENOSPC, SymlinkInPath.
        """
        self.require_writable()
        if not names:
            raise FsError(errno.EISDIR, "the root of the volume can't be replaced")
        for name in names:
            self.require_name(name)
        if base >= TRASH or self.is_trash_name(base, names[0]):
            raise FsError(errno.EPERM, f"{show(names[0])}: nothing can be created in the trash or under its name")
        for name, value in (xattrs or {}).items():
            self.require_xattr(name, value)
        ino = self.inodes.take_nowait() or await self.inodes.take()
        kind = DIRECTORY if content is None else FILE

        known: Place | None = None
        if (caller.uid == 0 or not caller.check) and (condition is None or condition.absent):
            # Else permissions or the present target have to be read anyway.
            known = self._known.guess(base, names, replacing=kind == FILE and condition is None)

        async def body(tx: Tx) -> tuple[Tx, Published]:
            now = self.clock_ns()
            target: Target = (None, None)
            missing = 0
            await self._expect_guards(tx, guards)
            guess = known if tx.attempt == 0 else self._known.corrected(known, tx.lost, names[-1])
            if guess is not None:
                # Nothing is read: the commit proves that the path still leads here and what the name is.
                parent, pattr, target = guess.parent, guess.attr, guess.target
                for key, seen in guess.path:
                    tx.expect(key, seen)
            else:
                found = await self.store.resolve(base, names)
                parent, seen_attr, missing = await self.walk_parents(
                    caller, base, names, found, make=parents is not None
                )
                pattr = await self.require_target_dir(caller, parent, seen_attr, names[-1])
                if not missing:
                    if len(found.steps) == len(names):
                        target = found.steps[-1]
                    tx.after.append(lambda: self._known.learn_directory(base, names, found, parent, pattr))
            tx.expect_identity(parent, pattr)
            replaced = False
            kept: dict[bytes, bytes] = {}
            if missing:
                assert parents is not None
                self.require_condition(condition, None, None, names[-1])
                parent, pattr = await self._make_dirs(tx, parent, pattr, names[-1 - missing : -1], parents, caller, now)
            else:
                # A free name, the usual case, needs no trash.
                trash = 0 if target[0] is None or content is None else await self.trash_dir(base, skip=skip_trash)
                if inherit is not None and target[0] is not None:
                    kept = await self._handed_on(tx, target[0], names, inherit)
                replaced = await self._take_name(
                    tx, parent, pattr, names[-1], *target, trash, now, condition, directory=content is None,
                    replace_empty_dir=replace_empty_dir,
                )  # fmt: skip
            attr = await self.new_attr(parent, pattr, caller, kind, mode, umask, now)
            attr = msgspec.structs.replace(
                attr,
                mtime_ns=now if mtime_ns is None else mtime_ns,
                atime_ns=now if atime_ns is None else atime_ns,
                length=content.length if content is not None else attr.length,
            )
            old = target[1]
            if inherit is not None and old is not None:
                attr = msgspec.structs.replace(attr, mode=old.mode, uid=old.uid, gid=old.gid, access_acl=old.access_acl)
            if replaced or missing:
                # Times of the parent are patched by what took the name, or it is itself new.
                tx.put(k.entry(parent, names[-1]), Entry(kind, ino))
                tx.put(k.node(ino), attr)
                if missing:
                    self._grow_new_dir(tx, parent, kind)
                if kind == DIRECTORY and self.dir_stats:
                    tx.put(k.dirstat(ino), DirStat(0, 0, 0))
                await self.charge(
                    tx, parent, attr.length if kind == FILE else 0, node_space(attr), 1, uid=attr.uid, gid=attr.gid
                )
                touched = True
            else:
                touched = await self.add_node(tx, parent, pattr, names[-1], ino, attr, now)
            self.log_create(tx, parent, names[-1], ino, attr, mode, umask, touched, now, caller)
            for name, value in {**kept, **(xattrs or {})}.items():
                tx.put(k.xattr(ino, name), value)
                self.log_change(tx, "SETXATTR", ino, name, value, 0, now=now)
            if content is not None:
                await self._bind(tx, ino, content, attr)
            if mtime_ns is not None or atime_ns is not None:
                times = {"mtime_ns": mtime_ns, "atime_ns": atime_ns}
                self.log_setattr(tx, ino, {name: t for name, t in times.items() if t is not None}, attr)
            await point("publish.before-commit")
            return tx, Published(ino, attr, replaced)

        tx, published = await self.store.transact(body)
        await point("publish.committed")
        self.after_commit(tx)
        if kind == FILE:
            self._known.learn_file(published.attr.parent, names[-1], ino, published.attr)
        return published

    @staticmethod
    async def _expect_guards(tx: Tx, guards: Sequence[tuple[Key, Any]]) -> None:
        if guards and tx.attempt:
            now = await tx.peek(*(key for key, _ in guards))
            if any(found != seen for found, (_, seen) in zip(now, guards, strict=True)):
                raise GuardChanged(errno.ESTALE, "something that the change depends on was changed meanwhile")
        for key, seen in guards:
            tx.expect(key, seen)

    @staticmethod
    async def _handed_on(
        tx: Tx, entry: Entry, names: Sequence[bytes], without: Collection[bytes]
    ) -> dict[bytes, bytes]:
        """Extended attributes that the new file takes over from the one it replaces."""
        if entry.type == SYMLINK:
            raise SymlinkInPath(len(names) - 1, entry.ino)
        if entry.type not in (FILE, DIRECTORY):
            raise FsError(errno.EEXIST, f"{show(names[-1])}: is neither a file nor a directory")
        found: dict[bytes, bytes] = (await tx.peek(k.xattrs(entry.ino)))[0]
        kept = {name: value for name, value in found.items() if name not in without}
        for name, value in kept.items():
            tx.expect(k.xattr(entry.ino, name), value)
        return kept

    async def _make_dirs(
        self, tx: Tx, parent: int, pattr: Attr, names: Sequence[bytes], how: ImplicitDirs, caller: Caller, now: int
    ) -> tuple[int, Attr]:
        """Directories that exist only in this transaction; each but the last gets its child's link at once."""
        top = True
        for at, name in enumerate(names):
            ino = self.inodes.take_nowait() or await self.inodes.take()
            attr = await self.new_attr(parent, pattr, caller, DIRECTORY, how.mode, how.umask, now)
            self._dir_parents[ino] = parent
            if top:
                tx.expect(k.entry(parent, name), None)
                touched = await self.add_node(tx, parent, pattr, name, ino, attr, now)
                top = False
            else:
                tx.put(k.entry(parent, name), Entry(DIRECTORY, ino))
                tx.put(k.node(ino), attr)
                if self.dir_stats:
                    tx.put(k.dirstat(ino), DirStat(0, 0, 0))
                await self.charge(tx, parent, 0, 4096, 1, uid=attr.uid, gid=attr.gid)
                touched = True
            self.log_create(tx, parent, name, ino, attr, how.mode, how.umask, touched, now, caller)
            if at < len(names) - 1:
                self._grow_new_dir(tx, ino, DIRECTORY, attr)
            for xname, value in how.xattrs.items():
                tx.put(k.xattr(ino, xname), value)
                self.log_change(tx, "SETXATTR", ino, xname, value, 0, now=now)
            parent, pattr = ino, attr
        return parent, pattr

    @staticmethod
    def _grow_new_dir(tx: Tx, ino: int, child: int, attr: Attr | None = None) -> None:
        """A directory made in this very transaction gets a sub-directory: correct its buffered record."""
        if child != DIRECTORY:
            return
        for at, (op, key, value) in enumerate(tx.writes):
            if key == k.node(ino):
                tx.writes[at] = (op, key, msgspec.structs.replace(value, nlink=value.nlink + 1))

    async def _take_name(
        self, tx: Tx, parent: int, pattr: Attr, name: bytes, entry: Entry | None, attr: Attr | None, trash: int,
        now: int, condition: Condition | None, *, directory: bool, replace_empty_dir: bool,
    ) -> bool:  # fmt: skip
        """Check the target name and write the removal of what it names now. True if there was something."""
        self.require_condition(condition, entry, attr, name)
        tx.expect(k.entry(parent, name), entry)
        if entry is None:
            return False
        if directory:
            self.require_condition(Condition(absent=True), entry, attr, name)
        if attr is not None and attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND):
            raise FsError(errno.EPERM, f"{show(name)}: is immutable or append-only")
        if entry.type == DIRECTORY:
            if not replace_empty_dir or attr is None:
                raise FsError(errno.EISDIR, f"{show(name)}: is a directory")
            try:
                await self.drop_directory(tx, parent, name, entry.ino, attr, 0, now)
            except FsError as e:
                raise FsError(errno.EISDIR, f"{show(name)}: is a directory that isn't empty") from e
            self.touch_parent(tx, parent, pattr, now, -1)
            self.log_change(tx, "RMDIR", parent, name, 0, result=entry.ino, now=now)
            return True
        await self.drop_node(tx, parent, name, entry, attr, trash, now)
        touched = self.touch_parent(tx, parent, pattr, now)
        self.log_unlink(tx, parent, name, entry, trash, touched, now)
        return True

    async def _bind(self, tx: Tx, ino: int, content: Content, attr: Attr) -> None:
        secs, ns = divmod(attr.mtime_ns, 1_000_000_000)
        for index, slices in content.chunks.items():
            if slices:
                tx.put(k.chunk(ino, index), encode_slices(slices))
            for at, s in enumerate(slices):
                self.log_change(tx, "WRITE", ino, index, s.pos, s.id, s.length, secs, ns, result=at + 1)
        for slice_id, size, refs in content.fresh:
            tx.put_new(k.sliceref(slice_id, size), refs)
        for slice_id, size, more in content.shared:
            tx.add(k.sliceref(slice_id, size), more)
        if content.sources:
            if tx.attempt:
                now = await tx.peek(*(k.chunk(source, index) for source, index, _ in content.sources))
                if any((a or b"") != raw for a, (_, _, raw) in zip(now, content.sources, strict=True)):
                    raise SourceChanged(errno.ESTALE, "a source of the copy changed while it was copied")
            for source, index, raw in content.sources:
                tx.expect(k.chunk(source, index), raw)


__all__ = ["ROOT", "Content", "GuardChanged", "ImplicitDirs", "Publish", "Published", "SourceChanged", "SymlinkInPath"]
