# SPDX-License-Identifier: Apache-2.0
"""Objects as files of a local folder, in the layout every client of the volume shares.

`<folder>/<key>`; a put writes `.jfs.<base name cut to 200>.tmp.<random>` beside its target and renames it. Folders
are made on demand and stay when they are empty. Source: spec data-path §4.3.

Small objects are written and read on the loop: on a local disk a 1 KiB put costs 127 µs there and 233 µs through a
thread, a cached 1 KiB get 4 and 30 µs; from 256 KiB (put) a thread is no dearer and keeps the loop free. If an inline
call turns out slow (a disk that sleeps, a network mount), everything goes to threads for a while.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from core.errors import ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import Views, clip, total, views
from core.object.walk import Walk

T = TypeVar("T")

# Measured (bench/object.py): up to here a put on the loop is cheaper than a hop to a thread, on disk and in memory.
INLINE_PUT_BYTES = 64 << 10
# A read of this much from the page cache takes 40–70 µs; only cached pages are read inline (RWF_NOWAIT).
INLINE_GET_BYTES = 256 << 10
# An inline call that took longer than this sends the following ones to threads for SLOW_PENALTY_S.
SLOW_CALL_S = 0.02
SLOW_PENALTY_S = 5.0
# Whole blocks keep two disks or cores busy with four threads; more only adds switches.
THREADS = 4
IOV_MAX = 1024  # Linux UIO_MAXIOV

#: Longest wait of `close` for threads.
_CLOSE_S = 5.0


class FileStore(ObjectStore):
    """`FileStore(folder, fsync=False)`.

    put: the file is complete when it appears under its name; with fsync=True it and the folders above it are on disk
    when `put` returns. A cancelled put leaves the old object or the complete new one.
    local_path(key) names the file without looking whether it exists; an open descriptor keeps the object's bytes even
    if the object is replaced or deleted.
    """

    def __init__(self, folder: str, *, fsync: bool = False) -> None:
        self.folder = os.path.join(os.path.abspath(os.path.expanduser(folder)), "")
        self.name = f"file://{self.folder}"
        self.features = Features(ranges=True, local_path=True)
        self._fsync = fsync
        self._durable = {self.folder.rstrip("/") or "/"}  # folders whose own entry was synced (only with fsync)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="sluice-file")
        self._slow_until = 0.0
        self._nowait = getattr(os, "RWF_NOWAIT", 0)

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        path = self._path(key)
        parts = views(data)
        if total(parts) <= INLINE_PUT_BYTES and not self._fsync and self._fast():
            self._timed(self._write, key, path, parts, None)
            return
        given_up = threading.Event()
        try:
            await self._hop(self._write, key, path, parts, given_up)
        except asyncio.CancelledError:
            # The caller may reuse its buffers now, so a thread that is still writing must not publish the file. One
            # that has passed its check has read every byte, and publishes the right content.
            given_up.set()
            raise

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        path = self._path(key)
        clip(0, start, length)  # refuses negative values before anything is opened
        if self._nowait and self._fast():
            data = self._timed(self._read_cached, key, path, start, length)
            if data is not None:
                return data
        return await self._hop(self._read, key, path, start, length)

    async def delete(self, key: str) -> None:
        if key.endswith("/"):
            self._remove_folder(key)
        elif self._fast():
            self._timed(self._unlink, key, self._path(key))
        else:
            await self._hop(self._unlink, key, self._path(key))

    async def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        if self._fast():
            return self._timed(self._stat, key, path)
        return await self._hop(self._stat, key, path)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        walk = Walk(self.folder, prefix, after)
        while True:
            try:
                page = await self._hop(walk.page)
            except OSError as error:
                raise self._explain(error, "list", prefix) from error
            if not page:
                return
            for info in page:
                yield info

    async def create(self) -> None:
        try:
            await self._hop(os.makedirs, self.folder, 0o777, True)
        except OSError as error:
            raise self._explain(error, "create", "") from error

    async def close(self) -> None:
        """Waits for threads that still clean up after calls that were cancelled, unless the disk hangs."""
        ended = asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        await asyncio.wait([ended], timeout=_CLOSE_S)

    def local_path(self, key: str) -> str | None:
        return self._path(key)

    # ---- on the loop or in a thread

    def _write(self, key: str, path: str, parts: Views, given_up: threading.Event | None) -> None:
        folder, _, base = path.rpartition("/")
        temp = f"{folder}/.jfs.{base[:200]}.tmp.{random.getrandbits(63)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            try:
                fd = os.open(temp, flags, 0o666)
            except FileNotFoundError:
                # Trying first keeps no list of known folders, which somebody else might remove.
                os.makedirs(folder, 0o777, exist_ok=True)
                fd = os.open(temp, flags, 0o666)
            try:
                try:
                    _write_all(fd, parts)
                    if self._fsync:
                        os.fsync(fd)
                finally:
                    os.close(fd)
                if given_up is not None and given_up.is_set():
                    raise ObjectError(f"{self.name}: put of {key!r} was cancelled")
                os.rename(temp, path)
            except BaseException:
                _unlink_quietly(temp)
                raise
            if self._fsync:
                self._sync_folders(folder)
        except OSError as error:
            raise self._explain(error, "put", key) from error

    def _sync_folders(self, folder: str) -> None:
        """The renamed entry, and every new folder up to one whose entry is known to be on disk."""
        _fsync_folder(folder)
        fresh = []
        while folder not in self._durable and len(folder) >= len(self.folder) - 1:
            fresh.append(folder)
            folder = folder.rpartition("/")[0]
            _fsync_folder(folder or "/")
        self._durable.update(fresh)

    def _read_cached(self, key: str, path: str, start: int, length: int | None) -> Buffer | None:
        """The range if it is short and lies in the page cache, else None."""
        fd = self._open(key, path)
        try:
            begin, n = clip(os.fstat(fd).st_size, start, length)
            if n == 0:
                return b""
            if n > INLINE_GET_BYTES:
                return None
            data = bytearray(n)
            try:
                return data if os.preadv(fd, [data], begin, self._nowait) == n else None
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    self._nowait = 0  # this file system or kernel can't tell; threads from now on
                    return None
                raise self._explain(error, "get", key) from error
        finally:
            os.close(fd)

    def _read(self, key: str, path: str, start: int, length: int | None) -> Buffer:
        fd = self._open(key, path)
        try:
            begin, n = clip(os.fstat(fd).st_size, start, length)
            data = os.pread(fd, n, begin)
            if len(data) < n:  # more than 2 GiB at once, or the file shrinks under us
                parts, have = [data], len(data)
                while have < n and (more := os.pread(fd, n - have, begin + have)):
                    parts.append(more)
                    have += len(more)
                if have < n:
                    raise ObjectError(f"{self.name}: {key!r} became shorter while it was read")
                data = b"".join(parts)
            return data
        except OSError as error:
            raise self._explain(error, "get", key) from error
        finally:
            os.close(fd)

    def _open(self, key: str, path: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._explain(error, "get", key) from error
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._not_found(key)
        return fd

    def _stat(self, key: str, path: str) -> ObjectInfo:
        try:
            found = os.stat(path)
        except OSError as error:
            raise self._explain(error, "head", key) from error
        if not stat.S_ISREG(found.st_mode):
            raise self._not_found(key)
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def _unlink(self, key: str, path: str) -> None:
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return  # no such object: success
        except OSError as error:
            raise self._explain(error, "delete", key) from error

    def _remove_folder(self, key: str) -> None:
        """`delete("testing/")`: stores of this kind remove an empty folder; anything else is no object, so success."""
        try:
            os.rmdir(self._path(key.rstrip("/")))
        except OSError:
            return

    # ---- helpers

    def _path(self, key: str) -> str:
        # One test for the keys of blocks; only an odd one is taken apart.
        odd = not key or key[0] in "/." or "/." in key or "//" in key or "\0" in key or key[-1] == "/"
        if odd and ("\0" in key or any(part in ("", ".", "..") for part in key.split("/"))):
            raise ObjectError(
                f"{self.name}: the key {key!r} can't be a file below this folder "
                "(empty, '.' and '..' path components and NUL are refused)",
                retryable=False,
            )
        return self.folder + key

    def _fast(self) -> bool:
        return not self._slow_until or self._recovered()

    def _recovered(self) -> bool:
        if time.monotonic() < self._slow_until:
            return False
        self._slow_until = 0.0
        return True

    def _timed(self, call: Callable[..., T], *args: object) -> T:
        begin = time.monotonic()
        try:
            return call(*args)
        finally:
            now = time.monotonic()
            if now - begin > SLOW_CALL_S:
                self._slow_until = now + SLOW_PENALTY_S

    async def _hop(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    def _not_found(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: OSError, action: str, key: str) -> ObjectError:
        code = error.errno
        if action in ("get", "head") and code in (errno.ENOENT, errno.ENOTDIR):
            return self._not_found(key)
        advice = _ADVICE.get(code or 0, "")
        what = f"{action} of {key!r}" if key else action
        return ObjectError(
            f"{self.name}: {what} failed: {os.strerror(code or 0)}{advice and '; ' + advice}",
            retryable=code in _RETRYABLE,
        )


_ADVICE = {
    errno.ENOSPC: "free space there or move the bucket to a larger disk",
    errno.EDQUOT: "raise the disk quota of this user or free space there",
    errno.EROFS: "the disk is mounted read-only; check its health and remount it read-write",
    errno.EACCES: "give the user of this process read and write permission there",
    errno.EPERM: "give the user of this process read and write permission there",
    errno.EIO: "the disk reports an input/output error; look at the kernel log",
    errno.ENAMETOOLONG: "a part of a key may have 255 bytes at most on this file system",
    errno.ENOTDIR: "a part of the key is an object already, so it can't be a folder",
    errno.EISDIR: "a folder of that name holds other objects",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine",
    errno.ESTALE: "the network file system lost this file; remount it",
}
_RETRYABLE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ESTALE}
_RETRYABLE |= {errno.ETIMEDOUT, errno.EBUSY, errno.ENOENT}  # ENOENT: a folder vanished between making and using it


def _write_all(fd: int, parts: Views) -> None:
    pending = parts
    while pending:
        written = os.writev(fd, pending[:IOV_MAX])
        skip = 0
        while skip < len(pending) and written >= pending[skip].nbytes:
            written -= pending[skip].nbytes
            skip += 1
        pending = pending[skip:]
        if written:
            pending = [pending[0][written:], *pending[1:]]


def _fsync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
