# SPDX-License-Identifier: Apache-2.0
"""Sticky directories: whose names may be removed, moved and replaced, as a table."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.conftest import ALICE, BOB, CAROL
from tests.gateways.fuse.posix.expect import KINDS, NOT_DIR, fails, make

#: owner of the directory, owner of the thing -> may Alice take it away
RULES = {
    (ALICE, ALICE): True, (ALICE, BOB): True, (BOB, ALICE): True, (BOB, BOB): False, (BOB, CAROL): False,
    (0, ALICE): True, (0, 0): False,
}  # fmt: skip


def sticky(d: Path, owner: int, name: str = "sticky") -> Path:
    path = d / name
    path.mkdir()
    path.chmod(0o1777)
    os.chown(path, owner, owner)
    return path


def thing(root: Actor, kind: str, path: Path, owner: int) -> Path:
    make(root, kind, path, 0o777)
    os.lchown(path, owner, owner)
    return path


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_removing(d: Path, root: Actor, alice: User, rule: tuple[int, int], kind: str) -> None:
    path = thing(root, kind, sticky(d, rule[0]) / "x", rule[1])
    remove = alice.rmdir if kind == "dir" else alice.unlink
    if RULES[rule]:
        remove(path)
        assert not os.path.lexists(path)
    else:
        with fails(errno.EPERM, errno.EACCES):
            remove(path)
        assert os.path.lexists(path)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["file", "symlink", "dir"])
@pytest.mark.parametrize("rule", RULES)
def test_moving_away(d: Path, open_dir: Path, root: Actor, alice: User, rule: tuple[int, int], kind: str) -> None:
    path = thing(root, kind, sticky(d, rule[0]) / "x", rule[1])
    for target in (path.parent / "y", open_dir / "y"):
        if RULES[rule]:
            alice.rename(path, target)
            os.rename(target, path)
        else:
            with fails(errno.EPERM, errno.EACCES):
                alice.rename(path, target)
            assert os.path.lexists(path)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["file", "symlink", "dir"])
@pytest.mark.parametrize("rule", RULES)
def test_replacing(d: Path, open_dir: Path, root: Actor, alice: User, rule: tuple[int, int], kind: str) -> None:
    path = thing(root, kind, sticky(d, rule[0]) / "x", rule[1])
    mine = thing(root, kind, open_dir / "mine", ALICE)
    beside = thing(root, kind, path.parent / "mine", ALICE)
    for source in (mine, beside):
        if RULES[rule]:
            alice.rename(source, path)
            thing(root, kind, source, ALICE)
            os.lchown(path, rule[1], rule[1])
        else:
            with fails(errno.EPERM, errno.EACCES):
                alice.rename(source, path)
            assert os.path.lexists(source)


def test_exchanging_needs_both(d: Path, open_dir: Path, root: Actor, alice: User) -> None:
    mine = thing(root, "file", open_dir / "mine", ALICE)
    theirs = thing(root, "file", sticky(d, BOB) / "x", BOB)
    for one, two in ((mine, theirs), (theirs, mine)):
        with fails(errno.EPERM, errno.EACCES):
            alice.renameat2(one, two, calls.RENAME_EXCHANGE)
    os.chown(theirs, ALICE, ALICE)
    alice.renameat2(mine, theirs, calls.RENAME_EXCHANGE)


def test_making_and_linking_stay_allowed(d: Path, root: Actor, alice: User) -> None:
    folder = sticky(d, BOB)
    for kind in NOT_DIR:
        if kind not in ("block", "char"):
            make(alice, kind, folder / kind)
    alice.link(folder / "file", folder / "linked")
    alice.mkdir(folder / "dir")
    alice.rename(folder / "dir", folder / "moved")


def test_root_may_always(d: Path, root: Actor) -> None:
    folder = sticky(d, BOB)
    thing(root, "file", folder / "x", CAROL)
    thing(root, "dir", folder / "y", CAROL)
    os.unlink(folder / "x")
    os.rmdir(folder / "y")


def test_without_the_bit_write_permission_is_enough(d: Path, root: Actor, alice: User) -> None:
    folder = sticky(d, BOB)
    folder.chmod(0o777)
    alice.unlink(thing(root, "file", folder / "x", CAROL))
