# SPDX-License-Identifier: Apache-2.0
"""open(2): creation, truncation, exclusive creation, kinds, the table of rights."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, People, User
from tests.gateways.fuse.posix.conftest import ALICE, BOB, CAROL, TEAM
from tests.gateways.fuse.posix.expect import KINDS, fails, kind_of, make, mode_of, name_of_error, outcome, watch
from tests.gateways.fuse.posix.places import Place


@pytest.mark.every_engine
@pytest.mark.parametrize(
    ("mode", "umask"), [(0o755, 0), (0o151, 0), (0o151, 0o077), (0o345, 0o070), (0o345, 0o501), (0o4755, 0)]
)
def test_creates_with_mode_and_umask(place: Place, d: Path, mode: int, umask: int) -> None:
    os.umask(umask)
    with watch(place, {d: "cm"}):
        fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY, mode)
    found = os.fstat(fd)
    assert (oct(mode_of(fd)), found.st_size, found.st_nlink) == (oct(mode & ~umask), 0, 1)
    assert found.st_mtime_ns == found.st_ctime_ns
    assert abs(found.st_atime_ns - found.st_mtime_ns) < 20_000_000
    os.close(fd)


def test_belongs_to_its_maker(open_dir: Path, alice: User) -> None:
    alice.may_open(open_dir / "x", os.O_CREAT | os.O_RDWR, 0o600)
    found = os.stat(open_dir / "x")
    assert (found.st_uid, found.st_gid) == (ALICE, ALICE)


def test_the_mode_does_not_bind_its_creator(open_dir: Path, alice: User) -> None:
    fd = alice.open(open_dir / "x", os.O_CREAT | os.O_RDWR, 0)
    assert alice.write(fd, b"mine") == 4
    assert alice.pread(fd, 9, 0) == b"mine"
    alice.close(fd)
    with fails(errno.EACCES):
        alice.get(open_dir / "x")


@pytest.mark.every_engine
def test_o_creat_of_something_that_is_there_changes_nothing(place: Place, d: Path) -> None:
    calls.put(d / "x", b"content", 0o640)
    with watch(place, {d: "", d / "x": ""}):
        os.close(os.open(d / "x", os.O_CREAT | os.O_RDWR, 0o777))
    assert (mode_of(d / "x"), calls.get(d / "x")) == (0o640, b"content")


def test_o_creat_of_something_that_is_there_needs_its_rights(open_dir: Path, alice: User) -> None:
    calls.put(open_dir / "x", b"", 0o600)
    with fails(errno.EACCES):
        alice.may_open(open_dir / "x", os.O_CREAT | os.O_WRONLY)
    with fails(errno.EACCES):
        alice.may_open(open_dir / "x", os.O_CREAT | os.O_RDONLY)


@pytest.mark.every_engine
def test_o_trunc(place: Place, d: Path) -> None:
    calls.put(d / "x", b"content")
    with watch(place, {d: "", d / "x": "cm"}):
        os.close(os.open(d / "x", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(d / "x").st_size == 0
    calls.put(d / "x", b"again")
    os.close(os.open(d / "x", os.O_WRONLY | os.O_TRUNC | os.O_CREAT))
    assert calls.get(d / "x") == b""


def test_o_trunc_of_a_file_that_is_empty_moves_times(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    with watch(place, {d / "x": "cm"}):
        os.close(os.open(d / "x", os.O_WRONLY | os.O_TRUNC))


@pytest.mark.every_engine
def test_o_trunc_cuts_also_when_opened_to_read(place: Place, d: Path) -> None:
    calls.put(d / "x", b"content")
    with watch(place, {d / "x": "cm"}):
        os.close(os.open(d / "x", os.O_RDONLY | os.O_TRUNC))
    assert calls.get(d / "x") == b""


def test_o_trunc_needs_the_right_to_write(open_dir: Path, alice: User) -> None:
    calls.put(open_dir / "x", b"content", 0o444)
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with fails(errno.EACCES):
            alice.may_open(open_dir / "x", flags | os.O_TRUNC)
    assert calls.get(open_dir / "x") == b"content"


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_o_excl(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.EEXIST):
        os.open(d / "x", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_o_creat_through_a_dangling_symlink(d: Path) -> None:
    os.symlink("x", d / "s")
    calls.put(d / "s", b"1")
    assert (kind_of(d / "x"), calls.get(d / "x")) == ("file", b"1")


@pytest.mark.parametrize(
    ("flags", "number"),
    [
        (os.O_WRONLY, errno.EISDIR), (os.O_RDWR, errno.EISDIR), (os.O_RDONLY | os.O_TRUNC, errno.EISDIR),
        (os.O_WRONLY | os.O_TRUNC, errno.EISDIR), (os.O_RDONLY | os.O_CREAT, errno.EISDIR), (os.O_RDONLY, 0),
        (os.O_RDONLY | os.O_DIRECTORY, 0), (os.O_RDONLY | os.O_NOFOLLOW, 0),
    ],
)  # fmt: skip
def test_directories(d: Path, flags: int, number: int) -> None:
    os.mkdir(d / "x")
    assert name_of_error(outcome(calls.may_open, d / "x", flags)) == name_of_error(number)


def test_reading_a_directory_as_a_file(d: Path) -> None:
    fd = os.open(d, os.O_RDONLY)
    with fails(errno.EISDIR):
        os.read(fd, 10)
    os.close(fd)


@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "char"])
def test_o_directory_of_something_else(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.ENOTDIR):
        os.open(d / "x", os.O_RDONLY | os.O_DIRECTORY)


def test_o_nofollow(d: Path) -> None:
    calls.put(d / "x", b"")
    os.mkdir(d / "dir")
    os.symlink("x", d / "s")
    os.symlink("dir", d / "t")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_CREAT):
        with fails(errno.ELOOP):
            os.open(d / "s", flags | os.O_NOFOLLOW)
    with fails(errno.ELOOP, errno.ENOTDIR):
        os.open(d / "t", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    calls.put(d / "dir" / "y", b"")
    calls.may_open(d / "t" / "y", os.O_RDONLY | os.O_NOFOLLOW)


def test_o_path(d: Path) -> None:
    calls.put(d / "x", b"1", 0)
    fd = os.open(d / "x", os.O_PATH)
    with fails(errno.EBADF):
        os.read(fd, 1)
    with fails(errno.EBADF):
        os.fchmod(fd, 0o644)
    assert os.fstat(fd).st_size == 1
    os.close(fd)
    os.symlink("x", d / "s")
    fd = os.open(d / "s", os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=fd) == "x"
    os.close(fd)


def test_wrong_direction_of_a_descriptor(d: Path) -> None:
    calls.put(d / "x", b"1")
    fd = os.open(d / "x", os.O_RDONLY)
    with fails(errno.EBADF):
        os.write(fd, b"2")
    with fails(errno.EINVAL):
        os.ftruncate(fd, 0)
    os.close(fd)
    fd = os.open(d / "x", os.O_WRONLY)
    with fails(errno.EBADF):
        os.read(fd, 1)
    os.close(fd)
    assert calls.get(d / "x") == b"1"


# -- rights --------------------------------------------------------------------------------------------------------

WANTED = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["file", "fifo", "dir"])
def test_bits_of_owner_group_and_others(open_dir: Path, root: Actor, people: People, kind: str) -> None:
    """Every class, every bit pattern, every wish; the first class that fits decides alone."""
    path = open_dir / "x"
    make(root, kind, path)
    os.chown(path, ALICE, TEAM)
    classes = {
        6: people.user(ALICE, ALICE, TEAM), 3: people.user(BOB, TEAM), 0: people.user(CAROL, CAROL),
    }  # fmt: skip
    teams = people.user(BOB, BOB, TEAM)
    wrong = []
    for shift, user in [*classes.items(), (3, teams)]:
        for bits in range(8):
            # The other classes have the opposite, so that a wrong choice of class is seen.
            mode = sum((bits if s == shift else 7 - bits) << s for s in (6, 3, 0))
            os.chmod(path, mode)
            for wish, flags in WANTED.items():
                if kind == "dir" and wish != "r":
                    continue
                allowed = all(bits & (4 if letter == "r" else 2) for letter in wish)
                got = outcome(user.may_open, path, flags | os.O_NONBLOCK)
                if kind == "fifo" and wish == "w" and allowed:
                    allowed, got = True, 0 if got == errno.ENXIO else got
                if got != (0 if allowed else errno.EACCES):
                    wrong.append(f"{user.uid} {mode:03o} {wish}: {name_of_error(got)}")
            for wish, mask in (("R", 4), ("W", 2), ("X", 1)):
                got = outcome(user.faccessat, path, mask)
                if got != (0 if bits & mask else errno.EACCES):
                    wrong.append(f"{user.uid} {mode:03o} access {wish}: {name_of_error(got)}")
    assert not wrong


def test_root_may_read_and_write_everything_and_run_what_has_a_bit(d: Path) -> None:
    calls.put(d / "x", b"#!/bin/sh\nexit 7\n", 0)
    calls.may_open(d / "x", os.O_RDWR)
    calls.faccessat(d / "x", os.R_OK | os.W_OK)
    with fails(errno.EACCES):
        calls.faccessat(d / "x", os.X_OK)
    with fails(errno.EACCES):
        calls.execute(d / "x")
    os.chmod(d / "x", 0o001)
    assert calls.execute(d / "x")[0] == 7


@pytest.mark.every_engine
def test_programs_run_with_their_bit_only(open_dir: Path, alice: User) -> None:
    shutil.copy("/bin/true", open_dir / "true")
    os.chmod(open_dir / "true", 0o666)
    with fails(errno.EACCES):
        alice.execute(open_dir / "true")
    os.chmod(open_dir / "true", 0o111)
    with fails(errno.EACCES):
        alice.get(open_dir / "true")
    assert alice.execute(open_dir / "true")[0] == 0


def test_setuid_programs_run_as_their_owner(open_dir: Path, alice: User, people: People) -> None:
    shutil.copy("/usr/bin/id", open_dir / "id")
    os.chown(open_dir / "id", BOB, BOB)
    os.chmod(open_dir / "id", 0o4755)
    assert alice.execute(open_dir / "id", "-u") == (0, f"{BOB}\n".encode())
    os.chmod(open_dir / "id", 0o2755)
    assert alice.execute(open_dir / "id", "-g") == (0, f"{BOB}\n".encode())


def test_a_running_program_is_not_written(d: Path) -> None:
    program = d / "sleep"
    shutil.copy("/bin/sleep", program)
    os.chmod(program, 0o755)
    running = subprocess.Popen([program, "60"])
    try:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC):
            with fails(errno.ETXTBSY):
                os.open(program, flags)
            assert running.poll() is None, f"it died of open({flags:#o}): its code was cut under it"
        assert program.read_bytes() == Path("/bin/sleep").read_bytes()
        with fails(errno.ETXTBSY):
            os.truncate(program, 0)
        calls.may_open(program, os.O_RDONLY)
        os.rename(program, d / "moved")
        os.unlink(d / "moved")
    finally:
        running.kill()
        running.wait()


def test_a_program_open_for_writing_is_not_run(d: Path) -> None:
    shutil.copy("/bin/true", d / "true")
    os.chmod(d / "true", 0o755)
    fd = os.open(d / "true", os.O_WRONLY)
    with fails(errno.ETXTBSY):
        calls.execute(d / "true")
    os.close(fd)
    assert calls.execute(d / "true")[0] == 0


def test_o_noatime_is_for_the_owner(open_dir: Path, alice: User, bob: User) -> None:
    alice.put(open_dir / "x", b"1", 0o644)
    alice.may_open(open_dir / "x", os.O_RDONLY | os.O_NOATIME)
    with fails(errno.EPERM):
        bob.may_open(open_dir / "x", os.O_RDONLY | os.O_NOATIME)


def test_many_descriptors_of_one_file(d: Path) -> None:
    calls.put(d / "x", b"1")
    fds = [os.open(d / "x", os.O_RDONLY) for _ in range(200)]
    assert all(os.pread(fd, 2, 0) == b"1" for fd in fds)
    for fd in fds:
        os.close(fd)
