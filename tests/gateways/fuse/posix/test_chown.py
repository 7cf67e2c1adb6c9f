# SPDX-License-Identifier: Apache-2.0
"""chown(2), lchown(2), fchown(2): who may give what to whom, and which bits are lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.conftest import ALICE, BOB, TEAM
from tests.gateways.fuse.posix.expect import FOLLOWED, KINDS, fails, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place


def owner(path: Path | int) -> tuple[int, int]:
    found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return found.st_uid, found.st_gid


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_root_gives_anything_to_anybody(place: Place, d: Path, root: Actor, kind: str) -> None:
    path = d / "x"
    make(root, kind, path)
    with watch(place, {path: "c", d: ""}):
        os.lchown(path, ALICE, BOB)
    assert owner(path) == (ALICE, BOB)
    os.lchown(path, -1, TEAM)
    assert owner(path) == (ALICE, TEAM)
    os.lchown(path, BOB, -1)
    assert owner(path) == (BOB, TEAM)
    os.lchown(path, 0, 0)
    assert owner(path) == (0, 0)


def test_the_largest_numbers(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    os.chown(d / "x", 0x7FFFFFFF, 0x7FFFFFFF)
    assert owner(d / "x") == (0x7FFFFFFF, 0x7FFFFFFF)
    if place.lacks("uint32"):
        with fails(errno.EINVAL, errno.EOVERFLOW):
            os.chown(d / "x", 0xFFFFFFFE, 0xFFFFFFFE)
        assert owner(d / "x") == (0x7FFFFFFF, 0x7FFFFFFF)
        return
    os.chown(d / "x", 0xFFFFFFFE, 0xFFFFFFFE)
    assert owner(d / "x") == (0xFFFFFFFE, 0xFFFFFFFE)


def test_follows_symlinks_and_lchown_does_not(d: Path) -> None:
    calls.put(d / "x", b"")
    os.symlink("x", d / "s")
    os.chown(d / "s", ALICE, ALICE)
    assert owner(d / "x") == (ALICE, ALICE)
    assert owner(d / "s") == (0, 0)
    os.lchown(d / "s", BOB, BOB)
    assert owner(d / "x") == (ALICE, ALICE)
    assert owner(d / "s") == (BOB, BOB)


@pytest.mark.parametrize("kind", KINDS)
def test_owner_moves_between_groups_of_his(open_dir: Path, root: Actor, alice_of_team: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path)
    os.lchown(path, ALICE, ALICE)
    alice_of_team.lchown(path, -1, TEAM)
    assert owner(path) == (ALICE, TEAM)
    alice_of_team.lchown(path, ALICE, ALICE)
    assert owner(path) == (ALICE, ALICE)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_what_users_may_not(place: Place, open_dir: Path, root: Actor, alice: User, bob: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path, 0o777)
    os.lchown(path, ALICE, ALICE)
    with watch(place, {path: ""}):
        for actor, uid, gid in ((alice, BOB, -1), (alice, -1, TEAM), (alice, BOB, BOB), (alice, 0, 0),
                                (bob, BOB, -1), (bob, -1, BOB), (bob, ALICE, -1), (bob, -1, ALICE)):  # fmt: skip
            with fails(errno.EPERM, why=f"{actor.uid} gives {kind} of Alice to {uid}:{gid}"):
                actor.lchown(path, uid, gid)
    assert owner(path) == (ALICE, ALICE)


def test_owner_may_name_himself(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"")
    alice.chown(open_dir / "x", ALICE, ALICE)
    alice.chown(open_dir / "x", ALICE, -1)
    alice.chown(open_dir / "x", -1, ALICE)
    assert owner(open_dir / "x") == (ALICE, ALICE)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_change_still_moves_ctime(place: Place, d: Path, root: Actor, kind: str) -> None:
    path = d / "x"
    make(root, kind, path)
    with watch(place, {path: "c"}):
        os.lchown(path, 0, 0)


#: mode before -> mode after a change of group by the owner. Group execution is what makes setgid a privilege.
CLEARED = {
    0o4755: 0o755, 0o6755: 0o755, 0o2755: 0o755, 0o7755: 0o1755, 0o4644: 0o644, 0o1777: 0o1777,
    0o0644: 0o644,
}  # fmt: skip


@pytest.mark.parametrize("before", CLEARED)
def test_the_owner_loses_setuid_and_setgid(open_dir: Path, alice_of_team: User, before: int) -> None:
    path = open_dir / "x"
    alice_of_team.put(path, b"")
    alice_of_team.chmod(path, before)
    assert mode_of(path) == before
    alice_of_team.chown(path, -1, TEAM)
    assert oct(mode_of(path)) == oct(CLEARED[before])


@pytest.mark.every_engine
@pytest.mark.parametrize("before", [0o4755, 0o6755, 0o2755, 0o7777])
def test_root_clears_them_of_files_too(d: Path, before: int) -> None:
    path = d / "x"
    calls.put(path, b"")
    os.chmod(path, before)
    os.chown(path, ALICE, ALICE)
    assert oct(mode_of(path)) == oct(before & ~0o6000)


def test_setgid_without_group_execution_stays_when_root_chowns(d: Path) -> None:
    calls.put(d / "x", b"")
    os.chmod(d / "x", 0o2644)
    os.chown(d / "x", ALICE, ALICE)
    assert oct(mode_of(d / "x")) == oct(0o2644)


def test_a_directory_keeps_its_bits(open_dir: Path, alice_of_team: User) -> None:
    path = open_dir / "x"
    alice_of_team.mkdir(path)
    alice_of_team.chmod(path, 0o6775)
    alice_of_team.chown(path, -1, TEAM)
    assert oct(mode_of(path)) == oct(0o6775)
    os.chown(path, BOB, BOB)
    assert oct(mode_of(path)) == oct(0o6775)


def test_descriptor_also_of_a_removed_file(place: Place, d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    with watch(place, {fd: "c"}):
        os.fchown(fd, ALICE, -1)
    os.unlink(d / "x")
    os.fchown(fd, -1, BOB)
    assert owner(fd) == (ALICE, BOB)
    os.close(fd)


@pytest.mark.parametrize("kind", FOLLOWED)
def test_changed_ownership_changes_rights(open_dir: Path, root: Actor, alice: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path, 0o600)
    os.chown(path, ALICE, ALICE)
    alice.chmod(path, 0o640)
    os.chown(path, BOB, BOB)
    with fails(errno.EPERM):
        alice.chmod(path, 0o644)
