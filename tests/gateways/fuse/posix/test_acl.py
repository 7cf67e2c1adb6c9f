# SPDX-License-Identifier: Apache-2.0
"""POSIX access control lists, set and shown by setfacl and getfacl: who may, what chmod does, inheritance."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, People, User
from tests.gateways.fuse.posix.conftest import ALICE, BOB, CAROL, TEAM
from tests.gateways.fuse.posix.expect import fails, mode_of, watch
from tests.gateways.fuse.posix.places import Place
from tests.servers.process import require


@pytest.fixture(autouse=True)
def tools() -> None:
    require("setfacl", "apt-get install acl")


def setfacl(*args: object) -> None:
    subprocess.run(["setfacl", *map(str, args)], check=True, capture_output=True)


def getfacl(path: Path) -> set[str]:
    """Lines like user:60001:rw-, without comments and effective rights."""
    shown = subprocess.run(["getfacl", "-cnEp", path], check=True, capture_output=True, text=True).stdout
    return {line for line in shown.splitlines() if line}


@pytest.fixture
def x(open_dir: Path) -> Path:
    path = open_dir / "x"
    calls.put(path, b"content", 0o640)
    return path


@pytest.mark.every_engine
def test_set_and_shown(place: Place, x: Path) -> None:
    assert getfacl(x) == {"user::rw-", "group::r--", "other::---"}
    with watch(place, {x: "c"}):
        setfacl("-m", f"u:{ALICE}:rwx,g:{TEAM}:r-x,o::--x", x)
    assert getfacl(x) == {
        "user::rw-", f"user:{ALICE}:rwx", "group::r--", f"group:{TEAM}:r-x", "mask::rwx", "other::--x"
    }  # fmt: skip
    assert oct(mode_of(x)) == oct(0o671)
    assert "system.posix_acl_access" in os.listxattr(x)
    setfacl("-x", f"u:{ALICE}", x)
    assert f"user:{ALICE}:rwx" not in getfacl(x)
    setfacl("-b", x)
    assert getfacl(x) == {"user::rw-", "group::r--", "other::--x"}
    assert "system.posix_acl_access" not in os.listxattr(x)


@pytest.mark.every_engine
def test_a_named_user(x: Path, alice: User, bob: User) -> None:
    with fails(errno.EACCES):
        alice.get(x)
    setfacl("-m", f"u:{ALICE}:r", x)
    assert alice.get(x) == b"content"
    with fails(errno.EACCES):
        alice.add(x, b"1")
    with fails(errno.EACCES):
        bob.get(x)
    setfacl("-m", f"u:{ALICE}:rw", x)
    alice.add(x, b"C")
    setfacl("-m", "m::r", x)
    with fails(errno.EACCES, why="the mask cuts it"):
        alice.add(x, b"1")
    setfacl("-m", f"u:{ALICE}:-,o::rw", x)
    with fails(errno.EACCES, why="the named entry decides, not others"):
        alice.get(x)
    assert bob.get(x) == b"Content"


@pytest.mark.every_engine
def test_named_groups(x: Path, people: People, bob: User) -> None:
    member = people.user(BOB, BOB, TEAM)
    setfacl("-m", f"g:{TEAM}:r", x)
    assert member.get(x) == b"content"
    with fails(errno.EACCES):
        bob.get(x)
    setfacl("-m", f"g:{TEAM}:-,o::rw", x)
    with fails(errno.EACCES):
        member.get(x)
    setfacl("-m", f"g:{TEAM}:r,g:{BOB}:w,m::rw", x)
    member.get(x)
    member.add(x, b"C")
    with fails(errno.EACCES, why="no single entry grants both"):
        member.may_open(x, os.O_RDWR)


def test_the_owner_is_not_a_named_user(x: Path, alice: User) -> None:
    os.chown(x, ALICE, ALICE)
    os.chmod(x, 0o040)
    setfacl("-m", f"u:{ALICE}:rw,u::-", x)
    with fails(errno.EACCES):
        alice.get(x)


@pytest.mark.every_engine
def test_chmod_changes_the_mask(place: Place, x: Path, alice: User) -> None:
    setfacl("-m", f"u:{ALICE}:rw", x)
    os.chmod(x, 0o600)
    assert {"mask::---", f"user:{ALICE}:rw-", "group::r--"} <= getfacl(x)
    with fails(errno.EACCES):
        alice.get(x)
    os.chmod(x, 0o760)
    assert {"user::rwx", "mask::rw-", "other::---"} <= getfacl(x)
    assert alice.get(x) == b"content"


@pytest.mark.every_engine
def test_defaults_are_inherited(open_dir: Path, people: People, alice: User) -> None:
    folder = open_dir / "p"
    os.mkdir(folder, 0o755)
    setfacl("-d", "-m", f"u:{ALICE}:rwx,g:{TEAM}:r-x,o::-", folder)
    assert f"default:user:{ALICE}:rwx" in getfacl(folder)
    assert oct(mode_of(folder)) == oct(0o755), "a default list changes nothing for the directory itself"
    os.umask(0o022)  # doesn't count where there is a default
    calls.put(folder / "file", b"1", 0o666)
    os.mkdir(folder / "dir", 0o777)
    os.umask(0)
    assert getfacl(folder / "file") == {
        "user::rw-", f"user:{ALICE}:rwx", "group::r-x", f"group:{TEAM}:r-x", "mask::rw-", "other::---",
    }  # fmt: skip
    assert oct(mode_of(folder / "file")) == oct(0o660)
    assert oct(mode_of(folder / "dir")) == oct(0o770)
    assert {f"user:{ALICE}:rwx", f"default:user:{ALICE}:rwx", "default:other::---"} <= getfacl(folder / "dir")
    alice.put(folder / "dir" / "file", b"2")
    assert f"user:{ALICE}:rwx" in getfacl(folder / "dir" / "file")
    os.mkfifo(folder / "fifo", 0o666)
    assert f"user:{ALICE}:rwx" in getfacl(folder / "fifo")
    os.symlink("x", folder / "s")
    assert mode_of(folder / "s") == 0o777


def test_a_creation_mode_cuts_the_inherited_list(open_dir: Path) -> None:
    folder = open_dir / "p"
    os.mkdir(folder, 0o755)
    setfacl("-d", "-m", f"u:{ALICE}:rwx", folder)
    calls.put(folder / "x", b"", 0o600)
    assert {"mask::---", "other::---", f"user:{ALICE}:rwx"} <= getfacl(folder / "x")
    os.mkdir(folder / "y", 0o700)
    assert {"mask::---", f"default:user:{ALICE}:rwx"} <= getfacl(folder / "y")


def test_a_minimal_default_gives_bits_only(open_dir: Path) -> None:
    folder = open_dir / "p"
    os.mkdir(folder, 0o755)
    setfacl("-d", "-m", "u::rwx,g::r-x,o::-", folder)
    os.umask(0o077)
    calls.put(folder / "x", b"", 0o666)
    os.umask(0)
    assert oct(mode_of(folder / "x")) == oct(0o640)
    assert getfacl(folder / "x") == {"user::rw-", "group::r--", "other::---"}
    assert os.listxattr(folder / "x") == []


def test_defaults_are_removed(open_dir: Path) -> None:
    folder = open_dir / "p"
    os.mkdir(folder, 0o755)
    setfacl("-d", "-m", f"u:{ALICE}:rwx", folder)
    setfacl("-k", folder)
    assert os.listxattr(folder) == []
    calls.put(folder / "x", b"", 0o644)
    assert os.listxattr(folder / "x") == []


@pytest.mark.every_engine
def test_directories_are_searched_and_written_by_their_list(open_dir: Path, alice: User, bob: User) -> None:
    folder = open_dir / "p"
    os.mkdir(folder, 0o700)
    calls.put(folder / "x", b"1", 0o644)
    setfacl("-m", f"u:{ALICE}:rwx,u:{BOB}:x", folder)
    assert alice.get(folder / "x") == b"1"
    alice.put(folder / "y", b"2")
    assert sorted(alice.listdir(folder)) == ["x", "y"]
    assert bob.get(folder / "x") == b"1"
    with fails(errno.EACCES):
        bob.listdir(folder)
    with fails(errno.EACCES):
        bob.put(folder / "z", b"")
    with fails(errno.EACCES):
        bob.unlink(folder / "y")


def test_only_the_owner_sets_lists(x: Path, alice: User, bob: User) -> None:
    os.chown(x, ALICE, ALICE)
    os.chmod(x, 0o666)
    setfacl("-m", f"u:{CAROL}:r", x)
    value = os.getxattr(x, "system.posix_acl_access")
    with fails(errno.EPERM):
        bob.setxattr(x, "system.posix_acl_access", value)
    with fails(errno.EPERM):
        bob.removexattr(x, "system.posix_acl_access")
    alice.setxattr(x, "system.posix_acl_access", value)
    alice.removexattr(x, "system.posix_acl_access")


def test_lists_that_are_none(d: Path, x: Path, root: Actor) -> None:
    for value in (b"\1\0\0\0", b"\2\0\0\0abc", b"\2\0\0\0" + b"\2\0\7\0" + b"\0" * 4):
        with fails(errno.EINVAL, errno.EOPNOTSUPP):
            os.setxattr(x, "system.posix_acl_access", value)
    with fails(errno.EACCES, errno.EINVAL):
        os.setxattr(
            x, "system.posix_acl_default", bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")
        )
    os.symlink("x", d / "s")
    with fails(errno.EOPNOTSUPP):
        os.setxattr(d / "s", "system.posix_acl_access", b"\2\0\0\0", follow_symlinks=False)


def test_lists_survive_copying_with_cp(d: Path, x: Path) -> None:
    setfacl("-m", f"u:{ALICE}:rw,g:{TEAM}:r", x)
    subprocess.run(["cp", "-p", x, d / "y"], check=True)
    assert getfacl(d / "y") == getfacl(x)


def test_setgid_is_lost_by_an_owner_outside_the_group(open_dir: Path, alice: User) -> None:
    path = open_dir / "x"
    calls.put(path, b"")
    os.chown(path, ALICE, TEAM)
    os.chmod(path, 0o2755)
    setfacl("-m", f"u:{BOB}:r", path)
    value = os.getxattr(path, "system.posix_acl_access")
    assert oct(mode_of(path)) == oct(0o2755)
    alice.setxattr(path, "system.posix_acl_access", value)
    assert oct(mode_of(path)) == oct(0o755)


def test_access_answers_by_the_list(x: Path, alice: User) -> None:
    setfacl("-m", f"u:{ALICE}:r", x)
    alice.faccessat(x, os.R_OK)
    with fails(errno.EACCES):
        alice.faccessat(x, os.W_OK)
