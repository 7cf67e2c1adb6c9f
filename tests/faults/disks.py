# SPDX-License-Identifier: Apache-2.0
"""Small file systems of their own for tests of disks: full ones, and ones whose power fails.

An image in a temporary folder, mounted through a loop device; a copy of the image is what a power failure at that
moment would have left: what the file system had not written yet isn't in it. Needs root and loop devices; tests that
ask for it are skipped with the reason elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def require_loop() -> None:
    """Skip, with the reason, where no image can be mounted."""
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if not shutil.which(name)]
    if os.geteuid() or not os.path.exists("/dev/loop-control") or missing:
        pytest.skip(f"needs root, loop devices and mkfs.ext4 (missing: {missing or 'rights or /dev/loop-control'})")


@contextmanager
def disk(image: Path, mount_point: Path, size_mib: int = 64) -> Iterator[Path]:
    """An ext4 file system, made if there is no image yet; unmounted at the end."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(size_mib << 20)
        # Nothing is zeroed later in the background, and no space is reserved for root.
        made = ["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)]
        subprocess.run(made, check=True, capture_output=True)
    mount_point.mkdir(exist_ok=True)
    # The journal is committed when somebody asks for it, or in five minutes.
    mounted = subprocess.run(
        ["mount", "-o", "loop,commit=300,noatime", str(image), str(mount_point)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"an image can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True, capture_output=True)


@contextmanager
def small_memory(mount_point: Path, size_kib: int) -> Iterator[Path]:
    """A tmpfs that is full after so much."""
    mount_point.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(mount_point)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True, capture_output=True)


def snapshot(image: Path, target: Path) -> None:
    """What the disk would hold if the power failed now. Whoever writes should stand still meanwhile."""
    subprocess.run(["cp", "--sparse=always", str(image), str(target)], check=True)
