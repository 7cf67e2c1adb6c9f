# SPDX-License-Identifier: Apache-2.0
"""One directory of the disk cache: files, limits, and the thread that writes and evicts.

Methods may be called from any thread unless they say otherwise. Source: data-path §5.1 (layout, shared with the
reference client), §5.6 (limits, eviction, scan), §5.7 (write queue), §5.8 (health).

Errors never reach a caller: whoever asks gets None and goes to the object store. Blocks that wait for their upload
(`core/chunk/staging.py`) lie here, too; they are never evicted, and no error of a disk makes us drop the only copy.
"""

from __future__ import annotations

import contextlib
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
from core.chunk.cachehealth import PROBE_EVERY_S, Health
from core.chunk.cacheindex import CacheIndex, Entry, Eviction
from core.chunk.cachescan import RAW, STAGING, Staged, block_of, iter_files, iter_staged
from core.chunk.naming import BlockId, block_key
from core.errors import DataCorrupt
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.cache")

_LOCK_CHECK_EVERY_S: Final = 10
_TICK_S: Final = 1.0
#: A thread that hangs in a dead disk isn't waited for any longer when the cache is closed.
_JOIN_S: Final = 5.0
#: A full disk is no news for every block.
_SAY_EVERY_S: Final = 60.0


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
    writeback: bool = False  # blocks are staged here: other processes' ones are looked for, health is no matter


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
        health: Health | None = None,
    ) -> None:
        self.folder = folder
        self.limits = limits
        self.id = ""
        self.index = CacheIndex()
        self.scanned = False
        self.health = health or Health(judges=not limits.writeback)
        self.full = False  # the device is short of space or inodes
        self.stage_full = False  # so short that nothing may be staged
        #: Told about the bytes and inodes that are missing although everything that may go has gone.
        self.on_pressure: Callable[[CacheDir, int, int], None] | None = None
        #: Told about staged files that a scan finds.
        self.on_staged: Callable[[CacheDir, list[Staged]], None] | None = None
        self.pending: dict[BlockId, bytes] = {}  # queued for writing, readable meanwhile
        self.pending_bytes = 0
        self._raw = os.path.join(folder, RAW)
        self._staging = os.path.join(folder, STAGING)
        self.dir_mode = cachefile.directory_mode(limits.file_mode)
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
        self._deficit = (0, 0)  # bytes and inodes missing on the device
        self._next_lock_check = 0.0
        self._next_full_said = 0.0
        self._prober: threading.Thread | None = None

    @property
    def down(self) -> bool:
        return self.health.state == "down"

    def prepare(self) -> None:
        """Make the folder and its `.lock`, look at the device. Raises OSError."""
        cachefile.make_dirs(self._raw, self.dir_mode)
        for folder in (self.folder, self._raw):
            status = os.stat(folder)
            if status.st_uid == os.geteuid() and status.st_mode & 0o777 != self.dir_mode:
                os.chmod(folder, self.dir_mode)
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
            thread.join(_JOIN_S)
            if thread.is_alive():
                log.error("cache directory %s: its disk doesn't answer; what was queued for it is dropped", self.folder)
        self._threads.clear()

    def path(self, block: BlockId) -> str:
        return f"{self._raw}/{block_key(*block, self._hash_prefix)}"

    def stage_path(self, block: BlockId) -> str:
        return f"{self._staging}/{block_key(*block, self._hash_prefix)}"

    # -- lookups ----------------------------------------------------------------------------------------------------

    def may_have(self, block: BlockId) -> bool:
        """False only if the block is surely not here. Before the first scan the files themselves decide, and so they do
        where another process may have staged something a moment ago."""
        return not self.down and (self._unsure or block in self.pending or block in self.index)

    @property
    def _unsure(self) -> bool:
        return not self.scanned or self.limits.writeback

    def read(self, block: BlockId, off: int, length: int, *, wait: bool = True) -> Buffer | None:
        """Bytes of a block from its file, or None. wait=False: raises NotInMemory instead of waiting for the disk."""
        entry = self.index.find(block)
        if entry is None and not self._unsure:
            return None
        ticket = self.health.begin()
        if not ticket:
            return None
        failed = False
        path, n = self.path(block), block[2]
        read = cachefile.read if wait else cachefile.read_nowait
        try:
            try:
                data = read(path, n, off, length, self.limits.verify)
            except FileNotFoundError:
                if entry is None or entry.size >= 0:
                    raise
                # Evicted by somebody who doesn't know that it is staged; the other name of the file is there.
                data = read(self.stage_path(block), n, off, length, self.limits.verify)
        except FileNotFoundError:
            self.index.drop(block)  # somebody else evicted it
            return None
        except DataCorrupt as e:
            log.warning("%s; the cached block is dropped and read from the object store", e)
            self.remove(block)  # unless it is staged: it may be the only copy
            return None
        except OSError as e:
            failed = self._failed("read", path, e)
            return None
        finally:
            self.health.end(ticket, failed=failed)
        whole = length == n and self.limits.verify != "none"
        if entry is None:
            self.index.add(block, Entry(n, self._now(), whole))
        else:
            entry.atime = self._now()
            entry.verified |= whole
        return data

    def rescue(self, block: BlockId) -> Buffer | None:
        """A whole block that the object store doesn't have: staged on this machine, perhaps by another process."""
        for path in (self.stage_path(block), self.path(block)):
            try:
                return cachefile.read(path, block[2], 0, block[2], "full")
            except FileNotFoundError:
                continue
            except (DataCorrupt, OSError) as e:
                log.warning("cache: read %s: %s", path, e)
        return None

    def local_range(self, block: BlockId, off: int, length: int) -> FileRange | None:
        entry = self.index.find(block)
        if self.down or entry is None or not (entry.verified or self.limits.verify == "none"):
            return None
        entry.atime = self._now()
        return FileRange(self.path(block), off, length)

    # -- changes ----------------------------------------------------------------------------------------------------

    def offer(self, block: BlockId, data: bytes) -> bool:
        """Queue a block for writing; False: no room in the queue or on the disk, or it is here already."""
        if self.health.state == "down" or self._stop.is_set() or (self.full and self.limits.eviction == "none"):
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
        """Forget a block and unlink its file, unless it is staged."""
        self._take_pending(block)
        entry = self.index.find(block)
        if entry is not None and entry.size < 0:
            return
        self.index.drop(block)
        self._unlink(self.path(block))

    def discard(self, block: BlockId) -> None:
        """The block is deleted everywhere: also the file that waits for its upload."""
        self._take_pending(block)
        self._unlink(self.stage_path(block))
        self.index.drop(block)
        self._unlink(self.path(block))

    def staged(self, block: BlockId) -> None:
        """A block lies under both names from now on; not counted, never evicted until it is uploaded."""
        self.index.add(block, Entry(-block[2], self._now(), verified=True))

    def uploaded(self, block: BlockId) -> None:
        """A staged block is in the object store: what is left of it is an ordinary cached block. Unlinks."""
        self._unlink(self.stage_path(block))
        if os.path.exists(self.path(block)):
            # Half of its time is over already, or what is written once would push out what is read (§5.6).
            self.index.add(block, Entry(block[2], self._now() - self.limits.expire_s / 2))
        else:
            self.index.drop(block)

    def link(self, block: BlockId) -> None:
        """Give a staged file its name among the cached blocks. Raises OSError."""
        path = self.path(block)
        for attempt in (1, 2, 3):
            try:
                os.link(self.stage_path(block), path)
                return
            except FileExistsError:
                if os.path.samefile(self.stage_path(block), path):
                    return
                os.unlink(path)  # the same bytes in another file: both names must be one, so that scans see it
            except FileNotFoundError:
                if attempt == 3:
                    raise
                cachefile.make_dirs(os.path.dirname(path), self.dir_mode)

    def scan_staged(self) -> list[Staged]:
        """What waits for its upload here, put into the index. Temporary files of dead writers go."""
        found = []
        for one in iter_staged(self.folder, self._hash_prefix, now=self._now(), stopped=self._stop.is_set):
            found.append(one)
            entry = self.index.find(one.block)
            if entry is None or entry.size >= 0:
                try:
                    self.link(one.block)
                    self.index.add(one.block, Entry(-one.block[2], self._now()))
                except FileNotFoundError:
                    found.pop()  # uploaded by its owner a moment ago
                except OSError as e:
                    log.warning("cache: link %s: %s", one.path, e)
                    self.index.add(one.block, Entry(-one.block[2], self._now()))
        return found

    def tick(self) -> None:
        """Once a second: free space, eviction, expiry, health."""
        now = self._now()
        if self.health.state != "normal":
            return  # the less is asked of the disk the better
        if now >= self._next_lock_check:
            self._next_lock_check = now + _LOCK_CHECK_EVERY_S
            self._check_lock()
        self._check_space()
        if self.limits.expire_s > 0:
            for block in self.index.expired(self._idle_since()):
                self.remove(block)
        self.evict()
        if self.full and self.on_pressure is not None:
            self.on_pressure(self, *self._deficit)

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
        for block in index.victims(self.limits.eviction, used_goal, items_goal, self._idle_since()):
            self.remove(block)
        if self.full:
            self._check_space()

    def _idle_since(self) -> float:
        """Blocks that weren't used since then have expired; 0: none ever does."""
        return self._now() - max(self.limits.expire_s, 1) if self.limits.expire_s > 0 else 0

    def scan(self) -> None:
        """Bring the index in line with the files; remove temporary files and empty folders older than a minute."""
        before = self.index.blocks()
        if self.on_staged is not None:
            self.on_staged(self, self.scan_staged())
        elif not self.scanned:
            waiting = sum(1 for _ in iter_staged(self.folder, self._hash_prefix, stopped=self._stop.is_set))
            if waiting:
                log.warning(
                    "%s: %d staged blocks wait for a client with --writeback; nobody else uploads them",
                    self._staging, waiting,
                )  # fmt: skip
        found: set[BlockId] = set()
        for item in iter_files(self._raw, self._now(), self._stop.is_set):
            with contextlib.suppress(FileNotFoundError):
                self._scan_file(item, found)
        if self._stop.is_set():
            return
        for block in before - found:
            entry = self.index.find(block)
            if entry is not None and (entry.size >= 0 or not os.path.exists(self.stage_path(block))):
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
        ticket = self.health.begin()
        failed = False
        try:
            if ticket and cachefile.write(path, data, self.limits.verify, self.limits.file_mode, self.dir_mode):
                self.index.add(block, Entry(len(data), self._now(), verified=True))
                if block not in self.pending:  # removed while it was written
                    self.remove(block)
                elif self.index.used > self._capacity or self.index.items > self._max_items:
                    self.evict()
        except OSError as e:
            failed = self._failed("write", path, e)
        finally:
            if ticket:
                self.health.end(ticket, failed=failed)
            self._take_pending(block)

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as e:
            if self._failed("unlink", path, e):
                self.health.end(self.health.begin(), failed=True)

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

    def _scan_file(self, item: os.DirEntry[str], found: set[BlockId]) -> None:
        block = block_of(item.path, self._raw, self._hash_prefix)
        if block is None:
            return
        found.add(block)
        entry = self.index.find(block)
        status = item.stat(follow_symlinks=False)
        staged = status.st_nlink > 1
        if entry is None or (entry.size < 0) != staged:
            self.index.add(block, Entry(-block[2] if staged else block[2], status.st_atime))

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
        self.stage_full = self.full and any(self._shortage(0.5))

    def _shortage(self, part: float = 1.0) -> tuple[int, int]:
        """Bytes and inodes that are missing to the free ratio, or to a part of it."""
        device = os.statvfs(self.folder)
        ratio = self._free_ratio * part
        space = int(ratio * device.f_blocks) - device.f_bavail
        inodes = int(ratio * device.f_files) - device.f_favail if device.f_files else 0
        return max(space, 0) * device.f_frsize, max(inodes, 0)

    def _failed(self, what: str, path: str, error: OSError) -> bool:
        """Say so; True if it is the disk's fault. A full disk is no fault, it only gets nothing more."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.full = self.stage_full = True
            now = time.monotonic()
            if now >= self._next_full_said:
                self._next_full_said = now + _SAY_EVERY_S
                log.warning("cache: %s %s: %s; blocks are dropped until there is room", what, path, error)
            return False
        log.warning("cache: %s %s: %s", what, path, error)
        return True

    # -- health -----------------------------------------------------------------------------------------------------

    def watch(self) -> bool:
        """Once a second, never waits for the disk: is it well? False: it is given up for good."""
        before = self.health.state
        state = self.health.watch()
        if state == before == "normal":
            return True
        if state == "unstable" and (self._prober is None or not self._prober.is_alive()):
            log.error(
                "cache directory %s is unstable (errors, or operations beyond %g s): it is used little and probed; "
                "look at its disk", self.folder, self.health.limits.max_io_s,
            )  # fmt: skip
            self._prober = threading.Thread(target=self._probe_loop, name="sluice-cache-probe", daemon=True)
            self._prober.start()
        elif state == "normal" and before == "unstable":
            log.warning("cache directory %s works again", self.folder)
        elif state == "down" and before != "down":
            log.error(
                "cache directory %s is given up after %g s of errors: its blocks are read from the object store; "
                "mend its disk and start this client again", self.folder, self.health.limits.to_down_s,
            )  # fmt: skip
        return state != "down"

    def _probe_loop(self) -> None:
        while self.health.state == "unstable" and not self._stop.wait(PROBE_EVERY_S):
            self.probe()
        if self.health.state == "normal":
            with contextlib.suppress(OSError):
                os.rmdir(os.path.join(self._raw, "probe"))

    def probe(self) -> bool:
        """Write, read and remove three bytes."""
        ticket = self.health.begin()
        if not ticket:
            return False
        path = os.path.join(self._raw, "probe", f"{os.getpid()}")
        good = False
        try:
            cachefile.make_dirs(os.path.dirname(path), self.dir_mode)
            with open(path, "wb") as f:
                f.write(b"ok\n")
            with open(path, "rb") as f:
                good = f.read() == b"ok\n"
            os.unlink(path)
        except OSError as e:
            log.debug("cache: probe %s: %s", path, e)
        finally:
            self.health.end(ticket, failed=not good)
        return good
