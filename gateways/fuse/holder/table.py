# SPDX-License-Identifier: Apache-2.0
"""The shared table of a mount: a memfd that the holder keeps and one worker after the other maps.

It holds the open handles, the bytes that were acknowledged and aren't recorded yet, and a small document that a worker
leaves to the next one (session id, what was agreed upon with the kernel). Only one worker writes at a time.

    0     u64 words of the header: magic, layout, handle slots, log bytes, slots ever used, log head, log tail,
          which document counts (0, 1, 2), workers so far
    1024  two documents, 1536 bytes each: u64 length | JSON
    4096  handle slots (handles.py), then the log (writelog.py)
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from typing import Any, Final

from core.errors import SluiceError
from core.vfs.keeper import KeptHandle, KeptWrite
from gateways.fuse.holder.handles import SLOT, HandleSlots
from gateways.fuse.holder.writelog import WriteLog

MAGIC: Final = 0x31454C4241544C53
LAYOUT: Final = 1
HEADER: Final = 4096
#: One million open files; memory is used for those that were open at the same time, 32 bytes each.
DEFAULT_HANDLES: Final = 1 << 20
DEFAULT_LOG: Final = 64 << 20
#: The largest write of the kernel is 1 MiB, and some must fit.
LEAST_LOG: Final = 8 << 20
_MAGIC, _LAYOUT, _SLOTS, _LOG, _HIGH, _HEAD, _TAIL, _WHICH, _WORKERS = range(9)
_DOCUMENTS: Final = (1024, 2560)
_DOCUMENT: Final = 1536


class TableError(SluiceError):
    """The memory isn't a table of this layout."""


def create(*, handles: int = DEFAULT_HANDLES, log_bytes: int = DEFAULT_LOG) -> int:
    """A new table; returns its descriptor. Nothing of it is in memory before it is used."""
    if log_bytes < LEAST_LOG:
        raise TableError(f"the log of unrecorded writes needs {LEAST_LOG >> 20} MiB at least")
    log_bytes = (log_bytes + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    slots = (handles * SLOT + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
    fd = os.memfd_create("sluicefs-mount", os.MFD_CLOEXEC)
    os.ftruncate(fd, HEADER + slots + log_bytes)
    with mmap.mmap(fd, HEADER) as memory:
        words = memoryview(memory).cast("Q")
        words[_LAYOUT], words[_SLOTS], words[_LOG] = LAYOUT, slots // SLOT, log_bytes
        words[_MAGIC] = MAGIC
        words.release()
    return fd


def peek(fd: int) -> dict[str, Any]:
    """The document of a table that somebody else may be using."""
    with mmap.mmap(fd, HEADER, prot=mmap.PROT_READ) as memory, memoryview(memory) as view, view.cast("Q") as words:
        return _document(view, words) if words[_MAGIC] == MAGIC and words[_LAYOUT] == LAYOUT else {}


def _document(view: memoryview, words: memoryview) -> dict[str, Any]:
    which = words[_WHICH]
    if which not in (1, 2):
        return {}
    at = _DOCUMENTS[which - 1]
    document: dict[str, Any] = json.loads(bytes(view[at + 8 : at + 8 + words[at >> 3]]))
    return document


class SharedTable:
    """A `Keeper`. The descriptor stays the caller's."""

    def __init__(self, fd: int) -> None:
        try:
            self._memory = mmap.mmap(fd, 0)
        except (OSError, ValueError) as e:
            raise TableError(f"descriptor {fd} is no shared table: {e}") from e
        self._view = memoryview(self._memory)
        self._words = self._view[:HEADER].cast("Q") if len(self._view) > HEADER else None
        words = self._words
        if words is None or words[_MAGIC] != MAGIC:
            raise TableError(f"descriptor {fd} is no shared table")
        if words[_LAYOUT] != LAYOUT:
            raise TableError(
                f"the running mount keeps its state in layout {words[_LAYOUT]}, this version knows {LAYOUT};"
                " unmount and mount again instead of replacing it"
            )
        slots, size = words[_SLOTS] * SLOT, words[_LOG]
        if HEADER + slots + size > len(self._view):
            raise TableError(f"the shared table of descriptor {fd} is cut off")
        words[_WORKERS] += 1
        self.worker: int = words[_WORKERS]  # 1 is the first that serves this mount
        self._slots = HandleSlots(self._view[HEADER : HEADER + slots], words[_HIGH : _HIGH + 1])
        self._log = WriteLog(self._view[HEADER + slots : HEADER + slots + size], words[_HEAD : _TAIL + 1])
        # Called once or twice per request: no frame of ours in between.
        self.opened = self._slots.opened
        self.closed = self._slots.closed
        self.wrote = self._log.wrote
        self.recorded = self._log.recorded
        self.has_write = self._log.has_write

    def handles(self) -> Iterator[KeptHandle]:
        return self._slots.handles()

    def writes(self) -> Iterator[KeptWrite]:
        return self._log.writes()

    def replayed(self) -> int:
        """See `WriteLog.replayed`."""
        return self._log.replayed()

    def settled(self) -> None:
        """See `WriteLog.settled`."""
        self._log.settled()

    @property
    def open_handles(self) -> int:
        return len(self._slots)

    @property
    def unrecorded_bytes(self) -> int:
        return self._log.live_bytes

    # -- what a worker leaves to the next -------------------------------------------------------------------------

    def save(self, document: dict[str, Any]) -> None:
        """Replace the document: this one or the one before survives a kill, never a mixture."""
        raw = json.dumps(document, separators=(",", ":")).encode()
        if len(raw) > _DOCUMENT - 8:
            raise TableError(f"{len(raw)} bytes of state don't fit into {_DOCUMENT - 8}")
        assert self._words is not None
        which = 2 if self._words[_WHICH] == 1 else 1
        at = _DOCUMENTS[which - 1]
        self._view[at + 8 : at + 8 + len(raw)] = raw
        self._words[at >> 3] = len(raw)
        self._words[_WHICH] = which

    def load(self) -> dict[str, Any]:
        assert self._words is not None
        return _document(self._view, self._words)

    def close(self) -> None:
        """Unmap. No other method may be called, and no bytes of `writes` be held, after this."""
        self._slots.release()
        self._log.release()
        if self._words is not None:
            self._words.release()
        self._view.release()
        self._memory.close()
