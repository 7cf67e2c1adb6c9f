# SPDX-License-Identifier: Apache-2.0
"""The longest names, paths and trees; statvfs(3); statx(2)."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor
from tests.gateways.fuse.posix.expect import FORMATS, KINDS, PATH_MAX, fails, make
from tests.gateways.fuse.posix.places import Place


def test_a_path_of_4095_bytes(d: Path) -> None:
    path = str(d)
    while len(path) + 201 < PATH_MAX - 60:
        path += "/" + "p" * 200
        os.mkdir(path)
    last = path + "/" + "l" * (PATH_MAX - 1 - len(path) - 1)
    assert len(last) == PATH_MAX - 1
    calls.put(last, b"far away")
    assert calls.get(last) == b"far away"
    assert os.stat(last).st_size == 8
    os.rename(last, f"{d}/near")
    os.rename(f"{d}/near", last)
    os.unlink(last)
    with fails(errno.ENAMETOOLONG):
        os.mkdir(last + "x")


def test_deeper_than_any_path(d: Path) -> None:
    """A tree of 300 levels with long names, walked by descriptors."""
    name = "n" * 100
    fd = os.open(d, os.O_RDONLY)
    for _ in range(300):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert os.listdir(fd) == ["bottom"]
    up = os.open("../..", os.O_RDONLY, dir_fd=fd)
    assert os.listdir(up) == [name]
    os.close(fd)
    os.close(up)


def test_names_of_every_length(d: Path) -> None:
    for length in (1, 2, 63, 64, 127, 128, 200, 254, 255):
        calls.put(d / ("n" * length), str(length).encode())
    assert sorted(map(len, os.listdir(d))) == [1, 2, 63, 64, 127, 128, 200, 254, 255]
    for length in (1, 255):
        assert calls.get(d / ("n" * length)) == str(length).encode()


@pytest.mark.every_engine
def test_statvfs(place: Place, d: Path) -> None:
    found = os.statvfs(d)
    assert found.f_namemax == 255
    assert found.f_frsize >= 512 and found.f_blocks > 0
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert 0 < found.f_favail <= found.f_ffree <= found.f_files
    fd = os.open(d, os.O_RDONLY)
    assert os.fstatvfs(fd).f_blocks > 0
    os.close(fd)


def test_statvfs_counts_what_is_written(place: Place, d: Path) -> None:
    before = os.statvfs(d)
    calls.put(d / "x", os.urandom(8 << 20))
    fd = os.open(d / "x", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    if place.ours:
        time.sleep(1.2)  # how often a client tells its usage
    after = os.statvfs(d)
    used = (before.f_blocks - before.f_bfree) * before.f_frsize
    assert (after.f_blocks - after.f_bfree) * after.f_frsize - used >= 7 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_statx_is_stat(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x", 0o640)
    one = calls.statx(d / "x", calls.AT_SYMLINK_NOFOLLOW)
    two = os.lstat(d / "x")
    assert one.mask & 0x7FF == 0x7FF
    assert (one.mode, one.ino, one.nlink, one.uid, one.gid, one.size, one.blocks) == (
        two.st_mode, two.st_ino, two.st_nlink, two.st_uid, two.st_gid, two.st_size, two.st_blocks
    )  # fmt: skip
    assert (one.atime_ns, one.mtime_ns, one.ctime_ns) == (two.st_atime_ns, two.st_mtime_ns, two.st_ctime_ns)
    assert stat.S_IFMT(one.mode) == FORMATS[kind]
    assert os.makedev(*one.rdev) == two.st_rdev


def test_statx_of_descriptors_and_flags(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"12345")
    for flags in (calls.AT_EMPTY_PATH, calls.AT_EMPTY_PATH | calls.AT_STATX_FORCE_SYNC, calls.AT_EMPTY_PATH | 0x4000):
        assert calls.statx("", flags, fd=fd).size == 5
    os.close(fd)
    with fails(errno.EINVAL):
        calls.statx(d / "x", 0x6000)
    with fails(errno.ENOENT):
        calls.statx("")


def test_inode_numbers_are_stable_and_different(d: Path) -> None:
    numbers = {}
    for i in range(200):
        calls.put(d / f"n{i}", b"")
        numbers[f"n{i}"] = os.stat(d / f"n{i}").st_ino
    assert len(set(numbers.values())) == 200
    fd = os.open(d, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    assert all(os.stat(d / name).st_ino == ino for name, ino in numbers.items())
    assert all(ino > 0 for ino in numbers.values())


def test_one_device_number_for_all(d: Path, root: Actor) -> None:
    for kind in KINDS:
        make(root, kind, d / kind)
    assert len({os.lstat(d / kind).st_dev for kind in KINDS} | {os.stat(d).st_dev}) == 1
