# SPDX-License-Identifier: Apache-2.0
"""flock(2), record locks of processes (fcntl F_SETLK) and of open files (F_OFD_SETLK), between processes.

The same tests run within one mount and between two; two mounts of a volume are served by processes of their own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import People, User
from tests.gateways.fuse.posix.expect import fails, name_of_error, outcome
from tests.gateways.fuse.posix.places import Place

R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
SH, EX, UN, NB = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN, fcntl.LOCK_NB
BUSY = (errno.EAGAIN, errno.EACCES)


@pytest.fixture(scope="module", params=["same mount", "two mounts"])
def elsewhere(place: Place, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Root of the place as the other process sees it."""
    if request.param == "same mount":
        yield place.root
    else:
        with place.second() as root:
            yield root


class Pair(NamedTuple):
    """One file, here and at another process."""

    fd: int
    other: User
    its: int
    path: Path
    its_path: Path


@pytest.fixture
def pair(place: Place, d: Path, elsewhere: Path, people: People) -> Iterator[Pair]:
    path = d / "x"
    calls.put(path, b"0123456789")
    there = elsewhere / path.relative_to(place.root)
    other = people.another()
    fd = os.open(path, os.O_RDWR)
    yield Pair(fd, other, other.open(there, os.O_RDWR), path, there)
    with contextlib.suppress(OSError):
        os.close(fd)


# -- flock ---------------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
@pytest.mark.parametrize(
    ("mine", "theirs", "fits"), [(SH, SH, True), (SH, EX, False), (EX, SH, False), (EX, EX, False)]
)
def test_flock_excludes(pair: Pair, mine: int, theirs: int, fits: bool) -> None:
    calls.flock(pair.fd, mine)
    if fits:
        pair.other.flock(pair.its, theirs | NB)
    else:
        with fails(errno.EWOULDBLOCK):
            pair.other.flock(pair.its, theirs | NB)
        calls.flock(pair.fd, UN)
        pair.other.flock(pair.its, theirs | NB)


@pytest.mark.every_engine
def test_flock_waits_until_it_is_free(pair: Pair) -> None:
    calls.flock(pair.fd, EX)
    waiting = pair.other.begin("flock", pair.its, EX)
    assert not waiting.done(0.3)
    calls.flock(pair.fd, UN)
    waiting.result(10)
    with fails(errno.EWOULDBLOCK):
        calls.flock(pair.fd, SH | NB)


def test_flock_wait_is_interrupted_by_a_signal(pair: Pair) -> None:
    calls.flock(pair.fd, EX)
    waiting = pair.other.begin("flock", pair.its, EX)
    assert not waiting.done(0.2)
    waiting.interrupt()
    with fails(errno.EINTR):
        waiting.result(10)
    calls.flock(pair.fd, UN)
    calls.flock(pair.fd, EX | NB)


def test_flock_of_a_killed_waiter_is_forgotten(pair: Pair) -> None:
    calls.flock(pair.fd, EX)
    waiting = pair.other.begin("flock", pair.its, EX)
    assert not waiting.done(0.2)
    pair.other.leave()
    calls.flock(pair.fd, UN)
    calls.flock(pair.fd, EX | NB)


@pytest.mark.every_engine
def test_flock_ends_with_the_last_descriptor(pair: Pair) -> None:
    copy = os.dup(pair.fd)
    calls.flock(pair.fd, EX)
    os.close(pair.fd)
    with fails(errno.EWOULDBLOCK):
        pair.other.flock(pair.its, EX | NB)
    os.close(copy)
    pair.other.begin("flock", pair.its, EX).result(10)


@pytest.mark.every_engine
def test_flock_ends_with_its_process(pair: Pair) -> None:
    pair.other.flock(pair.its, EX)
    with fails(errno.EWOULDBLOCK):
        calls.flock(pair.fd, SH | NB)
    pair.other.leave()
    # The kernel releases the file after the process is gone, so this waits instead of trying once.
    signal.alarm(20)
    calls.flock(pair.fd, EX)
    signal.alarm(0)


def test_flock_belongs_to_the_open_file(pair: Pair) -> None:
    again = os.open(pair.path, os.O_RDWR)
    calls.flock(pair.fd, EX)
    with fails(errno.EWOULDBLOCK):
        calls.flock(again, EX | NB)
    copy = os.dup(pair.fd)
    calls.flock(copy, SH)
    calls.flock(again, SH | NB)
    calls.flock(pair.fd, UN)
    calls.flock(again, EX | NB)
    os.close(again)
    os.close(copy)


def test_flock_changes_its_kind(pair: Pair) -> None:
    calls.flock(pair.fd, EX)
    calls.flock(pair.fd, SH)
    pair.other.flock(pair.its, SH | NB)
    with fails(errno.EWOULDBLOCK):
        calls.flock(pair.fd, EX | NB)
    pair.other.flock(pair.its, UN)
    calls.flock(pair.fd, EX | NB)


def test_flock_and_record_locks_do_not_see_each_other(place: Place, pair: Pair) -> None:
    calls.flock(pair.fd, EX)
    pair.other.set_lock(pair.its, W)


def test_flock_of_directories_and_read_only_files(d: Path, people: People) -> None:
    other = people.another()
    mine, its = os.open(d, os.O_RDONLY), other.open(d, os.O_RDONLY)
    calls.flock(mine, EX)
    with fails(errno.EWOULDBLOCK):
        other.flock(its, SH | NB)
    os.close(mine)
    calls.put(d / "x", b"")
    mine = os.open(d / "x", os.O_RDONLY)
    calls.flock(mine, EX)
    os.close(mine)


# -- record locks ------------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
@pytest.mark.parametrize(("mine", "theirs", "fits"), [(R, R, True), (R, W, False), (W, R, False), (W, W, False)])
def test_record_locks_exclude(pair: Pair, mine: int, theirs: int, fits: bool) -> None:
    calls.set_lock(pair.fd, mine, 10, 10)
    for start, length, touches in ((10, 10, True), (0, 0, True), (19, 1, True), (5, 6, True), (20, 0, False),
                                   (0, 10, False), (9, 1, False)):  # fmt: skip
        wanted = errno.EAGAIN if touches and not fits else 0
        got = outcome(pair.other.set_lock, pair.its, theirs, start, length)
        assert name_of_error(got) == name_of_error(wanted), (start, length)
        pair.other.set_lock(pair.its, U, 0, 0)


@pytest.mark.every_engine
def test_record_locks_wait(pair: Pair) -> None:
    calls.set_lock(pair.fd, W, 0, 10)
    waiting = pair.other.begin("set_lock", pair.its, W, 5, 10, wait=True)
    assert not waiting.done(0.3)
    calls.set_lock(pair.fd, U, 0, 10)
    waiting.result(10)
    with fails(*BUSY):
        calls.set_lock(pair.fd, R, 14, 1)


def test_a_wait_for_a_record_lock_is_interrupted(pair: Pair) -> None:
    calls.set_lock(pair.fd, W)
    waiting = pair.other.begin("set_lock", pair.its, W, wait=True)
    assert not waiting.done(0.2)
    waiting.interrupt()
    with fails(errno.EINTR):
        waiting.result(10)
    calls.set_lock(pair.fd, U)
    calls.set_lock(pair.fd, W)


@pytest.mark.every_engine
def test_asking_for_a_record_lock(place: Place, pair: Pair, elsewhere: Path) -> None:
    assert pair.other.get_lock(pair.its, W).kind == U
    calls.set_lock(pair.fd, R, 100, 50)
    assert pair.other.get_lock(pair.its, R).kind == U
    found = pair.other.get_lock(pair.its, W, 0, 0)
    assert (found.kind, found.start, found.length) == (R, 100, 50)
    if elsewhere == place.root:
        assert found.pid == os.getpid()
    assert pair.other.get_lock(pair.its, W, 0, 100).kind == U
    calls.set_lock(pair.fd, W, 200, 0)
    found = pair.other.get_lock(pair.its, R, 1000, 1)
    assert (found.kind, found.start, found.length) == (W, 200, 0)
    assert calls.get_lock(pair.fd, W).kind == U, "own locks are no obstacle"


@pytest.mark.every_engine
def test_closing_any_descriptor_drops_the_locks_of_the_process(pair: Pair) -> None:
    """POSIX: also one that was opened for something else, and only read."""
    calls.set_lock(pair.fd, W, 0, 10)
    with fails(*BUSY):
        pair.other.set_lock(pair.its, W)
    again = os.open(pair.path, os.O_RDONLY)
    os.close(again)
    pair.other.set_lock(pair.its, W)


def test_closing_a_copy_drops_them_too(pair: Pair) -> None:
    calls.set_lock(pair.fd, W)
    os.close(os.dup(pair.fd))
    pair.other.set_lock(pair.its, W)


@pytest.mark.every_engine
def test_record_locks_end_with_their_process(pair: Pair) -> None:
    pair.other.set_lock(pair.its, W)
    with fails(*BUSY):
        calls.set_lock(pair.fd, R)
    pair.other.leave()
    signal.alarm(20)
    calls.set_lock(pair.fd, W, wait=True)
    signal.alarm(0)


def test_a_child_does_not_inherit_record_locks(pair: Pair) -> None:
    calls.set_lock(pair.fd, W)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = 0 if outcome(calls.set_lock, pair.fd, W) in BUSY else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.every_engine
def test_ranges_split_and_merge(pair: Pair) -> None:
    calls.set_lock(pair.fd, W, 0, 100)
    calls.set_lock(pair.fd, U, 40, 20)
    pair.other.set_lock(pair.its, W, 40, 20)
    found = pair.other.get_lock(pair.its, W, 0, 0)
    assert (found.start, found.length) == (0, 40)
    found = pair.other.get_lock(pair.its, W, 50, 0)
    assert (found.start, found.length) == (60, 40)
    pair.other.set_lock(pair.its, U)
    calls.set_lock(pair.fd, R, 20, 60)
    assert pair.other.get_lock(pair.its, R, 20, 20).kind == U
    found = pair.other.get_lock(pair.its, W, 20, 10)
    assert (found.kind, found.start, found.length) == (R, 20, 60)
    calls.set_lock(pair.fd, W, 0, 100)
    found = pair.other.get_lock(pair.its, W)
    assert (found.kind, found.start, found.length) == (W, 0, 100)


def test_far_ranges(pair: Pair) -> None:
    far = (1 << 62) + 5
    calls.set_lock(pair.fd, W, far, 10)
    found = pair.other.get_lock(pair.its, W)
    assert (found.start, found.length) == (far, 10)
    pair.other.set_lock(pair.its, W, 0, far)
    pair.other.set_lock(pair.its, W, far + 10, 0)
    with fails(errno.EINVAL, errno.EOVERFLOW):
        calls.set_lock(pair.fd, W, -5, 2)


def test_the_direction_of_the_descriptor_counts(d: Path) -> None:
    calls.put(d / "x", b"")
    r, w = os.open(d / "x", os.O_RDONLY), os.open(d / "x", os.O_WRONLY)
    with fails(errno.EBADF):
        calls.set_lock(r, W)
    with fails(errno.EBADF):
        calls.set_lock(w, R)
    calls.set_lock(r, R)
    os.close(r)
    os.close(w)


def require_one_client(place: Place, pair: Pair) -> None:
    if place.ours and pair.its_path != pair.path:
        pytest.skip(f"{place.name}: a circle through two clients can't be seen, no record says who waits for whom")


@pytest.mark.every_engine
def test_a_deadlock_between_two_processes_is_noticed(place: Place, pair: Pair) -> None:
    require_one_client(place, pair)
    calls.set_lock(pair.fd, W, 0, 1)
    pair.other.set_lock(pair.its, W, 1, 1)
    waiting = pair.other.begin("set_lock", pair.its, W, 0, 1, wait=True)
    assert not waiting.done(0.2)
    with fails(errno.EDEADLK):
        calls.set_lock(pair.fd, W, 1, 1, wait=True)
    calls.set_lock(pair.fd, U)
    waiting.result(10)


def test_two_readers_who_both_want_to_write_are_a_deadlock(place: Place, pair: Pair) -> None:
    require_one_client(place, pair)
    calls.set_lock(pair.fd, R, 0, 10)
    pair.other.set_lock(pair.its, R, 5, 10)
    waiting = pair.other.begin("set_lock", pair.its, W, 5, 10, wait=True)
    assert not waiting.done(0.2)
    with fails(errno.EDEADLK):
        calls.set_lock(pair.fd, W, 0, 10, wait=True)
    assert not waiting.done(0.2), "who is refused keeps what it had"
    calls.set_lock(pair.fd, U)
    waiting.result(10)


def test_a_deadlock_of_three_processes_and_two_files(
    place: Place, pair: Pair, elsewhere: Path, people: People, d: Path
) -> None:  # fmt: skip
    require_one_client(place, pair)
    calls.put(d / "y", b"")
    third = people.another()
    mine, its, thirds = (
        os.open(d / "y", os.O_RDWR), pair.other.open(d / "y", os.O_RDWR), third.open(pair.path, os.O_RDWR)
    )  # fmt: skip
    calls.set_lock(pair.fd, W, 0, 1)
    pair.other.set_lock(pair.its, W, 1, 1)
    third.set_lock(third.open(d / "y", os.O_RDWR), W, 0, 1)
    second_waits = pair.other.begin("set_lock", its, W, 0, 1, wait=True)
    third_waits = third.begin("set_lock", thirds, R, 0, 1, wait=True)
    assert not second_waits.done(0.2) and not third_waits.done(0.0)
    with fails(errno.EDEADLK):
        calls.set_lock(pair.fd, W, 1, 1, wait=True)
    calls.set_lock(pair.fd, U)
    third_waits.result(10)
    third.leave()
    second_waits.result(10)
    os.close(mine)


def test_a_lock_of_a_removed_file(pair: Pair) -> None:
    calls.set_lock(pair.fd, W, 0, 1)
    os.unlink(pair.path)
    calls.set_lock(pair.fd, W, 1, 1)
    calls.set_lock(pair.fd, U)


# -- locks of open files -----------------------------------------------------------------------------------------------


@pytest.mark.every_engine
@pytest.mark.parametrize(("mine", "theirs", "fits"), [(R, R, True), (R, W, False), (W, R, False), (W, W, False)])
def test_ofd_locks_exclude_other_processes(pair: Pair, mine: int, theirs: int, fits: bool) -> None:
    calls.set_ofd_lock(pair.fd, mine, 10, 10)
    for call in ("set_ofd_lock", "set_lock"):
        got = outcome(getattr(pair.other, call), pair.its, theirs, 15, 1)
        assert name_of_error(got) == name_of_error(0 if fits else errno.EAGAIN), call
        pair.other.set_lock(pair.its, U, 0, 0)
        pair.other.set_ofd_lock(pair.its, U, 0, 0)
    pair.other.set_ofd_lock(pair.its, theirs, 20, 0)


@pytest.mark.every_engine
def test_ofd_locks_belong_to_the_open_file(pair: Pair) -> None:
    again = os.open(pair.path, os.O_RDWR)
    calls.set_ofd_lock(pair.fd, W, 0, 10)
    with fails(*BUSY):
        calls.set_ofd_lock(again, W, 5, 1)
    with fails(*BUSY, why="nor a lock of the process"):
        calls.set_lock(again, W, 5, 1)
    os.close(again)
    with fails(*BUSY, why="closing another open file drops nothing"):
        pair.other.set_ofd_lock(pair.its, W, 0, 1)
    copy = os.dup(pair.fd)
    os.close(pair.fd)
    with fails(*BUSY):
        pair.other.set_ofd_lock(pair.its, W, 0, 1)
    os.close(copy)
    signal.alarm(20)
    pair.other.begin("set_ofd_lock", pair.its, W, 0, 1, wait=True).result(15)
    signal.alarm(0)


def test_ofd_locks_wait(pair: Pair) -> None:
    calls.set_ofd_lock(pair.fd, W, 0, 10)
    waiting = pair.other.begin("set_ofd_lock", pair.its, R, 0, 10, wait=True)
    assert not waiting.done(0.2)
    calls.set_ofd_lock(pair.fd, U, 0, 10)
    waiting.result(10)


def test_asking_for_an_ofd_lock(pair: Pair) -> None:
    calls.set_ofd_lock(pair.fd, W, 3, 4)
    found = pair.other.get_ofd_lock(pair.its, R)
    assert (found.kind, found.start, found.length) == (W, 3, 4)
    assert pair.other.get_lock(pair.its, R).start == 3


def test_a_child_shares_ofd_locks(pair: Pair) -> None:
    calls.set_ofd_lock(pair.fd, W)
    pid = os.fork()
    if pid == 0:
        os._exit(outcome(calls.set_ofd_lock, pair.fd, R))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
