# SPDX-License-Identifier: Apache-2.0
"""What open files need of the metadata: slices recorded with a look at what was there before, appended wherever the
file ends at that moment, files without a name, and whether there is room for bytes that aren't recorded yet.

An append reads the node, puts the slices behind its length and commits only if the node is still the same, so records
of several clients at once are all kept, each of them whole. Source: semantics §3.2, §6.3, §8.2; open(2), O_APPEND and
O_TMPFILE.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from core.chunk.api import Piece
from core.errors import FsError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import EXECUTE, WRITE
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.data import WRITE_TRIGGER, Data, holds
from core.meta.records import (
    CHUNK_BITS,
    CHUNK_SIZE,
    DIRECTORY,
    FILE,
    MAX_FILE_LENGTH,
    ROOT,
    SLICE_BYTES,
    TRASH,
    Attr,
    Slice,
    encode_slice,
    encode_slices,
)  # fmt: skip
from core.meta.slices import count_references
from core.meta.store import Tx

_NS: Final = 1_000_000_000


class Recorded(NamedTuple):
    """before: the inode that the commit found, None if that isn't known. offset: where the bytes lie."""

    before: Attr | None
    after: Attr
    offset: int = 0


class Recording(Data):
    """Mixin of `Meta`."""

    async def write_slices(
        self, ino: int, index: int, slices: Sequence[Slice], mtime_ns: int, *, refs: Sequence[int] | None = None
    ) -> Attr:
        """`record_slices` for whom only what the inode is afterwards matters."""
        return (await self.record_slices(ino, index, slices, mtime_ns, refs=refs)).after

    async def record_slices(
        self, ino: int, index: int, slices: Sequence[Slice], mtime_ns: int, *, refs: Sequence[int] | None = None
    ) -> Recorded:
        """Commit slices whose objects are stored already, in order (2 trips; 1 for a file that only this client writes,
        where reading is a trip at all). It tells what the inode was before, so that who knows what it should have been
        finds out whether another client has changed the file. ENOENT, EPERM, EDQUOT, ENOSPC.

        refs: reference counts to register for fresh slices (default 1 each; packs register more). A second call with
        the same slices (its caller got an error and doesn't know) changes nothing if the first one was applied.
        """
        self.require_writable()
        end = (index << CHUNK_BITS) + max(s.pos + s.length for s in slices)
        uses = {(s.id, s.size): n for s, n in zip(slices, refs, strict=True)} if refs else {}
        fresh = self._first_try(ino, index, slices)
        seen: Attr | None = None
        number = 0

        async def body(tx: Tx) -> tuple[Tx, Attr, Sequence[Slice]]:
            nonlocal seen, number
            todo = slices
            known = self._known_count(tx, ino, index) if fresh else None
            if known is not None and known + len(slices) < WRITE_TRIGGER:
                number = known
                (attr,) = await tx.read(k.node(ino))  # takes the very node for granted that the count belongs to
            else:
                # The chunk isn't verified: others' appends don't matter, and the node changes with every one of them.
                attr, raw = await tx.peek(k.node(ino), k.chunk(ino, index))
                tx.expect(k.node(ino), attr)
                if attr is not None and raw and not fresh:
                    todo = [s for s in slices if not s.id or not holds(raw, encode_slice(s))]
                    if not any(s.id for s in todo):
                        return tx, attr, []
                self.require_room(ino, index, raw, len(slices))
                number = len(raw or b"") // SLICE_BYTES
            seen = self._require_file(ino, attr)
            new = msgspec.structs.replace(
                seen, length=max(seen.length, end), mtime_ns=mtime_ns, ctime_ns=_changed_at(seen, mtime_ns)
            )
            self._add_records(tx, ino, index, todo, uses, number, mtime_ns, self.clock_ns())
            tx.put(k.node(ino), new)
            await self.charge_length(tx, ino, seen, new.length)
            await point("write.before-commit")
            return tx, new, todo

        tx, attr, written = await self.with_room(body)
        await point("write.committed")
        self.after_commit(tx)
        if written and seen is not None:
            self._learn_count(ino, index, seen, attr, number + len(written))
            await self.appended(ino, index, number, len(written))
        return Recorded(seen if written else None, attr)

    async def append_pieces(self, ino: int, pieces: Sequence[Piece], mtime_ns: int, *, hint: int = 0) -> Recorded:
        """Stored pieces go behind the last byte of the file, one after another, whoever else appends at the same time
        (2 trips; 1 for a file that only this client writes). hint: about where that will be. ENOENT, EPERM, EFBIG,
        EDQUOT, ENOSPC."""
        self.require_writable()
        total = sum(piece.length for piece in pieces)
        uses = {(piece.id, piece.size): piece.refs for piece in pieces}
        seen: Attr | None = None
        grown: dict[int, tuple[int, int]] = {}

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            nonlocal seen
            expected = tx.recent.get(k.node(ino)) if tx.recent is not None else None
            placed = place_pieces(pieces, expected.length) if expected is not None else {}
            numbers = {index: self._known_count(tx, ino, index) for index in placed}
            if placed and all(n is not None and n + len(placed[i]) < WRITE_TRIGGER for i, n in numbers.items()):
                (attr,) = await tx.read(k.node(ino))
                seen = self._require_file(ino, attr)
            else:
                raws: dict[int, bytes | None] = {}
                guessed = range(hint >> CHUNK_BITS, (hint + total >> CHUNK_BITS) + 1)
                attr, *found = await tx.peek(k.node(ino), *(k.chunk(ino, i) for i in guessed))
                raws.update(zip(guessed, found, strict=True))
                tx.expect(k.node(ino), attr)
                seen = self._require_file(ino, attr)
                placed = place_pieces(pieces, seen.length)
                missing = [i for i in placed if i not in raws]
                if missing:
                    # A chunk only grows together with its node, which the commit verifies.
                    raws.update(zip(missing, await tx.peek(*(k.chunk(ino, i) for i in missing)), strict=True))
                for index, records in placed.items():
                    self.require_room(ino, index, raws[index], len(records))
                numbers = {index: len(raws[index] or b"") // SLICE_BYTES for index in placed}
            if seen.length + total >= MAX_FILE_LENGTH:
                raise FsError(errno.EFBIG, f"inode {ino}: append of {total} bytes beyond the limit of 2^57 - 1 bytes")
            now = self.clock_ns()
            grown.clear()
            for index, records in placed.items():
                number = numbers[index] or 0
                self._add_records(tx, ino, index, records, uses, number, mtime_ns, now)
                grown[index] = (number, len(records))
            for slice_id, size, count in count_references(placed):
                cut = count - sum((p.id, p.size) == (slice_id, size) for p in pieces)
                if cut:  # a piece that crosses a border became two records
                    tx.add(k.sliceref(slice_id, size), cut)
            new = msgspec.structs.replace(
                seen, length=seen.length + total, mtime_ns=mtime_ns, ctime_ns=_changed_at(seen, mtime_ns)
            )
            tx.put(k.node(ino), new)
            await self.charge_length(tx, ino, seen, new.length)
            await point("write.before-commit")
            return tx, new

        tx, attr = await self.with_room(body)
        await point("write.committed")
        self.after_commit(tx)
        assert seen is not None
        known = seen
        for index, (number, added) in grown.items():
            self._learn_count(ino, index, known, attr, number + added)
            known = attr
        for index, (number, added) in grown.items():
            await self.appended(ino, index, number, added)
        return Recorded(seen, attr, seen.length)

    def _add_records(
        self, tx: Tx, ino: int, index: int, records: Sequence[Slice], uses: dict[tuple[int, int], int], number: int,
        mtime_ns: int, now: int,
    ) -> None:  # fmt: skip
        tx.append(k.chunk(ino, index), encode_slices(list(records)))
        for at, s in enumerate(records):
            if s.id:
                tx.put_new(k.sliceref(s.id, s.size), uses.get((s.id, s.size), 1))
            self.log_change(
                tx, "WRITE", ino, index, s.pos, s.id, s.length, *divmod(mtime_ns, _NS), result=number + at + 1, now=now
            )

    @staticmethod
    def _require_file(ino: int, attr: Attr | None) -> Attr:
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} was deleted while it was written")
        if attr.type != FILE:
            raise FsError(errno.EPERM, f"inode {ino} is no regular file")
        return attr

    # -- files without a name ----------------------------------------------------------------------------------------

    async def tmpfile(
        self, parent: int, mode: int, umask: int = 0, caller: Caller = ROOT_CALLER
    ) -> tuple[int, Attr]:  # fmt: skip
        """A regular file in no directory, owned and readable as if it were made in `parent` (2 trips). It counts as
        opened once; when it is closed without a name, or this client dies, it goes. ENOENT, ENOTDIR, EACCES, EPERM."""
        self.require_writable()
        if parent >= TRASH:
            raise FsError(errno.EPERM, "nothing can be created in the trash")
        if not self.sid:
            raise FsError(errno.EOPNOTSUPP, "this client has no session, so nobody would ever remove the file")
        ino = self.inodes.take_nowait() or await self.inodes.take()

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            (pattr,) = await tx.guess(k.node(parent))
            if pattr is None and parent == ROOT:
                pattr = await self.getattr(ROOT)
            if pattr is None:
                raise FsError(errno.ENOENT, f"directory inode {parent} does not exist any more")
            if pattr.type != DIRECTORY:
                raise FsError(errno.ENOTDIR, f"inode {parent} is no directory")
            if pattr.in_trash:
                raise FsError(errno.ENOENT, f"directory inode {parent} is in the trash")
            await self.require_access(caller, parent, pattr, WRITE | EXECUTE)
            now = self.clock_ns()
            attr = await self.new_attr(parent, pattr, caller, FILE, mode, umask, now)
            # Parent 0: links are counted from the first one on (semantics §4.4).
            attr = msgspec.structs.replace(attr, nlink=0, parent=0)
            tx.expect_identity(parent, pattr)
            tx.put(k.node(ino), attr)
            tx.put(k.sustained(self.sid, ino), True)
            await self.charge(tx, 0, 0, 4096, 1, uid=attr.uid, gid=attr.gid)
            return tx, attr

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        self.sustained.add(ino)
        self.opened(ino)
        return ino, attr

    # -- is there room -----------------------------------------------------------------------------------------------

    def room_nowait(self, attr: Attr, own: int, total: int) -> bool:
        """Do `own` more bytes of space for this file, `total` for all that waits to be recorded, surely fit? As far as
        this client knows; the commit decides."""
        if self.capacity and self._used_space + total > self.capacity:
            return False
        if not self._quotas:
            return True
        if self.user_group_quota and (self._exceeds((1, attr.uid), own, 0) or self._exceeds((2, attr.gid), own, 0)):
            return False
        if not self.dir_stats or not self._dir_quotas or not 0 < attr.parent < TRASH:
            return True
        ino = attr.parent
        while True:
            if self._exceeds((0, ino), own, 0):
                return False
            if ino == ROOT:
                return True
            above = self._dir_parents.get(ino)
            if above is None:
                return False  # ask
            if above == 0 or above >= TRASH:
                return True
            ino = above

    async def require_growth(self, attr: Attr, own: int, total: int) -> None:
        """The same, with a look at the records before anybody is refused: ENOSPC, EDQUOT."""
        if self.capacity and self._used_space + total > self.capacity:
            await self.reload_usage()
        self._require_room(total, 0)
        if self.user_group_quota:
            await self.require_quotas([(1, attr.uid), (2, attr.gid)], own, 0)
        if self.dir_stats and self._dir_quotas and 0 < attr.parent < TRASH:
            chain = await self.ancestors(attr.parent)
            await self.require_quotas([(0, ino) for ino in chain], own, 0, below=attr.parent)


def place_pieces(pieces: Sequence[Piece], offset: int) -> dict[int, list[Slice]]:
    """Records for pieces that lie one after another from a file offset on, split at chunk borders."""
    placed: dict[int, list[Slice]] = {}
    for p in pieces:
        done = 0
        while done < p.length:
            index, pos = divmod(offset + done, CHUNK_SIZE)
            n = min(p.length - done, CHUNK_SIZE - pos)
            placed.setdefault(index, []).append(Slice(pos, p.id, p.size, p.off + done, n))
            done += n
        offset += p.length
    return placed


def _changed_at(seen: Attr, mtime_ns: int) -> int:
    """ctime of a file whose content changed: when it was written, not when that is recorded. A program that asked in
    between was told so, and takes a later time for another change (git does)."""
    return max(seen.ctime_ns, mtime_ns)
