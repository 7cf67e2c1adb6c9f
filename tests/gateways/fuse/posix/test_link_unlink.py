# SPDX-License-Identifier: Apache-2.0
"""link(2), linkat(2) and unlink(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import KINDS, NOT_DIR, fails, kind_of, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", NOT_DIR)
def test_names_of_one_inode(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "a")
    os.mkdir(d / "sub")
    with watch(place, {d / "a": "c", d: "cm", d / "sub": ""}):
        os.link(d / "a", d / "b", follow_symlinks=False)
    os.link(d / "b", d / "sub" / "c", follow_symlinks=False)
    names = (d / "a", d / "b", d / "sub" / "c")
    found = [os.lstat(p) for p in names]
    assert len({(s.st_ino, s.st_mode, s.st_nlink, s.st_ctime_ns, s.st_rdev) for s in found}) == 1
    assert found[0].st_nlink == 3
    if kind != "symlink":
        os.chmod(d / "a", 0o201)
        os.chown(d / "b", 60001, 60002)
        assert {mode_of(p) for p in names} == {0o201}
    os.unlink(d / "a")
    assert os.lstat(d / "b").st_nlink == 2
    os.unlink(d / "b")
    assert os.lstat(d / "sub" / "c").st_nlink == 1
    assert kind_of(d / "sub" / "c") == kind


@pytest.mark.every_engine
def test_content_is_shared(d: Path) -> None:
    calls.put(d / "a", b"one")
    os.link(d / "a", d / "b")
    calls.add(d / "b", b"two!")
    assert calls.get(d / "a") == b"two!"
    assert os.stat(d / "a").st_size == 4
    fd = os.open(d / "a", os.O_RDWR)
    os.unlink(d / "a")
    os.write(fd, b"1234567")
    os.close(fd)
    assert calls.get(d / "b") == b"1234567"


def test_a_directory_has_one_name(place: Place, d: Path, alice: User, open_dir: Path) -> None:
    os.mkdir(d / "x")
    with watch(place, {d: "", d / "x": ""}), fails(errno.EPERM):
        os.link(d / "x", d / "y")
    alice.mkdir(open_dir / "x")
    with fails(errno.EPERM):
        alice.link(open_dir / "x", open_dir / "y")


def test_a_symlink_itself_or_what_it_names(d: Path) -> None:
    calls.put(d / "x", b"")
    os.symlink("x", d / "s")
    calls.linkat(d / "s", d / "itself", 0)
    calls.linkat(d / "s", d / "followed", calls.AT_SYMLINK_FOLLOW)
    assert kind_of(d / "itself") == "symlink"
    assert os.lstat(d / "followed").st_ino == os.stat(d / "x").st_ino


def test_another_file_system(place: Place, d: Path, tmp_path: Path) -> None:
    calls.put(d / "x", b"")
    calls.put(tmp_path / "y", b"")
    with fails(errno.EXDEV):
        os.link(d / "x", tmp_path / "x")
    with fails(errno.EXDEV):
        os.link(tmp_path / "y", d / "y")
    with fails(errno.EXDEV):
        os.rename(d / "x", tmp_path / "x")


def test_a_link_to_the_same_name(d: Path) -> None:
    calls.put(d / "x", b"")
    with fails(errno.EEXIST):
        os.link(d / "x", d / "x")
    assert os.stat(d / "x").st_nlink == 1


def test_hundreds_of_links(d: Path) -> None:
    calls.put(d / "x", b"1")
    for i in range(400):
        os.link(d / "x", d / f"l{i}")
    assert os.stat(d / "x").st_nlink == 401
    for i in range(400):
        os.unlink(d / f"l{i}")
    assert os.stat(d / "x").st_nlink == 1
    assert calls.get(d / "x") == b"1"


def test_a_link_into_a_directory_without_rights(open_dir: Path, alice: User) -> None:
    alice.mkdir(open_dir / "p")
    alice.put(open_dir / "x", b"")
    alice.chmod(open_dir / "p", 0o555)
    with fails(errno.EACCES):
        alice.link(open_dir / "x", open_dir / "p" / "x")
    assert os.stat(open_dir / "x").st_nlink == 1


# -- unlink --------------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", NOT_DIR)
def test_unlink_removes_the_name(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with watch(place, {d: "cm"}):
        os.unlink(d / "x")
    with fails(errno.ENOENT):
        os.lstat(d / "x")
    assert os.listdir(d) == []


@pytest.mark.parametrize("kind", NOT_DIR)
def test_unlink_of_one_name_moves_ctime_of_the_file(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    os.link(d / "x", d / "y", follow_symlinks=False)
    with watch(place, {d / "x": "c", d: "cm"}):
        os.unlink(d / "y")


@pytest.mark.every_engine
def test_unlink_of_a_directory(place: Place, d: Path, open_dir: Path, alice: User) -> None:
    os.mkdir(d / "x")
    with watch(place, {d: ""}), fails(errno.EISDIR, errno.EPERM):
        os.unlink(d / "x")
    alice.mkdir(open_dir / "x")
    with fails(errno.EISDIR, errno.EPERM):
        alice.unlink(open_dir / "x")


def test_unlink_of_a_symlink_leaves_its_target(d: Path) -> None:
    calls.put(d / "x", b"1")
    os.symlink("x", d / "s")
    os.unlink(d / "s")
    assert calls.get(d / "x") == b"1"


@pytest.mark.parametrize("kind", NOT_DIR)
def test_unlink_needs_rights_in_the_directory_only(open_dir: Path, root: Actor, alice: User, kind: str) -> None:
    os.mkdir(open_dir / "p", 0o755)
    make(root, kind, open_dir / "p" / "x", 0)
    with fails(errno.EACCES):
        alice.unlink(open_dir / "p" / "x")
    os.chmod(open_dir / "p", 0o777)
    alice.unlink(open_dir / "p" / "x")


# -- files that lost their last name ---------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_an_open_file_outlives_its_name(place: Place, d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR, 0o644)
    os.write(fd, b"before")
    with watch(place, {fd: "c"}):
        os.unlink(d / "x")
    assert os.fstat(fd).st_nlink == 0
    assert os.pwrite(fd, b" after", 6) == 6
    assert os.pread(fd, 100, 0) == b"before after"
    os.ftruncate(fd, 3)
    assert os.pread(fd, 100, 0) == b"bef"
    os.fsync(fd)
    os.fchmod(fd, 0o600)
    os.fchown(fd, 60001, 60001)
    os.utime(fd, (5, 6))
    os.setxattr(fd, "user.a", b"1")
    assert os.getxattr(fd, "user.a") == b"1"
    found = os.fstat(fd)
    assert (found.st_size, found.st_uid, found.st_mtime, mode_of(fd)) == (3, 60001, 6, 0o600)
    os.close(fd)


def test_two_descriptors_of_a_removed_file(d: Path) -> None:
    one = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    two = os.open(d / "x", os.O_RDONLY)
    os.unlink(d / "x")
    os.write(one, b"data")
    assert os.pread(two, 10, 0) == b"data"
    os.close(one)
    assert os.pread(two, 10, 0) == b"data"
    os.close(two)


def test_reopening_a_removed_file_by_its_descriptor(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"data")
    os.unlink(d / "x")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    assert os.pread(again, 10, 0) == b"data"
    os.close(fd)
    assert os.pread(again, 10, 0) == b"data"
    os.pwrite(again, b"DATA", 0)
    assert os.pread(again, 10, 0) == b"DATA"
    os.close(again)


@pytest.mark.every_engine
def test_a_file_replaced_by_rename_stays_readable(d: Path) -> None:
    calls.put(d / "x", b"old")
    calls.put(d / "y", b"new")
    fd = os.open(d / "x", os.O_RDONLY)
    os.rename(d / "y", d / "x")
    assert os.read(fd, 10) == b"old"
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)
    assert calls.get(d / "x") == b"new"


def test_a_removed_name_is_free_for_another_file(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"old")
    os.unlink(d / "x")
    calls.put(d / "x", b"new one")
    assert os.pread(fd, 10, 0) == b"old"
    assert os.fstat(fd).st_ino != os.stat(d / "x").st_ino
    os.close(fd)
    assert calls.get(d / "x") == b"new one"


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_name_can_become_any_kind(d: Path, root: Actor, kind: str) -> None:
    for _ in range(3):
        make(root, "file", d / "x")
        os.unlink(d / "x")
        make(root, kind, d / "x")
        assert kind_of(d / "x") == kind
        (os.rmdir if kind == "dir" else os.unlink)(d / "x")


# -- O_TMPFILE -----------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_a_file_without_a_name_gets_one(place: Place, d: Path) -> None:
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o640)
    assert (os.fstat(fd).st_nlink, mode_of(fd), os.listdir(d)) == (0, 0o640, [])
    os.write(fd, b"content")
    with watch(place, {fd: "c", d: "cm"}):
        calls.link_fd(fd, d / "x")
    assert os.fstat(fd).st_nlink == 1
    assert os.stat(d / "x").st_ino == os.fstat(fd).st_ino
    assert calls.get(d / "x") == b"content"
    os.write(fd, b" more")
    os.close(fd)
    assert calls.get(d / "x") == b"content more"
    os.unlink(d / "x")
    assert os.listdir(d) == []


def test_a_file_without_a_name_by_at_empty_path(d: Path) -> None:
    fd = os.open(d, os.O_TMPFILE | os.O_WRONLY, 0o600)
    os.write(fd, b"1")
    calls.linkat("", d / "x", calls.AT_EMPTY_PATH, fd)
    os.close(fd)
    assert calls.get(d / "x") == b"1"


def test_a_file_without_a_name_does_not_move_the_directory(place: Place, d: Path) -> None:
    with watch(place, {d: ""}):
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.close(fd)
    assert os.listdir(d) == []


def test_o_excl_forbids_a_name(d: Path) -> None:
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    with fails(errno.ENOENT):
        calls.link_fd(fd, d / "x")
    os.close(fd)


def test_what_o_tmpfile_refuses(d: Path, open_dir: Path, alice: User) -> None:
    with fails(errno.EINVAL):
        os.open(d, os.O_TMPFILE | os.O_RDONLY, 0o600)
    with fails(errno.ENOENT):
        os.open(d / "nothing", os.O_TMPFILE | os.O_RDWR, 0o600)
    calls.put(d / "x", b"")
    with fails(errno.ENOTDIR):
        os.open(d / "x", os.O_TMPFILE | os.O_RDWR, 0o600)
    with fails(errno.EACCES):
        alice.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)


def test_o_tmpfile_belongs_to_its_maker_and_obeys_umask(open_dir: Path, alice: User) -> None:
    fd = alice.open(open_dir, os.O_TMPFILE | os.O_RDWR, 0o666)
    found = alice.fstat(fd)
    assert (found.st_uid, found.st_gid) == (alice.uid, alice.gid)
    alice.close(fd)
    os.umask(0o027)
    fd = os.open(open_dir, os.O_TMPFILE | os.O_RDWR, 0o666)
    assert oct(mode_of(fd)) == oct(0o640)
    os.close(fd)


def test_the_last_name_of_a_former_tmpfile_may_go_while_open(d: Path) -> None:
    fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"12")
    calls.link_fd(fd, d / "x")
    os.link(d / "x", d / "y")
    os.unlink(d / "x")
    os.unlink(d / "y")
    assert os.pread(fd, 5, 0) == b"12"
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)
