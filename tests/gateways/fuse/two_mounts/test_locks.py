# SPDX-License-Identifier: Apache-2.0
"""Locks exclude across mounts: flock, fcntl and open-file-description locks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import sizes
from tests.gateways.fuse.two_mounts.actors import Cast, count_under_lock, hold, lock, take
from tests.gateways.fuse.two_mounts.pair import Pair, pair

KINDS = ("flock", "fcntl", "ofd")
spawn = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module")
def two() -> Iterator[Pair]:
    with pair() as two:
        yield two


@contextmanager
def held(path: Path, kind: str, *, exclusive: bool = True) -> Iterator[multiprocessing.process.BaseProcess]:
    """Another process holds the lock until the block ends or it is killed."""
    ours, theirs = spawn.Pipe()
    holder = spawn.Process(target=hold, args=(path, kind, exclusive, theirs))
    holder.start()
    theirs.close()
    try:
        assert ours.poll(30), "the lock was not granted"
        yield holder
    finally:
        ours.close()
        holder.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reopen", [True, False], ids=["a descriptor per round", "one descriptor"])
@sizes(fast=25, heavy=1000)
def test_a_counter_under_a_lock_is_exact(two: Pair, size: int, kind: str, reopen: bool) -> None:
    name = f"counter {kind} {reopen}"
    (two.a / name).write_bytes(bytes(8))
    with Cast(4) as cast:
        counters = [cast.start(count_under_lock, (two.a, two.b)[n % 2] / name, kind, size, reopen) for n in range(4)]
        assert max(counter.result() for counter in counters) == 4 * size
    for side in (two.a, two.b):
        assert int.from_bytes((side / name).read_bytes(), "little") == 4 * size


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_held_on_one_mount_is_refused_on_the_other(two: Pair, kind: str) -> None:
    (two.a / "file").touch()
    with held(two.a / "file", kind), open(two.b / "file", "r+b") as file:
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), kind, wait=False)
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), kind, exclusive=False, wait=False)
    with open(two.b / "file", "r+b") as file:
        lock(file.fileno(), kind, wait=False)


@pytest.mark.parametrize("kind", KINDS)
def test_shared_locks_of_both_mounts_live_together(two: Pair, kind: str) -> None:
    (two.a / "file").touch()
    with held(two.a / "file", kind, exclusive=False), open(two.b / "file", "r+b") as file:
        lock(file.fileno(), kind, exclusive=False, wait=False)
        with pytest.raises(BlockingIOError):
            lock(file.fileno(), kind, wait=False)


@pytest.mark.parametrize("kind", KINDS)
def test_who_waits_on_the_other_mount_goes_on_when_the_holder_closes(two: Pair, kind: str) -> None:
    (two.a / "file").touch()
    with Cast(1) as cast:
        with held(two.a / "file", kind):
            waiting = cast.start(take, two.b / "file", kind, True)
            time.sleep(0.5)  # long enough to be waiting; the next line says whether it is
            assert not waiting.done()
            released = time.monotonic()
        assert waiting.result(60) >= released
        assert time.monotonic() - released < 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_lock_of_a_killed_process_goes(two: Pair, kind: str) -> None:
    (two.a / "file").touch()
    with held(two.a / "file", kind) as holder, Cast(1) as cast:
        waiting = cast.start(take, two.b / "file", kind, True)
        assert holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        waiting.result(60)


def test_a_waiting_process_can_be_killed(two: Pair) -> None:
    (two.a / "file").touch()
    with held(two.a / "file", "fcntl"):
        waiter = spawn.Process(target=take, args=(two.b / "file", "fcntl", True))
        waiter.start()
        time.sleep(0.7)
        waiter.kill()
        waiter.join(20)
        assert waiter.exitcode == -signal.SIGKILL
    # Nobody is left who holds it.
    with open(two.a / "file", "r+b") as file:
        lock(file.fileno(), "fcntl", wait=False)


def test_locks_of_different_ranges_do_not_meet(two: Pair) -> None:
    import fcntl

    (two.a / "ranges").write_bytes(bytes(100))
    with open(two.a / "ranges", "r+b") as one, held(two.b / "ranges", "fcntl"):  # bytes 0 to 7
        fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 8)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 7)
        with pytest.raises(BlockingIOError):
            fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_who_holds_a_posix_lock_can_be_asked_from_the_other_mount(two: Pair) -> None:
    import fcntl
    import struct

    (two.a / "asked").write_bytes(bytes(100))
    layout = struct.Struct("hhqqi4x")
    with held(two.a / "asked", "fcntl"), open(two.b / "asked", "r+b") as file:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, layout.pack(fcntl.F_WRLCK, os.SEEK_SET, 4, 1, 0))
        kind, whence, start, length, _pid = layout.unpack(answer)
        # The pid means something only on its own mount.
        assert (kind, whence, start, length) == (fcntl.F_WRLCK, os.SEEK_SET, 0, 8)
        answer = fcntl.fcntl(file, fcntl.F_GETLK, layout.pack(fcntl.F_WRLCK, os.SEEK_SET, 8, 1, 0))
        assert layout.unpack(answer)[0] == fcntl.F_UNLCK
