# SPDX-License-Identifier: Apache-2.0
"""`.control` below the root: found everywhere, and in nobody's way (cli §10.1, where the original collides)."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from core.vfs.internal import protocol as p
from tests.gateways.fuse.internal.conftest import as_user
from tests.gateways.fuse.internal.test_special_files import ask, errno_of
from tests.gateways.fuse.mounts import Mount

FIRST_INTERNAL = 0x7FFFFFFF00000000
#: A request without a meaning; the control file answers it with EINVAL.
NONSENSE = struct.pack(">II", 999, 0)


def is_control(path: Path) -> bool:
    return os.stat(path).st_ino > FIRST_INTERNAL


def test_a_file_that_was_there_before_is_found(mount: Mount, folder: Path) -> None:
    assert is_control(folder / ".control")
    (folder / "mine").write_text("mine")
    os.rename(folder / "mine", folder / ".control")
    with mount.second() as other:
        theirs = other.point / folder.name / ".control"
        assert theirs.read_text() == "mine" and not is_control(theirs)
        assert os.listdir(theirs.parent) == [".control"]
        os.unlink(theirs)
        assert is_control(theirs) or not theirs.exists()
    assert is_control(mount.point / ".control")


def test_writing_a_file_as_programs_do(mount: Mount, folder: Path) -> None:
    (folder / ".control").write_text("first")  # O_CREAT | O_TRUNC
    assert (folder / ".control").read_text() == "first"
    (folder / ".control").write_text("second")
    shutil.copy(folder / ".control", folder / "copy")
    (folder / "sub").mkdir()
    subprocess.run(["cp", folder / "copy", folder / "sub" / ".control"], check=True)
    assert (folder / "sub" / ".control").read_text() == "second"
    (folder / "log").mkdir()
    with open(folder / "log" / ".control", "a") as f:
        f.write("appended")
    assert (folder / "log" / ".control").read_text() == "appended"
    assert ask(mount.point / ".control", NONSENSE) == bytes((errno.EINVAL,))


def test_unpacking_an_archive_that_has_one(mount: Mount, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".control").write_text("Package: x")
    subprocess.run(["tar", "cf", tmp_path / "a.tar", "-C", tmp_path, "tree"], check=True)
    subprocess.run(["tar", "xf", tmp_path / "a.tar", "-C", folder], check=True)
    assert (folder / "tree" / ".control").read_text() == "Package: x"
    shutil.rmtree(folder / "tree")


def test_what_needs_a_free_name_works_after_removing(mount: Mount, folder: Path) -> None:
    path = folder / ".control"
    assert errno_of(os.mkdir, path) == errno.EEXIST
    os.unlink(path)
    assert not path.exists()
    os.mkdir(path)
    os.rmdir(path)
    assert errno_of(os.rmdir, path) == errno.ENOENT
    os.symlink("x", path)
    assert os.readlink(path) == "x"


def test_what_is_done_to_the_roots_own_stays_as_it_is(mount: Mount, folder: Path) -> None:
    control = mount.point / ".control"
    assert is_control(folder / ".control")
    os.close(os.open(control, os.O_WRONLY | os.O_TRUNC | os.O_CREAT))
    assert is_control(control)
    assert errno_of(os.unlink, control) == errno.EPERM
    assert errno_of(os.rename, folder / ".control", folder / "x") == errno.EPERM
    assert ask(folder / ".control", NONSENSE) == bytes((errno.EINVAL,))


@pytest.mark.parametrize(("name", "seekable"), [(".stats", True), (".config", True), (".accesslog", False)])
def test_texts_have_positions_and_streams_have_none(mount: Mount, name: str, seekable: bool) -> None:
    fd = os.open(mount.point / name, os.O_RDONLY)
    try:
        if seekable:
            assert os.pread(fd, 10, 0) == os.read(fd, 10)
            assert os.lseek(fd, 5, os.SEEK_SET) == 5 and os.read(fd, 5) == os.pread(fd, 5, 5)
        else:
            assert errno_of(os.lseek, fd, 0, os.SEEK_SET) == errno.ESPIPE
    finally:
        os.close(fd)
    fd = os.open(mount.point / ".control", os.O_RDWR)
    assert errno_of(os.lseek, fd, 0, os.SEEK_SET) == errno.ESPIPE
    os.close(fd)


def test_whoever_writes_is_who_asks(mount: Mount, folder: Path) -> None:
    """A descriptor that root opened gives nobody root's rights."""
    (folder / "f").write_bytes(b"x")
    fd = os.open(mount.point / ".control", os.O_RDWR)
    message = p.encode(p.RemoveTree(os.stat(folder).st_ino, b"f"))

    def work() -> int:
        os.write(fd, message)
        while not (reply := os.read(fd, 1 << 16)):  # waits for a third of a second each time
            pass
        return reply[-1]

    try:
        assert as_user(65534, work) == errno.EACCES
        assert os.listdir(folder) == ["f"]
        assert work() == 0 and not os.listdir(folder)
    finally:
        os.close(fd)
