# SPDX-License-Identifier: Apache-2.0
"""What the processes of these tests do. Each is a function that another process runs; it returns what it saw.

`Cast` runs them: fresh processes, so that no thread, lock or descriptor of the test process is in the way.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import multiprocessing
import os
import random
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from tests.gateways.fuse.two_mounts.content import Pattern

#: A log that reaches this size goes on in the next file, so that minutes of appending fit into memory.
TURN: Final = 48 << 20
#: Followers of a log read it in reads of at most this much.
GULP: Final = 1 << 20


class Cast:
    """A pool of spawned processes. Use as a context manager."""

    def __init__(self, actors: int) -> None:
        self._pool = ProcessPoolExecutor(actors, mp_context=multiprocessing.get_context("spawn"))

    def start(self, act: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._pool.submit(act, *arguments)

    def __enter__(self) -> Cast:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(cancel_futures=True)


# -- one appends, others read ----------------------------------------------------------------------------------------


def append_log(folder: Path, seed: int, seconds: float, sync: bool) -> int:
    """Appends pieces of all sizes at an uneven pace until the time is over; the number of bytes. The end is a file
    `end`, made last."""
    rng = random.Random(seed)
    total, number, deadline = 0, 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        pattern, size = Pattern(seed + number), 0
        fd = os.open(folder / f"log.{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            while size < TURN and time.monotonic() < deadline:
                piece = rng.choice([rng.randrange(1, 100), rng.randrange(1, 8192), rng.randrange(1, 250_000)])
                assert os.write(fd, pattern.at(size, piece)) == piece
                size += piece
                if sync and rng.random() < 0.2:
                    os.fsync(fd)
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.02)  # the pace; nothing depends on it
        finally:
            os.close(fd)
        total += size
        number += 1
    (folder / "end").write_text(str(number))
    return total


def follow_log(folder: Path, seed: int, seconds: float, how: str) -> tuple[int, int, list[str]]:
    """Follows the log by one way of reading until it ended; bytes seen, checks made, and what was wrong."""
    rng = random.Random(f"{seed} {how}")
    checked, checks, number = 0, 0, 0
    wrong: list[str] = []
    deadline = time.monotonic() + seconds + 60
    while not (folder / "end").exists() or number < int((folder / "end").read_text() or 0):
        assert time.monotonic() < deadline, f"{how}: log.{number} did not come or end"
        path = folder / f"log.{number}"
        if not path.exists():
            time.sleep(0.01)
            continue
        seen, more, bad = _follow(path, folder / f"log.{number + 1}", folder / "end", Pattern(seed + number), how, rng)
        checked, checks, number = checked + seen, checks + more, number + 1
        wrong += [f"{path.name}, {how}: {text}" for text in bad]
        if len(wrong) > 5:
            break
    return checked, checks, wrong


def _follow(
    path: Path, following: Path, end: Path, pattern: Pattern, how: str, rng: random.Random
) -> tuple[int, int, list[str]]:
    flags = os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0)
    fd = os.open(path, flags)
    seen, checks = 0, 0
    wrong: list[str] = []
    try:
        while len(wrong) < 3:
            over = following.exists() or end.exists()
            if how == "opened anew":
                os.close(fd)
                fd = os.open(path, flags)
            size = path.stat().st_size if how == "stat by path" else os.fstat(fd).st_size
            if size < seen:
                wrong.append(f"the file shrank from {seen} to {size}")
            # Mostly what is new, and the end of what was read before, whose page was half full then.
            start = max(0, seen - rng.choice([0, 1, 100, 4096, 70_000]))
            if rng.random() < 0.05:
                start = rng.randrange(max(1, size))
            bad = _check(fd, start, size, pattern, how)
            wrong += bad
            checks += 1
            seen = max(seen, min(size, start + GULP) if start <= seen else seen)
            if over and seen >= size:
                return seen, checks, wrong
            if seen >= size and rng.random() < 0.5:
                time.sleep(rng.random() * 0.01)
    finally:
        os.close(fd)
    return seen, checks, wrong


def _check(fd: int, start: int, size: int, pattern: Pattern, how: str) -> list[str]:
    """Reads [start, size), at most a gulp. What stat told is there: a shorter answer is wrong."""
    want = min(size - start, GULP)
    if want <= 0:
        return []
    if how == "direct":
        start -= start % 4096
        buffer = mmap.mmap(-1, GULP)
        got = os.preadv(fd, [buffer], start)
        data, want = bytes(buffer[:got]), min(size - start, GULP)
        # Direct reads may see more than fstat told a moment ago; never less.
    elif how == "mapped":
        data = _mapped(fd, start, want)
    else:
        data = os.pread(fd, want, start)
    wrong = []
    if len(data) < want:
        wrong.append(f"{len(data)} bytes at {start} although the size was {size} (wanted {want})")
    problem = pattern.wrong(start, data)
    return [*wrong, problem] if problem else wrong


def _mapped(fd: int, start: int, want: int) -> bytes:
    """Bytes of a mapping of the file. Copied by the kernel: it stops where a program would die of SIGBUS."""
    copy = os.memfd_create("copy")
    try:
        with (
            mmap.mmap(fd, start + want, prot=mmap.PROT_READ) as view,
            memoryview(view) as whole,
            whole[start : start + want] as part,
            contextlib.suppress(OSError),  # EFAULT: not a single page is there
        ):
            os.pwrite(copy, part, 0)
        return os.pread(copy, want, 0)
    except ValueError:  # mmap length is greater than file size
        return b""
    finally:
        os.close(copy)


# -- several append to one file ----------------------------------------------------------------------------------------

#: who, number, length of what follows, its CRC.
HEADER: Final = struct.Struct("<IIII")


def record(who: int, number: int, rng: random.Random) -> bytes:
    body = rng.randbytes(rng.choice([rng.randrange(1, 200), rng.randrange(1, 100_000)]))
    return HEADER.pack(who, number, len(body), zlib.crc32(body)) + body


def append_records(path: Path, who: int, count: int) -> None:
    rng = random.Random(who)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for number in range(count):
            data = record(who, number, rng)
            assert os.write(fd, data) == len(data)
            if rng.random() < 0.1:
                os.fsync(fd)
    finally:
        os.close(fd)


def read_records(path: Path) -> dict[int, list[int]]:
    """Who wrote which numbers, in the order of the file. Raises where a record is torn."""
    data = path.read_bytes()
    found: dict[int, list[int]] = {}
    at = 0
    while at < len(data):
        who, number, length, crc = HEADER.unpack_from(data, at)
        body = data[at + HEADER.size : at + HEADER.size + length]
        assert len(body) == length and zlib.crc32(body) == crc, (
            f"torn record at {at} of {len(data)}: who {who}, number {number}, length {length},"
            f" next bytes {data[at : at + 40].hex()}"
        )
        found.setdefault(who, []).append(number)
        at += HEADER.size + length
    return found


# -- locks ------------------------------------------------------------------------------------------------------------

_FLOCK: Final = struct.Struct("hhqqi4x")
F_OFD_SETLK, F_OFD_SETLKW = 37, 38


def lock(fd: int, kind: str, *, exclusive: bool = True, wait: bool = True) -> None:
    """kind: flock, fcntl (the process owns it) or ofd (the open file owns it). BlockingIOError without `wait`."""
    if kind == "flock":
        fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    elif kind == "fcntl":
        fcntl.lockf(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB), 8, 0)
    else:
        wanted = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        fcntl.fcntl(fd, F_OFD_SETLKW if wait else F_OFD_SETLK, _FLOCK.pack(wanted, os.SEEK_SET, 0, 8, 0))


def unlock(fd: int, kind: str) -> None:
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_UN)
    elif kind == "fcntl":
        fcntl.lockf(fd, fcntl.LOCK_UN, 8, 0)
    else:
        fcntl.fcntl(fd, F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 8, 0))


def count_under_lock(path: Path, kind: str, rounds: int, reopen: bool) -> int:
    """Adds one to the number in the file `rounds` times. With `reopen`, the number is read and written through a
    descriptor of its own, closed before the lock goes; the highest number seen."""
    locked = path.with_suffix(".lock") if reopen else path
    fd = os.open(locked, os.O_RDWR | os.O_CREAT, 0o644)
    value = 0
    try:
        for _ in range(rounds):
            lock(fd, kind)
            try:
                data = os.open(path, os.O_RDWR) if reopen else fd
                value = int.from_bytes(os.pread(data, 8, 0), "little") + 1
                os.pwrite(data, value.to_bytes(8, "little"), 0)
                if reopen:
                    os.close(data)
            finally:
                unlock(fd, kind)
    finally:
        os.close(fd)
    return value


def hold(path: Path, kind: str, exclusive: bool, parent: Connection) -> None:
    """Takes the lock, tells, and keeps it until the parent closes its end."""
    fd = os.open(path, os.O_RDWR)
    lock(fd, kind, exclusive=exclusive)
    parent.send(b"")
    with contextlib.suppress(EOFError):
        parent.recv()
    os.close(fd)


def take(path: Path, kind: str, exclusive: bool) -> float:
    """Waits for the lock; when it was taken (monotonic time, the same for all processes)."""
    fd = os.open(path, os.O_RDWR)
    try:
        lock(fd, kind, exclusive=exclusive)
        return time.monotonic()
    finally:
        os.close(fd)
