# SPDX-License-Identifier: Apache-2.0
"""Small reads of local files on the event loop: done if the bytes are in memory, declined otherwise.

`preadv` with RWF_NOWAIT (preadv2(2), Linux 4.14) never waits for a disk. tmpfs doesn't know the flag, but its files are
memory, so they are read plainly; other file systems without it (network and FUSE mounts) are declined.
Measured: open, read 1 KiB and close cost 3 µs, 64 KiB 9 µs; a hop to a thread and back 60–135 µs.
"""

from __future__ import annotations

import functools
import os
from typing import Final

_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_IN_MEMORY: Final = ("tmpfs", "ramfs")


def pread_nowait(path: str, off: int, length: int) -> bytes | bytearray | None:
    """Exactly [off, off+length) of a file without waiting for a disk, or None (missing, short, or not in memory)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return pread_fd_nowait(fd, off, length)
    finally:
        os.close(fd)


def pread_fd_nowait(fd: int, off: int, length: int) -> bytes | bytearray | None:
    """The same of an open file."""
    try:
        device = os.fstat(fd).st_dev
        if _is_memory(device):
            data = os.pread(fd, length, off)
            return data if len(data) == length else None
        buffer = bytearray(length)
        n = os.preadv(fd, (buffer,), off, _NOWAIT) if _NOWAIT else 0
        return buffer if n == length else None
    except OSError:  # would wait, not supported, or broken: the ordinary way will tell
        return None


@functools.lru_cache(maxsize=64)
def _is_memory(device: int) -> bool:
    """Is a file system made of memory? Device numbers of mounts in use don't change their meaning."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                # id parent major:minor root mountpoint options … - type source options (proc_pid_mountinfo(5))
                head, _, tail = line.partition(" - ")
                if head.split(" ", 3)[2] == wanted:
                    return tail.split(" ", 1)[0] in _IN_MEMORY
    except (OSError, IndexError):
        pass
    return False
