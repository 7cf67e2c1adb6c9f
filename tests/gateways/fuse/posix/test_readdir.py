# SPDX-License-Identifier: Apache-2.0
"""readdir(3), telldir(3), seekdir(3): completeness, kinds, positions, listings while names change."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, People
from tests.gateways.fuse.posix.calls import Entry
from tests.gateways.fuse.posix.expect import KINDS, make
from tests.gateways.fuse.posix.places import Place

TYPES = {"file": 8, "dir": 4, "fifo": 1, "block": 6, "char": 2, "socket": 12, "symlink": 10}


def entries(fd: int, size: int = 1 << 15) -> list[Entry]:
    return [entry for part in iter(lambda: calls.getdents(fd, size), []) for entry in part]


def names(fd: int, size: int = 1 << 15) -> list[str]:
    return [e.name for e in entries(fd, size)]


@pytest.mark.every_engine
def test_kinds_and_inodes(d: Path, root: Actor) -> None:
    for kind in KINDS:
        make(root, kind, d / kind)
    fd = os.open(d, os.O_RDONLY)
    found = {e.name: e for e in entries(fd)}
    os.close(fd)
    assert set(found) == {".", "..", *KINDS}
    for kind in KINDS:
        assert found[kind].kind == TYPES[kind]
        assert found[kind].ino == os.lstat(d / kind).st_ino
    assert found["."].ino == os.stat(d).st_ino
    assert found[".."].ino == os.stat(d.parent).st_ino


@pytest.mark.every_engine
@pytest.mark.parametrize("count", [0, 1, 100, 3000])
def test_every_name_once(d: Path, count: int) -> None:
    wanted = {f"name-{i:05}" + "x" * (i % 150) for i in range(count)}
    for name in wanted:
        os.close(os.open(d / name, os.O_CREAT | os.O_WRONLY))
    for size in (1 << 15, 1 << 10):
        fd = os.open(d, os.O_RDONLY)
        found = names(fd, size)
        os.close(fd)
        assert len(found) == len(set(found)) == count + 2
        assert set(found) == wanted | {".", ".."}


def test_rewinding_shows_what_is_new(d: Path) -> None:
    calls.put(d / "a", b"")
    fd = os.open(d, os.O_RDONLY)
    assert set(names(fd)) == {".", "..", "a"}
    calls.put(d / "b", b"")
    os.unlink(d / "a")
    assert names(fd) == []
    os.lseek(fd, 0, 0)
    assert set(names(fd)) == {".", "..", "b"}
    os.close(fd)


@pytest.mark.every_engine
def test_going_back_to_a_position(d: Path) -> None:
    for i in range(300):
        calls.put(d / f"n{i}", b"")
    fd = os.open(d, os.O_RDONLY)
    all_of_them = entries(fd, 1 << 10)
    rng = random.Random(5)
    for _ in range(20):
        at = rng.randrange(len(all_of_them) - 1)
        os.lseek(fd, all_of_them[at].offset, 0)
        assert names(fd, 1 << 12) == [e.name for e in all_of_them[at + 1 :]]
    os.close(fd)


@pytest.mark.every_engine
@pytest.mark.parametrize("change", ["remove", "add", "rename"])
def test_names_that_stay_are_seen_once_whatever_else_changes(d: Path, change: str) -> None:
    """POSIX leaves open only whether names that come or go meanwhile are seen."""
    stay = {f"stay{i}" for i in range(400)}
    for i in range(400):
        calls.put(d / f"stay{i}", b"")
        calls.put(d / f"go{i}", b"")
    fd = os.open(d, os.O_RDONLY)
    found: list[str] = []
    step = 0
    while part := calls.getdents(fd, 1 << 10):
        found += [e.name for e in part]
        for i in range(step, step + 8):
            if i < 400 and change == "remove":
                os.unlink(d / f"go{i}")
            elif i < 400 and change == "rename":
                os.rename(d / f"go{i}", d / f"gone{i}")
            else:
                calls.put(d / f"new{i}", b"")
        step += 8
        assert step < 20_000, "the listing never ends"
    os.close(fd)
    kept = [name for name in found if name.startswith("stay")]
    assert set(kept) == stay
    assert len(kept) == len(stay)


@pytest.mark.every_engine
def test_removing_all_while_listing(d: Path) -> None:
    """As rm -r does."""
    for i in range(1500):
        calls.put(d / f"n{i}", b"")
    fd = os.open(d, os.O_RDONLY)
    while part := calls.getdents(fd, 1 << 11):
        for entry in part:
            if entry.name not in (".", ".."):
                os.unlink(entry.name, dir_fd=fd)
    os.close(fd)
    assert os.listdir(d) == []
    os.rmdir(d)
    os.mkdir(d)


def test_two_listings_at_once(d: Path) -> None:
    for i in range(200):
        calls.put(d / f"n{i}", b"")
    one, two = os.open(d, os.O_RDONLY), os.open(d, os.O_RDONLY)
    first = calls.getdents(one, 1 << 10)
    assert len(names(two)) == 202
    assert len(first) + len(names(one)) == 202
    os.close(one)
    os.close(two)


def test_an_open_listing_survives_a_rename_of_the_directory(d: Path) -> None:
    os.mkdir(d / "a")
    for i in range(200):
        calls.put(d / "a" / f"n{i}", b"")
    fd = os.open(d / "a", os.O_RDONLY)
    first = calls.getdents(fd, 1 << 10)
    os.rename(d / "a", d / "b")
    assert len(first) + len(names(fd)) == 202
    os.close(fd)


@pytest.mark.every_engine
def test_names_come_and_go_at_once(d: Path, people: People) -> None:
    other = people.another()
    for i in range(20):
        calls.put(d / f"n{i}", b"")
        assert f"n{i}" in other.listdir(d)
        os.rename(d / f"n{i}", d / f"m{i}")
        assert set(other.listdir(d)) == {f"m{j}" for j in range(i + 1)}
        assert other.stat(d / f"m{i}").st_size == 0


def test_attributes_of_listed_names_are_fresh(d: Path) -> None:
    """Listings may bring attributes along; they must not be older than what the caller did before."""
    for i in range(50):
        calls.put(d / f"n{i}", b"x" * i)
    for round_ in range(3):
        with os.scandir(d) as listing:
            sizes = {e.name: e.stat(follow_symlinks=False).st_size for e in listing}
        assert sizes == {f"n{i}": i + round_ for i in range(50)}
        for i in range(50):
            fd = os.open(d / f"n{i}", os.O_WRONLY | os.O_APPEND)
            os.write(fd, b"y")
            os.close(fd)


def test_walking_a_tree(place: Place, d: Path) -> None:
    wanted = set()
    for i in range(5):
        for j in range(5):
            os.makedirs(d / f"a{i}" / f"b{j}")
            for k in range(3):
                calls.put(d / f"a{i}" / f"b{j}" / f"c{k}", b"")
                wanted.add(f"a{i}/b{j}/c{k}")
    found = {os.path.relpath(os.path.join(folder, name), d) for folder, _, files in os.walk(d) for name in files}
    assert found == wanted
