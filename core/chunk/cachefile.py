# SPDX-License-Identifier: Apache-2.0
"""One file of the disk cache: a plain block, then a CRC-32C of each 32 KiB piece, perhaps a footer of a staged block.

Blocking IO, called from threads (or, for bytes in memory, from the loop). Source: data-path §5.1 (how to write),
§5.2 (format), §5.3 (levels). The length n of the data isn't stored: it is the last number of the file's name.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal

import google_crc32c

from core.chunk.localread import pread_fd_nowait
from core.errors import DataCorrupt
from core.object.api import Buffer

Level = Literal["none", "full", "shrink", "extend"]

GRANULE: Final = 32 << 10
STALE_TEMP_S: Final = 60
#: The kernel shall not keep what the cache holds (its memory is needed elsewhere): JFS_DROP_OSCACHE (§5.7, §12.5).
DROP_PAGES: Final = bool(os.environ.get("JFS_DROP_OSCACHE"))

_Read = Callable[[int, int, int], bytes | None]


class NotInMemory(Exception):
    """Reading on the spot would wait for the disk."""


def trailer_length(n: int) -> int:
    return 4 * -(-n // GRANULE)


def checksums(data: Buffer) -> bytes:
    """The trailer of a block: u32 CRC-32C per granule."""
    crc = google_crc32c.value  # takes bytes only, hence a copy of each piece: 1.5 µs beside 4 µs for the sum
    view = memoryview(data)
    sums = [crc(bytes(view[at : at + GRANULE])) for at in range(0, len(view), GRANULE)]
    return struct.pack(f">{len(sums)}I", *sums)


def has_checksums(file_size: int, n: int) -> bool:
    """Classify by size; raises DataCorrupt for a file that can't hold the block."""
    extra = file_size - n
    if extra < 0:
        raise DataCorrupt(f"cache file has {file_size} bytes, its block {n}")
    if extra == 0 or extra % 4:
        return False  # data only, or data and a footer whose length is no multiple of 4
    if extra < trailer_length(n):
        raise DataCorrupt(f"cache file has {extra} bytes after its block, neither checksums nor a footer")
    return True


def write(path: str, data: Buffer, level: Level, mode: int, dir_mode: int) -> bool:
    """Create a cache file atomically (no fsync). False: another process is writing this very file now."""
    temp = path + ".tmp"
    fd = open_temp(temp, dir_mode, [])
    if fd < 0:
        return False
    try:
        try:
            write_all(fd, [data] if level == "none" else [data, checksums(data)])
            os.fchmod(fd, mode)
            if DROP_PAGES:
                _drop_pages(fd, written=True)
        finally:
            os.close(fd)
        os.rename(temp, path)
    except BaseException:
        try:
            os.unlink(temp)
        except OSError:
            pass
        raise
    return True


def read(path: str, n: int, off: int, length: int, level: Level) -> Buffer:
    """Bytes [off, off+length) of a block of n bytes, verified. Raises DataCorrupt, or OSError (missing, IO)."""
    return _read(path, n, off, length, level, _pread)


def read_nowait(path: str, n: int, off: int, length: int, level: Level) -> Buffer:
    """The same without waiting for a disk; raises NotInMemory besides."""
    return _read(path, n, off, length, level, _pread_nowait)


def make_dirs(path: str, mode: int) -> list[str]:
    """Missing directories with exactly this mode, whatever the umask; those that were made, the topmost first."""
    missing = []
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    made = []
    for folder in reversed(missing):
        try:
            os.mkdir(folder)
            os.chmod(folder, mode)
            made.append(folder)
        except FileExistsError:
            pass
    return made


def write_all(fd: int, parts: Sequence[Buffer]) -> None:
    """Every byte of all parts; a disk that fills up in the middle raises."""
    left = sum(map(len, parts))
    done = os.writev(fd, parts)
    if done < left:
        rest = memoryview(b"".join(parts))
        while done < left:
            done += os.write(fd, rest[done:])


def directory_mode(file_mode: int) -> int:
    """File mode plus all bits for each class that has any: 0600 gives 0700, 0644 gives 0777."""
    for shift in (0, 3, 6):
        if file_mode >> shift & 0o7:
            file_mode |= 0o7 << shift
    return file_mode


# -- helpers --------------------------------------------------------------------------------------------------------


def open_temp(temp: str, dir_mode: int, made: list[str]) -> int:
    """A new temporary file; missing folders are made and added to `made`. -1: somebody is writing it now."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for _ in range(3):
        try:
            return os.open(temp, flags, 0o600)
        except FileNotFoundError:
            made += make_dirs(os.path.dirname(temp), dir_mode)
        except FileExistsError:
            # Somebody is writing it, or died while doing so. Never truncate: the writer may be about to rename.
            try:
                if time.time() - os.stat(temp).st_mtime < STALE_TEMP_S:
                    return -1
                os.unlink(temp)
            except FileNotFoundError:
                pass
    return -1


def _read(path: str, n: int, off: int, length: int, level: Level, pread: _Read) -> Buffer:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        summed = has_checksums(os.fstat(fd).st_size, n)
        whole = off == 0 and length == n
        if not summed or level == "none" or (level == "full" and not whole):
            return _exactly(fd, off, length, pread)
        end = off + length
        if level == "extend":
            first, last = off // GRANULE, -(-end // GRANULE)
            low, high = first * GRANULE, min(last * GRANULE, n)
        else:
            low, high = off, end
            first = -(-off // GRANULE)
            # A short last granule counts as inside when the read reaches the end of the block.
            last = -(-end // GRANULE) if end == n else end // GRANULE
        data = _exactly(fd, low, high - low, pread)
        if last > first:
            sums = struct.unpack(f">{last - first}I", _exactly(fd, n + 4 * first, 4 * (last - first), pread))
            view = memoryview(data)
            for index, expected in enumerate(sums, first):
                at = index * GRANULE - low
                piece = view[at : at + GRANULE]
                if google_crc32c.value(bytes(piece)) != expected:
                    raise DataCorrupt(f"{path}: checksum of bytes {index * GRANULE}… doesn't match")
        return data if high - low == length else memoryview(data)[off - low : end - low]
    finally:
        if DROP_PAGES:
            _drop_pages(fd)
        os.close(fd)


def _drop_pages(fd: int, *, written: bool = False) -> None:
    if written:
        os.fdatasync(fd)  # dirty pages can't be dropped
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def _exactly(fd: int, off: int, length: int, pread: _Read) -> bytes:
    data = pread(fd, off, length)
    if data is None:
        raise NotInMemory
    if len(data) != length:
        raise DataCorrupt(f"cache file is cut short at {off + len(data)}")
    return data


def _pread(fd: int, off: int, length: int) -> bytes:
    return os.pread(fd, length, off)


def _pread_nowait(fd: int, off: int, length: int) -> bytes | None:
    data = pread_fd_nowait(fd, off, length)
    return data if data is None else bytes(data)
