# SPDX-License-Identifier: Apache-2.0
"""One directory of the disk cache: files, limits, and the thread that writes and evicts.

Methods may be called from any thread unless they say otherwise. Source: data-path §5.1 (layout, shared with the
reference client), §5.6 (limits, eviction, scan), §5.7 (write queue), §5.8 (health).

Errors never reach a caller. A full or broken disk is logged once, the directory is left alone, and a probe file tells
when it may be used again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from core.chunk import cachefile
from core.chunk.api import FileRange
from core.chunk.cacheindex import CacheIndex, Entry, Eviction
from core.chunk.naming import BlockId, block_key, parse_block_key
from core.errors import DataCorrupt
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.cache")

_ERRORS_TO_DOWN: Final = 3  # within a minute (§5.8)
_PROBE_EVERY_S: Final = 10
_LOCK_CHECK_EVERY_S: Final = 10
_TICK_S: Final = 1.0


class CacheLimits(msgspec.Struct, frozen=True):
    """Of one directory. size, items: 0 items means as many as the device has inodes."""

    size: int
    items: int = 0
    free_ratio: float = 0.1
    eviction: Eviction = "2-random"
    verify: cachefile.Level = "extend"
    expire_s: float = 0
    scan_interval_s: float = 3600  # 0: only at start; negative: never
    file_mode: int = 0o600
    queue_bytes: int = 60 << 20  # 20 % of the default buffer size (§5.7)


class CacheDir:
    """`folder` is `<cache dir>/<volume UUID>`. on_written(block) is called from the writer thread."""

    def __init__(
        self,
        folder: str,
        limits: CacheLimits,
        *,
        hash_prefix: bool = False,
        on_written: Callable[[BlockId, bytes], None] = lambda block, data: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.limits = limits
        self.id = ""
        self.index = CacheIndex()
        self.scanned = False
        self.down = False
        self.full = False  # the device is short of space or inodes
        self.pending: dict[BlockId, bytes] = {}  # queued for writing, readable meanwhile
        self.pending_bytes = 0
        self._raw = os.path.join(folder, "raw")
        self._dir_mode = cachefile.directory_mode(limits.file_mode)
        self._hash_prefix = hash_prefix
        self._on_written = on_written
        self._now = now
        self._free_ratio = limits.free_ratio or 0.1
        self._capacity = limits.size
        self._max_items = limits.items
        self._queue: queue.SimpleQueue[BlockId | None] = queue.SimpleQueue()
        self._room = threading.Lock()  # of pending_bytes
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._errors: list[float] = []
        self._deficit = (0, 0)  # bytes and inodes missing on the device
        self._next_probe = self._next_lock_check = 0.0

    def prepare(self) -> None:
        """Make the folder and its `.lock`, look at the device. Raises OSError."""
        cachefile.make_dirs(self._raw, self._dir_mode)
        for folder in (self.folder, self._raw):
            status = os.stat(folder)
            if status.st_uid == os.geteuid() and status.st_mode & 0o777 != self._dir_mode:
                os.chmod(folder, self._dir_mode)
        self.id = self._lock_id()
        device = os.statvfs(self.folder)
        self._capacity = min(self.limits.size, int((1 - self._free_ratio) * device.f_blocks * device.f_frsize))
        inodes = int((1 - self._free_ratio) * device.f_files) or (1 << 62)
        self._max_items = min(self.limits.items, inodes) if self.limits.items else inodes
        self._check_space()

    def start(self) -> None:
        """Start the writer and the scanner."""
        work = [self._write_loop] + ([self._scan_loop] if self.limits.scan_interval_s >= 0 else [])
        for target in work:
            thread = threading.Thread(target=target, name="sluice-cache", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Write what is queued, end the threads. Blocks."""
        self._stop.set()
        self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def path(self, block: BlockId) -> str:
        return f"{self._raw}/{block_key(*block, self._hash_prefix)}"

    # -- lookups ----------------------------------------------------------------------------------------------------

    def may_have(self, block: BlockId) -> bool:
        """False only if the block is surely not here. Before the first scan the files themselves decide."""
        return not self.down and (block in self.pending or block in self.index or not self.scanned)

    def read(self, block: BlockId, off: int, length: int, *, wait: bool = True) -> Buffer | None:
        """Bytes of a block from its file, or None. wait=False: raises NotInMemory instead of waiting for the disk."""
        if self.down:
            return None
        entry = self.index.find(block)
        if entry is None and self.scanned:
            return None
        path, n = self.path(block), block[2]
        read = cachefile.read if wait else cachefile.read_nowait
        try:
            data = read(path, n, off, length, self.limits.verify)
        except FileNotFoundError:
            self.index.drop(block)  # somebody else evicted it
            return None
        except DataCorrupt as e:
            log.warning("%s; the cached block is dropped and read from the object store", e)
            if entry is None or entry.size >= 0:  # a staged block may be the only copy
                self.remove(block)
            return None
        except OSError as e:
            self._failed("read", path, e)
            return None
        whole = length == n and self.limits.verify != "none"
        if entry is None:
            self.index.add(block, Entry(n, self._now(), whole))
        else:
            entry.atime = self._now()
            entry.verified |= whole
        return data

    def local_range(self, block: BlockId, off: int, length: int) -> FileRange | None:
        entry = self.index.find(block)
        if self.down or entry is None or not (entry.verified or self.limits.verify == "none"):
            return None
        entry.atime = self._now()
        return FileRange(self.path(block), off, length)

    # -- changes ----------------------------------------------------------------------------------------------------

    def offer(self, block: BlockId, data: bytes) -> bool:
        """Queue a block for writing; False: no room in the queue or on the disk, or it is here already."""
        if self.down or self._stop.is_set() or (self.full and self.limits.eviction == "none"):
            return False
        if block in self.pending or block in self.index:
            return False
        with self._room:
            if self.pending_bytes + len(data) > self.limits.queue_bytes:
                return False
            self.pending_bytes += len(data)
            self.pending[block] = data
        self._queue.put(block)
        return True

    def remove(self, block: BlockId) -> None:
        """Forget a block and unlink its file."""
        self._take_pending(block)
        self.index.drop(block)
        try:
            os.unlink(self.path(block))
        except FileNotFoundError:
            pass
        except OSError as e:
            self._failed("unlink", self.path(block), e)

    def tick(self) -> None:
        """Once a second: free space, eviction, expiry, health."""
        now = self._now()
        if self.down:
            if now >= self._next_probe:
                self._next_probe = now + _PROBE_EVERY_S
                self._probe()
            return
        if now >= self._next_lock_check:
            self._next_lock_check = now + _LOCK_CHECK_EVERY_S
            self._check_lock()
        self._check_space()
        if self.limits.expire_s > 0:
            for block in self.index.expired(now - max(self.limits.expire_s, 1)):
                self.remove(block)
        self.evict()

    def evict(self) -> None:
        """Drop blocks until the limits hold again, with some air (95 % of the space, 99 % of the items)."""
        index = self.index
        if self.limits.eviction == "none":
            return
        over = index.used > self._capacity or index.items > self._max_items
        space, inodes = self._deficit if self.full else (0, 0)
        if not over and not self.full:
            return
        used_goal, items_goal = index.used, index.items
        if over:
            used_goal, items_goal = int(self._capacity * 0.95), int(self._max_items * 0.99)
        if space:
            used_goal = min(used_goal, int(index.used * 0.95) - space)
        if inodes:
            items_goal = min(items_goal, int(index.items * 0.99) - inodes)
        for block in index.victims(self.limits.eviction, used_goal, items_goal):
            self.remove(block)
        if self.full:
            self._check_space()

    def scan(self) -> None:
        """Bring the index in line with the files; remove temporary files and empty folders older than a minute."""
        before = self.index.blocks()
        found: set[BlockId] = set()
        self._scan_folder(self._raw, found)
        if self._stop.is_set():
            return
        for block in before - found:
            self.index.drop(block)
        self.scanned = True

    # -- threads ----------------------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        next_tick = time.monotonic()
        while True:
            try:
                block = self._queue.get(timeout=_TICK_S)
            except queue.Empty:
                block = (0, 0, 0)
            if block is None:
                return
            if block[0]:
                self._write(block)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_S
                try:
                    self.tick()
                except OSError as e:
                    self._failed("check", self.folder, e)

    def _write(self, block: BlockId) -> None:
        data = self.pending.get(block)
        if data is None:
            return  # removed while it waited
        path = self.path(block)
        try:
            if not self.down and cachefile.write(path, data, self.limits.verify, self.limits.file_mode, self._dir_mode):
                self.index.add(block, Entry(len(data), self._now(), verified=True))
                if block not in self.pending:  # removed while it was written
                    self.remove(block)
                elif self.index.used > self._capacity or self.index.items > self._max_items:
                    self.evict()
        except OSError as e:
            self._failed("write", path, e)
        finally:
            self._take_pending(block)

    def _take_pending(self, block: BlockId) -> None:
        with self._room:
            data = self.pending.pop(block, None)
            if data is not None:
                self.pending_bytes -= len(data)
        if data is not None:
            self._on_written(block, data)

    def _scan_loop(self) -> None:
        while not self._stop.is_set():
            try:
                self.scan()
            except OSError as e:
                self._failed("scan", self._raw, e)
            if not self.limits.scan_interval_s:
                return
            self._stop.wait(self.limits.scan_interval_s)

    def _scan_folder(self, folder: str, found: set[BlockId]) -> bool:
        """True if nothing is left in it."""
        empty = True
        with os.scandir(folder) as entries:
            for item in entries:
                if self._stop.is_set():
                    return False
                try:
                    if item.is_dir(follow_symlinks=False):
                        status = item.stat(follow_symlinks=False)
                        if self._scan_folder(item.path, found) and self._is_old(status.st_mtime):
                            os.rmdir(item.path)
                        else:
                            empty = False
                    elif item.name.endswith(".tmp") and self._is_old(item.stat().st_mtime):
                        os.unlink(item.path)
                    else:
                        empty = False
                        self._scan_file(item, found)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # evicted meanwhile
                except OSError as e:
                    if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
        return empty

    def _scan_file(self, item: os.DirEntry[str], found: set[BlockId]) -> None:
        block = parse_block_key(os.path.relpath(item.path, self._raw))
        if block is None or self.path(block) != item.path:
            return
        found.add(block)
        entry = self.index.find(block)
        status = item.stat(follow_symlinks=False)
        staged = status.st_nlink > 1
        if entry is None or (entry.size < 0) != staged:
            self.index.add(block, Entry(-block[2] if staged else block[2], status.st_atime))

    def _is_old(self, mtime: float) -> bool:
        return self._now() - mtime > cachefile.STALE_TEMP_S

    # -- health -----------------------------------------------------------------------------------------------------

    def _lock_id(self) -> str:
        """The text of `.lock`, created if it is missing or empty; two processes agree on one."""
        fd = os.open(os.path.join(self.folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            text = os.read(fd, 256).decode("utf-8", "replace").strip()
            if not text:
                text = str(uuid.uuid4())
                os.write(fd, text.encode())
            return text
        finally:
            os.close(fd)

    def _check_lock(self) -> None:
        """A lost `.lock` on the root volume means that a mount went away and we would fill the system disk."""
        if os.path.exists(os.path.join(self.folder, ".lock")):
            return
        if not os.path.exists(self.folder) or os.stat(self.folder).st_dev == os.stat("/").st_dev:
            if self._free_ratio < 0.2:
                log.warning("%s: .lock is gone; keeping 20 %% of the disk free from now on", self.folder)
            self._free_ratio = max(self._free_ratio, 0.2)

    def _check_space(self) -> None:
        self._deficit = self._shortage()
        self.full = any(self._deficit)

    def _shortage(self) -> tuple[int, int]:
        """Bytes and inodes that are missing to the free ratio."""
        device = os.statvfs(self.folder)
        space = int(self._free_ratio * device.f_blocks) - device.f_bavail
        inodes = int(self._free_ratio * device.f_files) - device.f_favail if device.f_files else 0
        return max(space, 0) * device.f_frsize, max(inodes, 0)

    def _failed(self, what: str, path: str, error: OSError) -> None:
        """Count an IO error; the third within a minute takes the directory out of use. A full disk is no fault."""
        log.warning("cache: %s %s: %s", what, path, error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.full = True
            return
        now = self._now()
        self._errors = [t for t in self._errors if now - t < 60] + [now]
        if len(self._errors) >= _ERRORS_TO_DOWN and not self.down:
            self.down = True
            self._next_probe = now + _PROBE_EVERY_S
            log.error("cache directory %s is out of use after %d errors: %s", self.folder, len(self._errors), error)

    def _probe(self) -> None:
        path = os.path.join(self._raw, "probe", f"{os.getpid()}")
        try:
            cachefile.make_dirs(os.path.dirname(path), self._dir_mode)
            with open(path, "wb") as f:
                f.write(b"ok\n")
            with open(path, "rb") as f:
                good = f.read() == b"ok\n"
            os.unlink(path)
        except OSError:
            good = False
        if good:
            self._errors.clear()
            self.down = False
            log.warning("cache directory %s works again", self.folder)
