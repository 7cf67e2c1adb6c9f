# SPDX-License-Identifier: Apache-2.0
"""utimensat(2) and futimens(2): what is stored, who may, now and omit, years far away."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.calls import AT_SYMLINK_NOFOLLOW, UTIME_NOW, UTIME_OMIT
from tests.gateways.fuse.posix.conftest import ALICE
from tests.gateways.fuse.posix.expect import FOLLOWED, KINDS, fails, make, watch
from tests.gateways.fuse.posix.places import Place

NOW = (0, UTIME_NOW)
OMIT = (0, UTIME_OMIT)
S = 1_000_000_000


def times(path: Path | int) -> tuple[int, int]:
    found = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", FOLLOWED)
def test_every_kind_to_the_nanosecond(place: Place, d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    before = os.stat(d / "x").st_ctime_ns
    place.tick()
    calls.utimensat(d / "x", (1_000_000_001, 123_456_789), (2_000_000_002, 987_654_321))
    assert times(d / "x") == (1_000_000_001 * S + 123_456_789, 2_000_000_002 * S + 987_654_321)
    assert os.stat(d / "x").st_ctime_ns > before


@pytest.mark.every_engine
@pytest.mark.parametrize(
    "when",
    [
        (0, 0), (0, 1), (1, 999_999_999), (-1, 0), (-1, 999_999_999), (-2, 1), (-86400 * 365 * 60, 5), (-(1 << 31), 0),
        ((1 << 31) - 1, 1), (1 << 31, 2), (1 << 32, 3), (15_000_000_000, 4),
    ],
)  # fmt: skip
def test_before_1970_and_after_2038(d: Path, when: tuple[int, int]) -> None:
    calls.put(d / "x", b"")
    calls.utimensat(d / "x", when, when)
    wanted = when[0] * S + when[1]
    assert times(d / "x") == (wanted, wanted)
    seen = calls.statx(d / "x", calls.AT_STATX_FORCE_SYNC)
    assert (seen.atime_ns, seen.mtime_ns) == (wanted, wanted)
    assert os.stat(d).st_mtime_ns > 0


def test_a_null_pointer_is_now(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    calls.utimensat(d / "x", (1, 0), (2, 0))
    with watch(place, {d / "x": "acm", d: ""}):
        calls.utimensat(d / "x", None, None)
    assert all(abs(t / S - time.time()) < 5 for t in times(d / "x"))


@pytest.mark.every_engine
def test_now_and_omit(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    calls.utimensat(d / "x", (1, 1), (2, 2))
    calls.utimensat(d / "x", (3, 3), OMIT)
    assert times(d / "x") == (3 * S + 3, 2 * S + 2)
    calls.utimensat(d / "x", OMIT, (4, 4))
    assert times(d / "x") == (3 * S + 3, 4 * S + 4)
    with watch(place, {d / "x": "am c"}):
        calls.utimensat(d / "x", NOW, NOW)
    calls.utimensat(d / "x", NOW, (5, 5))
    assert times(d / "x")[1] == 5 * S + 5
    assert abs(times(d / "x")[0] / S - time.time()) < 5
    calls.utimensat(d / "x", (6, 6), NOW)
    assert times(d / "x")[0] == 6 * S + 6


def test_omitting_both_changes_nothing(place: Place, d: Path) -> None:
    calls.put(d / "x", b"")
    with watch(place, {d / "x": "-a"}):
        calls.utimensat(d / "x", OMIT, OMIT)


@pytest.mark.parametrize("part", [-1, 1_000_000_000, 1 << 31, UTIME_NOW + 2])
def test_nanoseconds_out_of_range(d: Path, part: int) -> None:
    calls.put(d / "x", b"")
    for times_ in (((1, part), (1, 0)), ((1, 0), (1, part))):
        with fails(errno.EINVAL):
            calls.utimensat(d / "x", *times_)


@pytest.mark.every_engine
def test_a_symlink_itself(d: Path) -> None:
    calls.put(d / "x", b"")
    os.symlink("x", d / "s")
    calls.utimensat(d / "x", (10, 0), (20, 0))
    calls.utimensat(d / "s", (30, 1), (40, 2), AT_SYMLINK_NOFOLLOW)
    assert os.lstat(d / "s").st_mtime_ns == 40 * S + 2
    assert times(d / "x") == (10 * S, 20 * S)
    calls.utimensat(d / "s", (50, 0), (60, 0))
    assert times(d / "x") == (50 * S, 60 * S)
    assert os.lstat(d / "s").st_mtime_ns == 40 * S + 2


def test_a_descriptor(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDONLY)
    calls.utimensat(None, (1, 2), (3, 4), fd=fd)
    assert times(d / "x") == (S + 2, 3 * S + 4)
    os.unlink(d / "x")
    calls.utimensat(None, (5, 6), (7, 8), fd=fd)
    assert times(fd) == (5 * S + 6, 7 * S + 8)
    os.close(fd)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", KINDS)
def test_who_may(place: Place, open_dir: Path, root: Actor, alice: User, bob: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path, 0o644)
    os.lchown(path, ALICE, ALICE)
    flags = AT_SYMLINK_NOFOLLOW
    alice.utimensat(path, (1, 0), (2, 0), flags)
    alice.utimensat(path, NOW, (2, 0), flags)
    alice.utimensat(path, None, None, flags)
    if kind == "symlink":
        return  # everybody may write it, as its mode says
    with watch(place, {path: "-a"}):
        for pair in (((1, 0), (2, 0)), (NOW, (2, 0)), ((1, 0), NOW), (OMIT, (2, 0)), (NOW, OMIT), (OMIT, NOW)):
            with fails(errno.EPERM, errno.EACCES):
                bob.utimensat(path, *pair)
        for both in ((NOW, NOW), (None, None)):
            with fails(errno.EACCES):
                bob.utimensat(path, *both)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", FOLLOWED)
def test_a_writer_may_say_now_only(place: Place, open_dir: Path, root: Actor, bob: User, kind: str) -> None:
    path = open_dir / "x"
    make(root, kind, path, 0o666)
    os.chown(path, ALICE, ALICE)
    with watch(place, {path: "acm"}):
        bob.utimensat(path, NOW, NOW)
    with watch(place, {path: "acm"}):
        bob.utimensat(path, None, None)
    for pair in (((1, 0), (2, 0)), (NOW, (2, 0)), ((1, 0), NOW), (OMIT, (2, 0)), (NOW, OMIT), (OMIT, NOW)):
        with fails(errno.EPERM):
            bob.utimensat(path, *pair)


def test_set_times_survive_what_does_not_write(place: Place, d: Path) -> None:
    calls.put(d / "x", b"data")
    calls.utimensat(d / "x", (100, 0), (200, 0))
    fd = os.open(d / "x", os.O_RDWR)
    assert os.fstat(fd).st_mtime == 200
    os.fchmod(fd, 0o600)
    os.close(fd)
    os.rename(d / "x", d / "y")
    os.link(d / "y", d / "z")
    assert os.stat(d / "z").st_mtime == 200


@pytest.mark.every_engine
def test_set_times_survive_closing_a_written_file(d: Path) -> None:
    """As tar and cp -p do: write, set times, close."""
    fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"data" * 5000)
    os.utime(fd, ns=(100 * S + 1, 200 * S + 2))
    assert os.fstat(fd).st_mtime_ns == 200 * S + 2
    os.close(fd)
    assert times(d / "x")[1] == 200 * S + 2
    fd = os.open(d / "x", os.O_WRONLY)
    os.write(fd, b"more")
    os.utime(d / "x", ns=(100 * S, 300 * S))
    os.close(fd)
    assert times(d / "x")[1] == 300 * S
    assert calls.get(d / "x")[:8] == b"moredata"


def test_writing_after_setting_times_moves_them(place: Place, d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"data")
    os.utime(fd, (100, 200))
    place.tick()
    os.write(fd, b"more")
    os.close(fd)
    assert os.stat(d / "x").st_mtime > 1_000_000
