# SPDX-License-Identifier: Apache-2.0
"""mkfifo(2), mknod(2) and symlink(2): what each kind is born with, and that it then works as its kind should."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, People, User
from tests.gateways.fuse.posix.conftest import ALICE
from tests.gateways.fuse.posix.expect import FORMATS, fails, kind_of, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place

#: Numbers of devices as 32 bits hold them: 12 bits major, 20 bits minor.
DEVICES = [(0, 0), (1, 2), (7, 200), (255, 255), (259, 300), (4095, 1048575)]


@pytest.mark.every_engine
@pytest.mark.parametrize(("mode", "umask"), [(0o755, 0), (0o151, 0), (0o151, 0o077), (0o345, 0o070), (0o345, 0o501)])
@pytest.mark.parametrize("kind", ["file", "fifo", "socket", "block", "char"])
def test_mode_and_umask(d: Path, kind: str, mode: int, umask: int) -> None:
    os.umask(umask)
    os.mknod(d / "x", FORMATS[kind] | mode, 0)
    found = os.lstat(d / "x")
    assert (stat.S_IFMT(found.st_mode), oct(stat.S_IMODE(found.st_mode))) == (FORMATS[kind], oct(mode & ~umask))
    assert (found.st_nlink, found.st_size, found.st_blocks) == (1, 0, 0)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["block", "char"])
@pytest.mark.parametrize("number", DEVICES)
def test_device_numbers(place: Place, d: Path, kind: str, number: tuple[int, int]) -> None:
    if place.lacks("uint32") and number[0] > 2047:
        with fails(errno.EINVAL, errno.EOVERFLOW):
            os.mknod(d / "x", FORMATS[kind] | 0o600, os.makedev(*number))
        assert os.listdir(d) == []
        return
    os.mknod(d / "x", FORMATS[kind] | 0o600, os.makedev(*number))
    found = os.lstat(d / "x")
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == number
    assert calls.statx(d / "x").rdev == number


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["fifo", "socket", "file"])
def test_users_make_what_is_no_device(place: Place, open_dir: Path, alice: User, kind: str) -> None:
    with watch(place, {open_dir: "cm"}):
        alice.mknod(open_dir / "x", FORMATS[kind] | 0o640)
    found = os.lstat(open_dir / "x")
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (ALICE, ALICE, 0o640)
    assert found.st_ctime_ns == found.st_mtime_ns


@pytest.mark.parametrize("kind", ["block", "char"])
def test_users_make_no_devices(place: Place, open_dir: Path, alice: User, kind: str) -> None:
    with watch(place, {open_dir: ""}), fails(errno.EPERM):
        alice.mknod(open_dir / "x", FORMATS[kind] | 0o666, os.makedev(1, 3))
    assert os.listdir(open_dir) == []


def test_mknod_without_a_type_makes_a_file(d: Path) -> None:
    os.mknod(d / "x", 0o644)
    assert kind_of(d / "x") == "file"


@pytest.mark.parametrize("bits", [stat.S_IFDIR, stat.S_IFLNK, 0o110000])
def test_mknod_of_other_types(d: Path, bits: int) -> None:
    with fails(errno.EPERM, errno.EINVAL):
        os.mknod(d / "x", bits | 0o755)
    assert os.listdir(d) == []


# -- they work -----------------------------------------------------------------------------------------------------


def test_a_fifo_carries_bytes_between_processes(d: Path, people: People) -> None:
    os.mkfifo(d / "x", 0o666)
    other = people.another()
    opening = other.begin("open", d / "x", os.O_WRONLY)
    fd = os.open(d / "x", os.O_RDONLY)
    remote = opening.result()
    assert other.write(remote, b"through the pipe") == 16
    assert os.read(fd, 100) == b"through the pipe"
    other.close(remote)
    assert os.read(fd, 100) == b""
    os.close(fd)
    assert os.stat(d / "x").st_size == 0


def test_a_fifo_without_a_reader(d: Path) -> None:
    os.mkfifo(d / "x")
    with fails(errno.ENXIO):
        os.open(d / "x", os.O_WRONLY | os.O_NONBLOCK)
    fd = os.open(d / "x", os.O_RDONLY | os.O_NONBLOCK)
    with fails(errno.ESPIPE):
        os.lseek(fd, 0, 0)
    with fails(errno.EINVAL):
        os.ftruncate(fd, 0)
    os.close(fd)
    with fails(errno.EINVAL):
        os.truncate(d / "x", 0)


def test_a_fifo_that_lost_its_name_goes_on(d: Path) -> None:
    os.mkfifo(d / "x")
    fd = os.open(d / "x", os.O_RDWR)
    os.unlink(d / "x")
    os.write(fd, b"on")
    assert os.read(fd, 2) == b"on"
    os.close(fd)


def test_fifo_times_move_with_its_bytes(place: Place, d: Path) -> None:
    os.mkfifo(d / "x")
    fd = os.open(d / "x", os.O_RDWR)
    os.write(fd, b"on")
    ready, _, _ = select.select([fd], [], [], 5)
    assert ready
    assert os.read(fd, 2) == b"on"
    os.close(fd)


def test_a_unix_socket_listens_by_its_name(d: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    os.chdir(d)
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("s")
            with fails(errno.ECONNREFUSED):
                client.connect("s")
            server.listen()
            client.connect("s")
            peer, _ = server.accept()
            with peer:
                client.sendall(b"hello")
                assert peer.recv(10) == b"hello"
        with socket.socket(socket.AF_UNIX) as again, fails(errno.EADDRINUSE):
            again.bind("s")
    finally:
        os.fchdir(before)
        os.close(before)
    assert kind_of(d / "s") == "socket"
    with fails(errno.ENXIO):
        os.open(d / "s", os.O_RDONLY)
    os.unlink(d / "s")


def test_a_device_is_the_device(place: Place, d: Path) -> None:
    os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(d / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    calls.add(d / "null", b"gone")
    fd = os.open(d / "zero", os.O_RDONLY)
    assert os.read(fd, 4) == b"\0\0\0\0"
    os.close(fd)


def test_a_device_without_a_driver(d: Path) -> None:
    os.mknod(d / "x", stat.S_IFCHR | 0o666, os.makedev(4000, 1))
    with fails(errno.ENXIO, errno.ENODEV):
        os.open(d / "x", os.O_RDONLY)


# -- symlinks ------------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_a_symlink_is_its_target(place: Place, d: Path) -> None:
    with watch(place, {d: "cm"}):
        os.symlink("over/there", d / "s")
    found = os.lstat(d / "s")
    assert os.readlink(d / "s") == "over/there"
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_nlink) == (10, 0o777, 1)


@pytest.mark.every_engine
@pytest.mark.parametrize("length", [1, 59, 60, 61, 255, 1000, 4094, 4095])
def test_targets_up_to_4095_bytes(place: Place, d: Path, length: int) -> None:
    target = ("t" * 99 + "/") * 41
    if length == 4095 and place.name == "ext4":
        target = target[:4095]
    os.symlink(target[:length], d / "s")
    assert os.readlink(d / "s") == target[:length]
    assert os.lstat(d / "s").st_size == length


def test_a_target_of_4096_bytes(d: Path) -> None:
    with fails(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, d / "s")


def test_an_empty_target(d: Path) -> None:
    with fails(errno.ENOENT):
        os.symlink("", d / "s")


def test_a_target_is_bytes_and_stays_as_it_is(d: Path) -> None:
    for target in (b"\xff\xfe//x/./..", b"a b\n", "ä".encode()):
        path = os.path.join(os.fsencode(d), b"s" + target[:1])
        os.symlink(target, path)
        assert os.readlink(path) == target


def test_readlink_of_something_else(d: Path, root: Actor) -> None:
    for kind in ("file", "dir", "fifo"):
        make(root, kind, d / kind)
        with fails(errno.EINVAL):
            os.readlink(d / kind)


def test_rights_of_a_symlink_do_not_matter(open_dir: Path, alice: User, bob: User) -> None:
    alice.put(open_dir / "x", b"1")
    alice.symlink("x", open_dir / "s")
    assert bob.readlink(open_dir / "s") == "x"
    assert bob.get(open_dir / "s") == b"1"


def test_reading_a_link_twice_after_it_was_replaced(d: Path) -> None:
    os.symlink("one", d / "s")
    assert os.readlink(d / "s") == "one"
    os.symlink("two", d / "t")
    os.rename(d / "t", d / "s")
    assert os.readlink(d / "s") == "two"
    os.unlink(d / "s")
    os.symlink("three", d / "s")
    assert os.readlink(d / "s") == "three"


def test_a_directory_through_a_symlink(d: Path) -> None:
    os.mkdir(d / "x")
    os.symlink("x", d / "s")
    calls.put(d / "s" / "y", b"1")
    assert os.listdir(d / "x") == ["y"]
    os.symlink(d / "x", d / "absolute")
    assert os.listdir(d / "absolute") == ["y"]
    assert mode_of(d / "s") == 0o777
