# SPDX-License-Identifier: Apache-2.0
"""What the kernel is told about a mount: flags, read-ahead, and names that our own commands change behind its back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateways.fuse.mount import find_mount
from tests.gateways.fuse.mounts import ROOT, mounted
from tests.servers.process import wait_for

#: The kernel believes a name for so long that a test would see it.
LONG = ("--entry-cache", "1h", "--dir-entry-cache", "1h", "--negative-entry-cache", "1h", "--attr-cache", "1h")


def sluice(*args: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sluicefs", *map(str, args)], cwd=ROOT, text=True, timeout=60, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "wanted"), [((), {"rw"}), (("-o", "nosuid,nodev"), {"rw", "nosuid", "nodev"})], ids=["plain", "asked"]
)
def test_setuid_programs_and_devices_are_as_on_a_disk_unless_asked(flags: tuple[str, ...], wanted: set[str]) -> None:
    with mounted("sqlite", *flags) as mount:
        found = find_mount(str(mount.point))
        assert found is not None
        assert set(found.options.split(",")) - {"relatime"} == wanted


def test_the_kernel_reads_a_mebibyte_ahead() -> None:
    with mounted("sqlite") as mount:
        found = find_mount(str(mount.point))
        assert found is not None
        told = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
        wait_for(lambda: told.read_text() == "1024\n", what="1 MiB of read-ahead")


def test_times_that_were_told_before_close_are_the_times_afterwards() -> None:
    """git compares what fstat said while it wrote with what lstat says later: a difference is a change to it."""
    with mounted("sqlite", "--attr-cache", "0") as mount:
        path = mount.point / "file"
        for flags in (os.O_CREAT | os.O_EXCL, 0, os.O_APPEND):
            fd = os.open(path, os.O_WRONLY | flags, 0o644)
            os.write(fd, b"some bytes")
            told = os.fstat(fd)
            os.close(fd)
            found = path.stat()
            assert (told.st_mtime_ns, told.st_ctime_ns) == (found.st_mtime_ns, found.st_ctime_ns), flags


def test_names_that_rmr_and_clone_change_are_known_at_once() -> None:
    with mounted("sqlite", *LONG) as mount:
        tree = mount.point / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / "deep" / "file").write_text("x")
        assert (tree / "deep" / "file").stat().st_size == 1
        copy = mount.point / "copy"
        assert not copy.exists()  # known as missing for an hour
        sluice("clone", tree, copy)
        assert (copy / "deep" / "file").read_text() == "x"
        sluice("rmr", tree)
        assert not tree.exists()


def test_the_same_below_a_mounted_folder() -> None:
    with mounted("sqlite") as mount:
        (mount.point / "sub" / "tree").mkdir(parents=True)
        with mount.second(*LONG, "--subdir", "/sub") as other:
            assert (other.point / "tree").is_dir()
            sluice("rmr", other.point / "tree")
            assert not (other.point / "tree").exists()
