# SPDX-License-Identifier: Apache-2.0
"""mkdir(2) and rmdir(2): what a directory is born with, what it does to its parent, when it may go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.conftest import ALICE, TEAM
from tests.gateways.fuse.posix.expect import KINDS, NOT_DIR, fails, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place


@pytest.mark.every_engine
@pytest.mark.parametrize("mode", [0o755, 0o151, 0o700, 0o777, 0o000, 0o1777])
def test_mode_without_umask(d: Path, mode: int) -> None:
    os.mkdir(d / "x", mode)
    assert mode_of(d / "x") == mode


@pytest.mark.parametrize(("mode", "umask"), [(0o151, 0o077), (0o345, 0o070), (0o345, 0o501), (0o777, 0o022)])
def test_mode_with_umask(d: Path, mode: int, umask: int) -> None:
    os.umask(umask)
    os.mkdir(d / "x", mode)
    assert oct(mode_of(d / "x")) == oct(mode & ~umask)


def test_setuid_and_setgid_are_not_asked_for_by_mkdir(d: Path) -> None:
    os.mkdir(d / "x", 0o6755)
    assert oct(mode_of(d / "x") & 0o777) == oct(0o755)


@pytest.mark.every_engine
def test_belongs_to_its_maker(open_dir: Path, alice: User) -> None:
    alice.mkdir(open_dir / "x")
    found = os.stat(open_dir / "x")
    assert (found.st_uid, found.st_gid, found.st_nlink) == (ALICE, ALICE, 2)


def test_times_of_child_and_parent(place: Place, d: Path) -> None:
    before = os.stat(d)
    with watch(place, {d: "cm"}):
        os.mkdir(d / "x")
    child, parent = os.stat(d / "x"), os.stat(d)
    assert child.st_ctime_ns == child.st_mtime_ns
    assert before.st_ctime_ns < child.st_ctime_ns <= parent.st_ctime_ns + 20_000_000
    assert abs(child.st_atime_ns - child.st_mtime_ns) < 20_000_000


@pytest.mark.every_engine
def test_counts_links(d: Path) -> None:
    assert os.stat(d).st_nlink == 2
    for i in range(5):
        os.mkdir(d / f"x{i}")
        assert os.stat(d).st_nlink == 3 + i
        assert os.stat(d / f"x{i}").st_nlink == 2
    calls.put(d / "file", b"")
    assert os.stat(d).st_nlink == 7
    for i in range(5):
        os.rmdir(d / f"x{i}")
        assert os.stat(d).st_nlink == 6 - i


def test_trailing_slashes_are_fine(d: Path) -> None:
    os.mkdir(f"{d}/x/")
    os.mkdir(f"{d}/y///")
    os.rmdir(f"{d}/x/")
    assert os.listdir(d) == ["y"]


def test_dot_dot_is_the_parent(d: Path) -> None:
    os.makedirs(d / "a" / "b")
    assert os.stat(d / "a" / "b" / "..").st_ino == os.stat(d / "a").st_ino
    assert os.stat(d / "a" / "..").st_ino == os.stat(d).st_ino
    assert os.stat(d / "a" / ".").st_ino == os.stat(d / "a").st_ino


@pytest.mark.every_engine
def test_setgid_of_the_parent_gives_its_group(d: Path, open_dir: Path, alice: User) -> None:
    os.chown(open_dir, 0, TEAM)
    os.chmod(open_dir, 0o2777)
    alice.mkdir(open_dir / "dir", 0o755)
    alice.put(open_dir / "file", b"")
    alice.mkfifo(open_dir / "fifo")
    alice.symlink("x", open_dir / "link")
    for name in ("dir", "file", "fifo", "link"):
        found = os.lstat(open_dir / name)
        assert (name, found.st_uid, found.st_gid) == (name, ALICE, TEAM)
    assert oct(mode_of(open_dir / "dir")) == oct(0o2755)
    assert oct(mode_of(open_dir / "file")) == oct(0o644)
    alice.mkdir(open_dir / "dir" / "deeper")
    assert os.stat(open_dir / "dir" / "deeper").st_gid == TEAM
    assert mode_of(open_dir / "dir" / "deeper") & 0o2000


# -- rmdir ---------------------------------------------------------------------------------------------------------


def test_rmdir_moves_times_of_the_parent(place: Place, d: Path) -> None:
    os.mkdir(d / "x")
    with watch(place, {d: "cm"}):
        os.rmdir(d / "x")
    with fails(errno.ENOENT):
        os.stat(d / "x")


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_rmdir_of_a_directory_that_has_something(place: Place, d: Path, root: Actor, kind: str) -> None:
    os.mkdir(d / "x")
    make(root, kind, d / "x" / "y")
    with watch(place, {d: "", d / "x": ""}), fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(d / "x")
    assert os.listdir(d / "x") == ["y"]


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", NOT_DIR)
def test_rmdir_of_something_else(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.ENOTDIR):
        os.rmdir(d / "x")
    assert os.listdir(d) == ["x"]


def test_rmdir_of_a_symlink_to_a_directory(d: Path) -> None:
    os.mkdir(d / "x")
    os.symlink("x", d / "s")
    with fails(errno.ENOTDIR):
        os.rmdir(d / "s")
    with fails(errno.ENOTDIR):
        os.rmdir(f"{d}/s/")
    assert sorted(os.listdir(d)) == ["s", "x"]


def test_rmdir_of_dot_and_dot_dot(d: Path) -> None:
    os.mkdir(d / "x")
    with fails(errno.EINVAL):
        os.rmdir(f"{d}/x/.")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(f"{d}/x/..")


def test_rmdir_needs_rights_in_the_parent(open_dir: Path, alice: User) -> None:
    alice.mkdir(open_dir / "p")
    alice.mkdir(open_dir / "p" / "x")
    for mode in (0o555, 0o600):
        alice.chmod(open_dir / "p", mode)
        with fails(errno.EACCES):
            alice.rmdir(open_dir / "p" / "x")
    alice.chmod(open_dir / "p", 0o300)
    alice.rmdir(open_dir / "p" / "x")


def test_rmdir_needs_no_rights_on_the_directory_itself(open_dir: Path, alice: User) -> None:
    os.mkdir(open_dir / "x", 0)
    alice.rmdir(open_dir / "x")


def test_rmdir_of_a_mount_point(place: Place) -> None:
    with fails(errno.EBUSY):
        os.rmdir(place.root)


def test_rmdir_then_mkdir_of_the_same_name_is_another_directory(d: Path) -> None:
    os.mkdir(d / "x")
    calls.put(d / "x" / "y", b"")
    os.unlink(d / "x" / "y")
    os.rmdir(d / "x")
    os.mkdir(d / "x")
    assert os.listdir(d / "x") == []
    assert os.stat(d / "x").st_nlink == 2


# -- a directory that was removed while somebody is in it --------------------------------------------------------------


@pytest.mark.every_engine
def test_an_open_directory_that_was_removed(d: Path) -> None:
    os.mkdir(d / "x")
    fd = os.open(d / "x", os.O_RDONLY | os.O_DIRECTORY)
    ino = os.fstat(fd).st_ino
    os.rmdir(d / "x")
    found = os.fstat(fd)
    assert (found.st_ino, found.st_nlink) == (ino, 0)
    assert os.listdir(fd) == []
    with fails(errno.ENOENT):
        os.open("y", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    with fails(errno.ENOENT):
        os.mkdir("y", dir_fd=fd)
    with fails(errno.ENOENT):
        os.symlink("a", "y", dir_fd=fd)
    os.fchmod(fd, 0o700)
    assert mode_of(fd) == 0o700
    os.close(fd)


def test_an_open_directory_that_was_replaced_by_rename(d: Path) -> None:
    os.mkdir(d / "x")
    os.mkdir(d / "y")
    fd = os.open(d / "y", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(d / "x", d / "y")
    assert os.fstat(fd).st_nlink == 0
    with fails(errno.ENOENT):
        os.mkdir("z", dir_fd=fd)
    os.close(fd)


def test_a_working_directory_that_was_removed(d: Path) -> None:
    os.mkdir(d / "x")
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(d / "x")
        os.rmdir(d / "x")
        with fails(errno.ENOENT):
            os.getcwd()
        with fails(errno.ENOENT):
            os.mkdir("y")
        assert os.listdir(".") == []
    finally:
        os.fchdir(before)
        os.close(before)


def test_names_in_an_open_directory_that_moved(d: Path) -> None:
    os.mkdir(d / "x")
    fd = os.open(d / "x", os.O_RDONLY)
    os.rename(d / "x", d / "y")
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert os.listdir(d / "y") == ["file"]
    os.close(fd)
