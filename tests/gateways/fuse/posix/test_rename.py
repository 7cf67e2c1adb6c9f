# SPDX-License-Identifier: Apache-2.0
"""rename(2): every kind onto every kind, trees, loops, times, rights."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import KINDS, NOT_DIR, fails, kind_of, make, watch
from tests.gateways.fuse.posix.places import Place


def same(path: Path) -> tuple[int, ...]:
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns, found.st_rdev


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_in_one_directory(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "a")
    before = same(d / "a")
    with watch(place, {d: "cm"}):
        os.rename(d / "a", d / "b")
    assert same(d / "b") == before
    with fails(errno.ENOENT):
        os.lstat(d / "a")
    assert os.listdir(d) == ["b"]


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_into_another_directory(place: Place, d: Path, root: Actor, kind: str) -> None:
    os.mkdir(d / "p")
    os.mkdir(d / "q")
    make(root, kind, d / "p" / "a")
    before = same(d / "p" / "a")
    with watch(place, {d / "p": "cm", d / "q": "cm", d: ""}):
        os.rename(d / "p" / "a", d / "q" / "b")
    assert same(d / "q" / "b") == before
    assert (os.listdir(d / "p"), os.listdir(d / "q")) == ([], ["b"])
    moved = 1 if kind == "dir" else 0
    assert (os.stat(d / "p").st_nlink, os.stat(d / "q").st_nlink) == (2, 2 + moved)
    if kind == "dir":
        assert os.stat(d / "q" / "b" / "..").st_ino == os.stat(d / "q").st_ino


@pytest.mark.every_engine
@pytest.mark.parametrize("target", NOT_DIR)
@pytest.mark.parametrize("kind", NOT_DIR)
def test_replaces_whatever_is_no_directory(place: Place, d: Path, root: Actor, kind: str, target: str) -> None:
    make(root, kind, d / "a")
    make(root, target, d / "b")
    os.link(d / "b", d / "c", follow_symlinks=False)
    before = same(d / "a")
    with watch(place, {d / "c": "c", d: "cm"}):
        os.rename(d / "a", d / "b")
    assert same(d / "b") == before
    assert os.lstat(d / "c").st_nlink == 1
    assert sorted(os.listdir(d)) == ["b", "c"]


@pytest.mark.parametrize("kind", NOT_DIR)
def test_a_file_never_replaces_a_directory(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "a")
    os.mkdir(d / "b")
    with watch(place, {d: "", d / "a": "", d / "b": ""}), fails(errno.EISDIR):
        os.rename(d / "a", d / "b")
    assert (kind_of(d / "a"), kind_of(d / "b")) == (kind, "dir")


@pytest.mark.parametrize("kind", NOT_DIR)
def test_a_directory_never_replaces_a_file(place: Place, d: Path, root: Actor, kind: str) -> None:
    os.mkdir(d / "a")
    make(root, kind, d / "b")
    with watch(place, {d: "", d / "a": "", d / "b": ""}), fails(errno.ENOTDIR):
        os.rename(d / "a", d / "b")
    assert (kind_of(d / "a"), kind_of(d / "b")) == ("dir", kind)


@pytest.mark.every_engine
def test_a_directory_replaces_an_empty_one(place: Place, d: Path) -> None:
    os.makedirs(d / "a" / "inside")
    os.mkdir(d / "b")
    links, ino = os.stat(d).st_nlink, os.stat(d / "a").st_ino
    with watch(place, {d: "cm"}):
        os.rename(d / "a", d / "b")
    assert (os.listdir(d / "b"), os.stat(d / "b").st_ino) == (["inside"], ino)
    assert os.stat(d).st_nlink == links - 1


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_never_replaces_one_that_has_something(d: Path, root: Actor, kind: str) -> None:
    os.mkdir(d / "a")
    os.mkdir(d / "b")
    make(root, kind, d / "b" / "x")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(d / "a", d / "b")
    os.mkdir(d / "p")
    os.rename(d / "a", d / "p" / "a")
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(d / "p" / "a", d / "b")
    assert os.listdir(d / "b") == ["x"]


def test_replacing_across_directories_counts_links(d: Path) -> None:
    for name in ("p", "q", "p/a", "q/b"):
        os.mkdir(d / name)
    os.rename(d / "p" / "a", d / "q" / "b")
    assert (os.stat(d / "p").st_nlink, os.stat(d / "q").st_nlink) == (2, 3)


@pytest.mark.every_engine
def test_not_into_itself(place: Place, d: Path) -> None:
    os.makedirs(d / "a" / "b" / "c" / "e")
    with watch(place, {d: "", d / "a": "", d / "a" / "b": ""}):
        for target in ("a/x", "a/b/x", "a/b/c/x", "a/b/c/e/x", "a/b/c/e"):
            with fails(errno.EINVAL, why=target):
                os.rename(d / "a", d / target)
        with fails(errno.EINVAL):
            os.rename(d / "a" / "b", d / "a" / "b" / "c" / "x")
    for target in ("a", "a/b", "a/b/c"):
        with fails(errno.ENOTEMPTY, errno.EEXIST, why=f"onto its ancestor {target}"):
            os.rename(d / "a" / "b" / "c" / "e", d / target)
    assert os.listdir(d / "a" / "b" / "c") == ["e"]


def test_dot_and_dot_dot(d: Path) -> None:
    os.makedirs(d / "a" / "b")
    for old, new in (("a/.", "x"), ("a/b/..", "x"), ("a", "a/b/."), ("a", "a/b/..")):
        with fails(errno.EINVAL, errno.EBUSY, errno.ENOTEMPTY, errno.EEXIST):
            os.rename(f"{d}/{old}", f"{d}/{new}")


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_onto_itself_is_nothing(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "a")
    with watch(place, {d: "", d / "a": ""}):
        os.rename(d / "a", d / "a")
    assert os.listdir(d) == ["a"]


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", NOT_DIR)
def test_onto_another_name_of_the_same_inode_is_nothing(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "a")
    os.mkdir(d / "p")
    os.link(d / "a", d / "b", follow_symlinks=False)
    os.link(d / "a", d / "p" / "c", follow_symlinks=False)
    with watch(place, {d: "", d / "a": "", d / "p": ""}):
        os.rename(d / "a", d / "b")
        os.rename(d / "a", d / "p" / "c")
    assert os.lstat(d / "a").st_nlink == 3


@pytest.mark.every_engine
def test_a_tree_moves_with_everything_in_it(d: Path) -> None:
    os.makedirs(d / "a" / "b" / "c")
    calls.put(d / "a" / "b" / "c" / "file", b"deep")
    os.mkdir(d / "p")
    fd = os.open(d / "a" / "b" / "c" / "file", os.O_RDWR)
    os.rename(d / "a", d / "p" / "moved")
    assert calls.get(d / "p" / "moved" / "b" / "c" / "file") == b"deep"
    os.write(fd, b"DEEP")
    os.close(fd)
    assert calls.get(d / "p" / "moved" / "b" / "c" / "file") == b"DEEP"
    os.mkdir(d / "a")
    assert os.listdir(d / "a") == []


def test_a_moved_directory_can_go_where_it_came_from(d: Path) -> None:
    os.makedirs(d / "a" / "b")
    os.rename(d / "a" / "b", d / "b")
    os.rename(d / "a", d / "b" / "a")
    assert os.listdir(d / "b") == ["a"]
    with fails(errno.EINVAL):
        os.rename(d / "b", d / "b" / "a" / "b")


def test_hard_links_moved_apart_stay_one_file(d: Path) -> None:
    os.mkdir(d / "p")
    calls.put(d / "a", b"1")
    os.link(d / "a", d / "b")
    os.rename(d / "b", d / "p" / "b")
    assert os.stat(d / "a").st_ino == os.stat(d / "p" / "b").st_ino
    os.unlink(d / "a")
    assert (calls.get(d / "p" / "b"), os.stat(d / "p" / "b").st_nlink) == (b"1", 1)


@pytest.mark.parametrize("kind", KINDS)
def test_ctime_of_what_moved(place: Place, d: Path, root: Actor, kind: str) -> None:
    """POSIX leaves it open; what Linux file systems do, backup programs rely on."""
    make(root, kind, d / "a")
    fd = os.open(d / "a", os.O_PATH | os.O_NOFOLLOW)
    with watch(place, {fd: "c"}):
        os.rename(d / "a", d / "b")
    os.close(fd)


def test_trailing_slashes(d: Path) -> None:
    os.mkdir(d / "a")
    os.rename(f"{d}/a/", f"{d}/b/")
    assert os.listdir(d) == ["b"]
    calls.put(d / "x", b"")
    with fails(errno.ENOTDIR):
        os.rename(f"{d}/x/", f"{d}/y")
    with fails(errno.ENOTDIR):
        os.rename(f"{d}/x", f"{d}/y/")


def test_a_symlink_itself_is_moved_and_replaced(d: Path) -> None:
    os.mkdir(d / "dir")
    calls.put(d / "x", b"x")
    os.symlink("dir", d / "s")
    os.rename(d / "x", d / "s")
    assert (kind_of(d / "s"), kind_of(d / "dir")) == ("file", "dir")
    os.symlink("s", d / "t")
    os.rename(d / "t", d / "u")
    assert os.readlink(d / "u") == "s"


# -- rights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["p", "q"])
@pytest.mark.parametrize("mode", [0o555, 0o600])
def test_needs_rights_in_both_directories(open_dir: Path, alice: User, closed: str, mode: int) -> None:
    alice.mkdir(open_dir / "p")
    alice.mkdir(open_dir / "q")
    alice.put(open_dir / "p" / "a", b"")
    alice.mkdir(open_dir / "p" / "b")
    alice.chmod(open_dir / closed, mode)
    for name in ("a", "b"):
        with fails(errno.EACCES):
            alice.rename(open_dir / "p" / name, open_dir / "q" / name)
    alice.chmod(open_dir / closed, 0o300)
    for name in ("a", "b"):
        alice.rename(open_dir / "p" / name, open_dir / "q" / name)


def test_needs_no_rights_on_a_file_or_a_replaced_file(open_dir: Path, alice: User) -> None:
    calls.put(open_dir / "a", b"a", 0)
    calls.put(open_dir / "b", b"b", 0)
    alice.rename(open_dir / "a", open_dir / "b")
    assert calls.get(open_dir / "b") == b"a"


def test_a_directory_that_changes_its_parent_must_be_writable(open_dir: Path, alice: User) -> None:
    """Its `..` is rewritten."""
    os.mkdir(open_dir / "p", 0o777)
    os.mkdir(open_dir / "a", 0o755)
    alice.rename(open_dir / "a", open_dir / "b")
    with fails(errno.EACCES):
        alice.rename(open_dir / "b", open_dir / "p" / "b")


# -- renameat2 -----------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
@pytest.mark.parametrize("target", KINDS)
def test_noreplace(place: Place, d: Path, root: Actor, target: str) -> None:
    make(root, "file", d / "a")
    make(root, target, d / "b")
    with watch(place, {d: "", d / "a": "", d / "b": ""}), fails(errno.EEXIST):
        calls.renameat2(d / "a", d / "b", calls.RENAME_NOREPLACE)
    calls.renameat2(d / "a", d / "c", calls.RENAME_NOREPLACE)
    assert sorted(os.listdir(d)) == ["b", "c"]


def test_noreplace_onto_itself(d: Path) -> None:
    calls.put(d / "a", b"")
    with fails(errno.EEXIST):
        calls.renameat2(d / "a", d / "a", calls.RENAME_NOREPLACE)


@pytest.mark.every_engine
@pytest.mark.parametrize("two", KINDS)
@pytest.mark.parametrize("one", KINDS)
def test_exchange(place: Place, d: Path, root: Actor, one: str, two: str) -> None:
    os.mkdir(d / "p")
    make(root, one, d / "a")
    make(root, two, d / "p" / "b")
    before = same(d / "a"), same(d / "p" / "b")
    fds = [os.open(x, os.O_PATH | os.O_NOFOLLOW) for x in (d / "a", d / "p" / "b")]
    with watch(place, {d: "cm", d / "p": "cm", fds[0]: "c", fds[1]: "c"}):
        calls.renameat2(d / "a", d / "p" / "b", calls.RENAME_EXCHANGE)
    assert (same(d / "p" / "b"), same(d / "a")) == before
    assert os.stat(d / "p").st_nlink == 2 + (one == "dir")
    assert os.stat(d).st_nlink == 3 + (two == "dir")
    for fd in fds:
        os.close(fd)


def test_exchange_of_full_directories(d: Path) -> None:
    for name in ("a", "b"):
        os.makedirs(d / name / f"in-{name}")
    calls.renameat2(d / "a", d / "b", calls.RENAME_EXCHANGE)
    assert (os.listdir(d / "a"), os.listdir(d / "b")) == (["in-b"], ["in-a"])


def test_exchange_with_nothing(d: Path) -> None:
    calls.put(d / "a", b"")
    for old, new in (("a", "b"), ("b", "a")):
        with fails(errno.ENOENT):
            calls.renameat2(d / old, d / new, calls.RENAME_EXCHANGE)


def test_exchange_with_an_ancestor(d: Path) -> None:
    os.makedirs(d / "a" / "b")
    for old, new in (("a", "a/b"), ("a/b", "a")):
        with fails(errno.EINVAL):
            calls.renameat2(d / old, d / new, calls.RENAME_EXCHANGE)


def test_exchange_of_names_of_one_inode(d: Path) -> None:
    calls.put(d / "a", b"1")
    os.link(d / "a", d / "b")
    calls.renameat2(d / "a", d / "b", calls.RENAME_EXCHANGE)
    assert sorted(os.listdir(d)) == ["a", "b"]
    assert os.stat(d / "a").st_nlink == 2


def test_whiteout(d: Path) -> None:
    calls.put(d / "a", b"1")
    calls.renameat2(d / "a", d / "b", calls.RENAME_WHITEOUT)
    assert (kind_of(d / "a"), os.lstat(d / "a").st_rdev) == ("char", 0)
    assert calls.get(d / "b") == b"1"


@pytest.mark.parametrize("flags", [3, 6, 8, 1 << 30])
def test_flags_that_are_none(d: Path, flags: int) -> None:
    calls.put(d / "a", b"")
    calls.put(d / "b", b"")
    with fails(errno.EINVAL):
        calls.renameat2(d / "a", d / "b", flags)
    assert sorted(os.listdir(d)) == ["a", "b"]
