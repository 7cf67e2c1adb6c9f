# SPDX-License-Identifier: Apache-2.0
"""chmod(2), fchmod(2), fchmodat2(2)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.conftest import ALICE, BOB, TEAM
from tests.gateways.fuse.posix.expect import FOLLOWED, fails, kind_of, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", FOLLOWED)
def test_changes_the_bits_of_every_kind(d: Path, root: Actor, kind: str) -> None:
    path = d / "x"
    make(root, kind, path)
    for mode in (0o000, 0o111, 0o444, 0o640, 0o777, 0o1777, 0o2755, 0o4755, 0o7777):
        os.chmod(path, mode)
        assert mode_of(path) == mode
    assert kind_of(path) == kind


def test_every_single_bit_comes_back(d: Path) -> None:
    path = d / "x"
    calls.put(path, b"")
    for bit in range(12):
        os.chmod(path, 1 << bit)
        assert mode_of(path) == 1 << bit


@pytest.mark.parametrize("kind", FOLLOWED)
def test_moves_ctime_only(place: Place, d: Path, root: Actor, kind: str) -> None:
    path = d / "x"
    make(root, kind, path)
    with watch(place, {path: "c", d: ""}):
        os.chmod(path, 0o711)


def test_same_bits_again_still_move_ctime(place: Place, d: Path) -> None:
    path = d / "x"
    calls.put(path, b"", 0o644)
    with watch(place, {path: "c"}):
        os.chmod(path, 0o644)


def test_goes_through_a_symlink(d: Path) -> None:
    calls.put(d / "x", b"", 0o600)
    os.symlink("x", d / "s")
    os.chmod(d / "s", 0o640)
    assert mode_of(d / "x") == 0o640
    assert mode_of(d / "s") == 0o777


def test_not_following_a_symlink_is_refused(d: Path) -> None:
    os.symlink("x", d / "s")
    with fails(errno.EOPNOTSUPP, errno.ENOSYS):
        calls.fchmodat2(d / "s", 0o600, calls.AT_SYMLINK_NOFOLLOW)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_owner_may(open_dir: Path, root: Actor, alice: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path)
    os.chown(path, ALICE, ALICE)
    alice.chmod(path, 0o642)
    assert mode_of(path) == 0o642


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", FOLLOWED)
def test_others_may_not(place: Place, open_dir: Path, root: Actor, alice: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path, 0o666)
    os.chown(path, BOB, ALICE)
    with watch(place, {path: ""}), fails(errno.EPERM):
        alice.chmod(path, 0o644)
    assert mode_of(path) == 0o666


def test_ownership_counts_not_write_permission(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"", 0o600)
    alice.chmod(open_dir / "x", 0)
    with fails(errno.EACCES):
        alice.get(open_dir / "x")
    alice.chmod(open_dir / "x", 0o600)
    assert alice.get(open_dir / "x") == b""


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_owner_outside_the_group_loses_setgid(open_dir: Path, root: Actor, alice: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path)
    os.chown(path, ALICE, TEAM)
    alice.chmod(path, 0o2755)
    assert mode_of(path) == 0o755


@pytest.mark.parametrize("kind", ["file", "dir"])
def test_owner_in_the_group_keeps_setgid(open_dir: Path, root: Actor, alice_of_team: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path)
    os.chown(path, ALICE, TEAM)
    alice_of_team.chmod(path, 0o2755)
    assert mode_of(path) == 0o2755


def test_owner_may_set_setuid_and_sticky(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"")
    alice.chmod(open_dir / "x", 0o5755)
    assert mode_of(open_dir / "x") == 0o5755


def test_descriptor(place: Place, d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDONLY, 0o600)
    with watch(place, {fd: "c"}):
        os.fchmod(fd, 0o751)
    assert mode_of(d / "x") == 0o751
    os.unlink(d / "x")
    os.fchmod(fd, 0o640)
    assert mode_of(fd) == 0o640
    os.close(fd)


def test_descriptor_of_somebody_else(open_dir: Path, alice: User) -> None:
    calls.put(open_dir / "x", b"", 0o666)
    fd = alice.open(open_dir / "x", os.O_RDWR)
    with fails(errno.EPERM):
        alice.fchmod(fd, 0o600)
    alice.close(fd)


def test_an_open_descriptor_keeps_its_rights(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"one", 0o600)
    fd = alice.open(open_dir / "x", os.O_RDWR)
    os.chmod(open_dir / "x", 0)
    assert alice.pread(fd, 9, 0) == b"one"
    assert alice.pwrite(fd, b"two", 0) == 3
    alice.close(fd)
    assert calls.get(open_dir / "x") == b"two"


def test_file_type_bits_are_ignored(d: Path) -> None:
    calls.put(d / "x", b"")
    os.chmod(d / "x", stat.S_IFDIR | 0o700)
    assert stat.S_IFMT(os.stat(d / "x").st_mode) == stat.S_IFREG
