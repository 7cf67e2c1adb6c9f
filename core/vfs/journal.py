# SPDX-License-Identifier: Apache-2.0
"""What a keeper holds of writes beside their bytes, and writing again what an earlier process took.

Writes with an offset may be done twice, in their order: the result is the same. Appends may not: so before a commit of
appended bytes a note goes to the keeper, with the piece of which the commit makes a record. Who finds a note looks
whether the file has that record, and if so drops the writes up to the one that the note names.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from core.chunk.api import Piece
from core.errors import FsError
from core.meta.records import CHUNK_BITS
from core.vfs.keeper import Keeper, KeptWrite

if TYPE_CHECKING:
    from core.vfs.handles import Handle
    from core.vfs.vfs import VFS

log = logging.getLogger("sluice.vfs")

#: Bits of a kept offset. No file reaches 2^57, and both fit into signed numbers.
APPENDED_AT: Final = 1 << 62  # the rest is where the writer believed the end of the file to be
_NOTE_AT: Final = 1 << 61
_OFFSET: Final = _NOTE_AT - 1
_NOTE: Final = struct.Struct("<QQQQ")
#: Chunks that are looked through for the record of a note: others may have appended since.
_MOST_CHUNKS: Final = 64


class AppendNote(NamedTuple):
    """hint: about where the bytes go. last: request of the last write among them. piece: becomes a record."""

    hint: int
    last: int
    piece: Piece

    def packed(self) -> tuple[int, memoryview]:
        """As offset and bytes for the keeper."""
        raw = _NOTE.pack(self.last, self.piece.id, self.piece.size, self.piece.off)
        return self.hint | APPENDED_AT | _NOTE_AT, memoryview(raw)

    @classmethod
    def of(cls, kept: KeptWrite) -> AppendNote:
        last, slice_id, size, off = _NOTE.unpack(kept.data)
        return cls(kept.offset & _OFFSET, last, Piece(slice_id, size, off, 0))


async def replay(vfs: VFS, keeper: Keeper) -> int:
    """Write again what an earlier process took and didn't see recorded; returns how many writes. Files that are gone
    are skipped. The bytes are recorded in the background; until then their tokens hold them."""
    by_ino: dict[int, list[KeptWrite]] = {}
    for kept in keeper.writes():
        by_ino.setdefault(kept.ino, []).append(kept)
    done = 0
    for ino, writes in by_ino.items():
        try:
            handle = await vfs.reopen(ino, os.O_RDWR)
        except FsError as e:
            if e.errno not in (errno.ENOENT, errno.EPERM):
                raise
            log.info("inode %d is gone, and with it %d unrecorded writes", ino, len(writes))
            continue
        try:
            done += await _replay_file(vfs, handle, writes)
        except FsError as e:
            # The writer remembers it for those who have the file open.
            log.error("inode %d: unrecorded writes can't be repeated: %s", ino, e)
        vfs.meta.spawn(_finish(handle))
    return done


async def _replay_file(vfs: VFS, handle: Handle, writes: list[KeptWrite]) -> int:
    for kept in [w for w in writes if w.offset & _NOTE_AT]:
        writes.remove(kept)
        note = AppendNote.of(kept)
        last = next((i for i, w in enumerate(writes) if w.offset & APPENDED_AT and w.request == note.last), None)
        if last is not None and await _recorded(vfs, handle, note):
            writes[:] = [w for i, w in enumerate(writes) if i > last or not w.offset & APPENDED_AT]
    writer = handle.file.for_writing()
    for w in writes:
        append = bool(w.offset & APPENDED_AT)
        await writer.write(w.offset & _OFFSET, w.data, append=append, request=w.request)
    return len(writes)


async def _recorded(vfs: VFS, handle: Handle, note: AppendNote) -> bool:
    """Has the commit happened? Others' appends may have moved it back, and nothing moves it forward."""
    last = max(handle.length - 1, 0) >> CHUNK_BITS
    first = max(min(note.hint >> CHUNK_BITS, last), last - _MOST_CHUNKS)
    for records in await vfs.meta.read_chunks(handle.ino, range(first, last + 1)):
        for s in records:
            if s.id == note.piece.id and s.size == note.piece.size and s.off <= note.piece.off < s.off + s.length:
                return True
    return False


async def _finish(handle: Handle) -> None:
    try:
        await handle.flush()
    except FsError as e:
        log.error("%s", e)
    finally:
        await handle.release()
