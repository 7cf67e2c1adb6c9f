# SPDX-License-Identifier: Apache-2.0
"""A mount with passthrough, shared by the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import Mount, mounted
from tests.gateways.fuse.passthrough.stopped import answers_alone
from tests.servers.process import missing

KIB = 1 << 10


def require_passthrough() -> None:
    """Linux 6.9, and the rights of root in the first user namespace."""
    version = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if version < (6, 9):
        missing("passthrough", f"it takes Linux 6.9, this is {os.uname().release}")
    if Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        missing("passthrough", "it takes root of the machine, not of a container with users of its own")


@pytest.fixture(scope="package")
def mount() -> Iterator[Mount]:
    require_passthrough()
    with mounted("sqlite", "--passthrough") as made:
        yield made


@pytest.fixture
def content() -> bytes:
    return os.urandom(300 * KIB + 7)


@pytest.fixture
def path(mount: Mount, content: bytes, request: pytest.FixtureRequest) -> Path:
    """A file that is at hand and that nobody has open."""
    made = mount.point / request.node.name[:200]
    made.write_bytes(content)
    settle(mount, made)
    return made


def settle(mount: Mount, path: Path) -> None:
    """Until its writer's descriptor is released, which happens some time after close(2), and it is passed through."""
    for _ in range(100):
        if passed(mount, path):
            return
    raise AssertionError(f"{path} is not passed through:\n{mount.log_text()}")


def passed(mount: Mount, path: Path) -> bool:
    """Whether somebody who opens it for reading now reads without the mount's processes."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return answers_alone(mount, lambda: os.pread(fd, 4096, 64 * KIB), 0.3)
    finally:
        os.close(fd)
