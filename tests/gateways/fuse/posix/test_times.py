# SPDX-License-Identifier: Apache-2.0
"""Which times which call moves, as POSIX says it for each; and that near operations have different times."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.expect import watch
from tests.gateways.fuse.posix.places import Place


def with_fd(flags: int, use: Callable[[int], Any]) -> Callable[[Path], None]:
    def call(path: Path) -> None:
        fd = os.open(path, flags)
        try:
            use(fd)
        finally:
            os.close(fd)

    return call


#: call -> times of the file that it moves
FILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "write": (with_fd(os.O_WRONLY, lambda fd: os.write(fd, b"1")), "cm"),
    "write at the end": (with_fd(os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"1")), "cm"),
    "write over what is there": (with_fd(os.O_WRONLY, lambda fd: os.write(fd, b"content")), "cm"),
    "write of nothing": (with_fd(os.O_WRONLY, lambda fd: os.write(fd, b"")), ""),
    "open and close for writing": (with_fd(os.O_RDWR, lambda fd: None), ""),
    "read": (calls.get, "a"),
    "read of nothing": (with_fd(os.O_RDONLY, lambda fd: os.read(fd, 0)), ""),
    "fsync": (with_fd(os.O_RDWR, os.fsync), ""),
    "stat": (os.stat, ""),
    "access": (lambda p: os.access(p, os.R_OK), ""),
    "chmod": (lambda p: os.chmod(p, 0o640), "c"),
    "chown": (lambda p: os.chown(p, 1, 1), "c"),
    "link": (lambda p: os.link(p, f"{p}-2"), "c"),
    "setxattr": (lambda p: os.setxattr(p, "user.a", b"1"), "c"),
    "getxattr": (lambda p: os.listxattr(p), ""),
    "ftruncate": (with_fd(os.O_RDWR, lambda fd: os.ftruncate(fd, 3)), "cm"),
    "posix_fallocate beyond the end": (with_fd(os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 10_000)), "cm"),
}


@pytest.mark.every_engine
@pytest.mark.parametrize("call", FILE)
def test_calls_on_files(place: Place, d: Path, call: str) -> None:
    path = d / "x"
    calls.put(path, b"content")
    function, moved = FILE[call]
    with watch(place, {path: moved, d: "cm" if call == "link" else ""}):
        function(path)


def test_removing_an_attribute_moves_ctime(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    os.setxattr(d / "x", "user.a", b"1")
    with watch(place, {d / "x": "c"}):
        os.removexattr(d / "x", "user.a")


#: call in a directory -> times of the directory that it moves
DIRECTORY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "create": (lambda p: calls.put(p / "new", b""), "cm"),
    "unlink": (lambda p: os.unlink(p / "old"), "cm"),
    "mkdir": (lambda p: os.mkdir(p / "new"), "cm"),
    "rmdir": (lambda p: os.rmdir(p / "dir"), "cm"),
    "symlink": (lambda p: os.symlink("x", p / "new"), "cm"),
    "mkfifo": (lambda p: os.mkfifo(p / "new"), "cm"),
    "link": (lambda p: os.link(p / "old", p / "new"), "cm"),
    "rename": (lambda p: os.rename(p / "old", p / "new"), "cm"),
    "rename into a subdirectory": (lambda p: os.rename(p / "old", p / "dir" / "new"), "cm"),
    "write to a file": (lambda p: calls.put(p / "old", b"1"), ""),
    "chmod of a file": (lambda p: os.chmod(p / "old", 0), ""),
    "create one level below": (lambda p: calls.put(p / "dir" / "new", b""), ""),
    "list": (lambda p: os.listdir(p), "a"),
    "lookup": (lambda p: os.path.exists(p / "nothing"), ""),
    "failing create": (lambda p: _ignore(os.mkdir, p / "old"), ""),
    "failing rmdir": (lambda p: _ignore(os.rmdir, p / "old"), ""),
    "chmod of itself": (lambda p: os.chmod(p, 0o700), "c"),
}


def _ignore(call: Callable[..., Any], *args: Any) -> None:
    try:
        call(*args)
    except OSError:
        return
    raise AssertionError("this had to fail")


@pytest.mark.every_engine
@pytest.mark.parametrize("call", DIRECTORY)
def test_calls_on_directories(place: Place, d: Path, call: str) -> None:
    path = d / "p"
    os.mkdir(path)
    os.mkdir(path / "dir")
    calls.put(path / "old", b"")
    function, moved = DIRECTORY[call]
    with watch(place, {path: moved, d: ""}):
        function(path)


@pytest.mark.every_engine
def test_operations_50_ms_apart_differ(place: Place, d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY)
    seen: list[tuple[int, int]] = []
    for i in range(8):
        place.tick()
        calls.put(d / f"f{i}", b"")
        os.write(fd, b"1")
        seen.append((os.stat(d).st_mtime_ns, os.fstat(fd).st_mtime_ns))
    os.close(fd)
    for column in (0, 1):
        values = [s[column] for s in seen]
        assert values == sorted(set(values)), values


def test_times_are_the_clock(d: Path) -> None:
    before = time.time_ns()
    calls.put(d / "x", b"1")
    after = time.time_ns()
    for path in (d / "x", d):
        assert before - 20_000_000 <= os.stat(path).st_mtime_ns <= after + 20_000_000


def test_a_written_time_stays_the_same_after_closing(place: Place, d: Path) -> None:
    """What fstat says after the last write is what stat says after close and later."""
    fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"data")
    seen = os.fstat(fd).st_mtime_ns
    place.tick()
    os.fsync(fd)
    assert os.fstat(fd).st_mtime_ns == seen
    place.tick()
    os.close(fd)
    assert os.stat(d / "x").st_mtime_ns == seen


def test_mapped_writes_move_mtime(place: Place, d: Path) -> None:
    import mmap

    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 8192)
    before = os.fstat(fd)
    place.tick()
    with mmap.mmap(fd, 8192) as memory:
        memory[5000] = 1
        memory.flush()
    now = os.fstat(fd)
    os.close(fd)
    assert now.st_mtime_ns > before.st_mtime_ns
    assert now.st_ctime_ns > before.st_ctime_ns
