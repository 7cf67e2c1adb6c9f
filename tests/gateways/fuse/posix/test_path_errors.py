# SPDX-License-Identifier: Apache-2.0
"""What every call answers to a path that can't be walked: too long, not there, not a directory, a loop, no right."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import KINDS, NAME_MAX, NOT_DIR, PATH_MAX, fails, make, outcome

#: Calls about something that has to be there. `o` is a file beside it.
EXISTING: dict[str, Callable[[Actor, Any, Path], Any]] = {
    "chmod": lambda a, p, o: a.chmod(p, 0o644),
    "chown": lambda a, p, o: a.chown(p, -1, -1),
    "lchown": lambda a, p, o: a.lchown(p, -1, -1),
    "truncate": lambda a, p, o: a.truncate(p, 0),
    "link from": lambda a, p, o: a.link(p, f"{o}-link"),
    "open to read": lambda a, p, o: a.may_open(p),
    "open to write": lambda a, p, o: a.may_open(p, os.O_WRONLY),
    "opendir": lambda a, p, o: a.listdir(p),
    "rename from": lambda a, p, o: a.rename(p, f"{o}-renamed"),
    "rmdir": lambda a, p, o: a.rmdir(p),
    "unlink": lambda a, p, o: a.unlink(p),
    "utimensat": lambda a, p, o: a.utimensat(p, (1, 1), (1, 1)),
    "stat": lambda a, p, o: a.stat(p),
    "lstat": lambda a, p, o: a.lstat(p),
    "statx": lambda a, p, o: a.statx(p),
    "statfs": lambda a, p, o: a.statvfs(p),
    "access": lambda a, p, o: a.faccessat(p, os.F_OK),
    "readlink": lambda a, p, o: a.readlink(p),
    "chdir": lambda a, p, o: a.in_folder(p, "getpid"),
    "getxattr": lambda a, p, o: a.getxattr(p, "user.a"),
    "setxattr": lambda a, p, o: a.setxattr(p, "user.a", b"1"),
    "listxattr": lambda a, p, o: a.listxattr(p),
    "removexattr": lambda a, p, o: a.removexattr(p, "user.a"),
    "execve": lambda a, p, o: a.execute(p),
}
#: Calls that make the name.
CREATING: dict[str, Callable[[Actor, Any, Path], Any]] = {
    "link to": lambda a, p, o: a.link(o, p),
    "mkdir": lambda a, p, o: a.mkdir(p),
    "mkfifo": lambda a, p, o: a.mkfifo(p),
    "mknod": lambda a, p, o: a.mknod(p, stat.S_IFREG | 0o644),
    "mknod socket": lambda a, p, o: a.mknod(p, stat.S_IFSOCK | 0o644),
    "creat": lambda a, p, o: a.may_open(p, os.O_CREAT | os.O_WRONLY),
    "open exclusively": lambda a, p, o: a.may_open(p, os.O_CREAT | os.O_EXCL | os.O_RDWR),
    "rename to": lambda a, p, o: a.rename(o, p),
    "symlink": lambda a, p, o: a.symlink("anything", p),
}
ALL = EXISTING | CREATING
#: They look at the last component itself if it is a symlink.
NOT_FOLLOWING = ("lchown", "link from", "rename from", "rmdir", "unlink", "lstat", "readlink", *CREATING)


@pytest.fixture
def other(open_dir: Path) -> Path:
    path = open_dir / "other"
    calls.put(path, b"")
    path.chmod(0o666)
    return path


@pytest.mark.parametrize("kind", [k for k in NOT_DIR if k != "symlink"])
@pytest.mark.parametrize("call", ALL)
def test_a_component_is_no_directory(d: Path, other: Path, root: Actor, call: str, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.ENOTDIR):
        ALL[call](root, d / "x" / "y", other)


@pytest.mark.parametrize("call", ALL)
def test_a_component_is_missing(d: Path, other: Path, root: Actor, call: str) -> None:
    with fails(errno.ENOENT):
        ALL[call](root, d / "x" / "y", other)
    os.symlink("nowhere", d / "dangling")
    with fails(errno.ENOENT):
        ALL[call](root, d / "dangling" / "y", other)


@pytest.mark.parametrize("call", EXISTING)
def test_the_thing_is_missing(d: Path, other: Path, root: Actor, call: str) -> None:
    with fails(errno.ENOENT):
        EXISTING[call](root, d / "x", other)


@pytest.mark.parametrize("call", [c for c in ALL if c != "execve"])
def test_an_empty_path(d: Path, other: Path, root: Actor, call: str) -> None:
    with fails(errno.ENOENT):
        ALL[call](root, "", other)


@pytest.mark.parametrize("call", ALL)
def test_a_name_of_256_bytes(d: Path, other: Path, root: Actor, call: str) -> None:
    with fails(errno.ENAMETOOLONG):
        ALL[call](root, d / ("n" * (NAME_MAX + 1)), other)
    with fails(errno.ENAMETOOLONG):
        ALL[call](root, d / ("n" * (NAME_MAX + 1)) / "y", other)
    with fails(errno.ENAMETOOLONG, why="128 characters of two bytes"):
        ALL[call](root, d / ("ß" * 128), other)


@pytest.mark.parametrize("call", EXISTING)
def test_a_name_of_255_bytes_is_looked_for(d: Path, other: Path, root: Actor, call: str) -> None:
    with fails(errno.ENOENT):
        EXISTING[call](root, d / ("n" * NAME_MAX), other)


@pytest.mark.parametrize("call", CREATING)
def test_a_name_of_255_bytes_can_be_made(d: Path, other: Path, root: Actor, call: str) -> None:
    path = d / ("n" * NAME_MAX)
    CREATING[call](root, path, other)
    assert path.name in os.listdir(d)
    assert os.lstat(path)


@pytest.mark.parametrize("call", ALL)
def test_a_path_of_4096_bytes(d: Path, other: Path, root: Actor, call: str) -> None:
    path = f"{d}/" + "./" * PATH_MAX
    with fails(errno.ENAMETOOLONG):
        ALL[call](root, path[: PATH_MAX - 1] + "x", other)


@pytest.mark.parametrize("call", ALL)
def test_a_loop_of_symlinks(d: Path, other: Path, root: Actor, call: str) -> None:
    os.symlink("b", d / "a")
    os.symlink("a", d / "b")
    with fails(errno.ELOOP):
        ALL[call](root, d / "a" / "y", other)
    if call not in NOT_FOLLOWING:
        with fails(errno.ELOOP):
            ALL[call](root, d / "a", other)


def test_forty_symlinks_in_a_row_are_followed_and_one_more_is_not(d: Path) -> None:
    calls.put(d / "s0", b"end")
    for i in range(41):
        os.symlink(f"s{i}", d / f"s{i + 1}")
    assert calls.get(d / "s40") == b"end"
    with fails(errno.ELOOP):
        os.stat(d / "s41")


@pytest.mark.parametrize("call", ALL)
def test_no_right_to_search(open_dir: Path, other: Path, alice: User, call: str) -> None:
    closed = open_dir / "closed"
    alice.mkdir(closed, 0o755)
    if call in EXISTING:
        kind = "dir" if call in ("rmdir", "opendir", "chdir") else "symlink" if call == "readlink" else "file"
        make(alice, kind, closed / "x", 0o755)
    alice.chmod(closed, 0o644)
    with fails(errno.EACCES):
        ALL[call](alice, closed / "x", other)


@pytest.mark.parametrize("call", CREATING)
def test_no_right_to_write_into_the_directory(open_dir: Path, other: Path, alice: User, call: str) -> None:
    closed = open_dir / "closed"
    alice.mkdir(closed, 0o755)
    os.chown(other, alice.uid, alice.gid)
    for mode in (0o555, 0o400, 0o600):
        alice.chmod(closed, mode)
        with fails(errno.EACCES, why=f"mode {mode:o}"):
            CREATING[call](alice, closed / "x", other)
    alice.chmod(closed, 0o300)
    CREATING[call](alice, closed / "x", other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", [c for c in CREATING if c not in ("rename to", "creat")])
def test_the_name_is_taken(d: Path, other: Path, root: Actor, call: str, kind: str) -> None:
    make(root, kind, d / "x")
    before = os.lstat(d / "x")
    with fails(errno.EEXIST):
        CREATING[call](root, d / "x", other)
    after = os.lstat(d / "x")
    assert (before.st_ino, before.st_mode, before.st_ctime_ns) == (after.st_ino, after.st_mode, after.st_ctime_ns)


@pytest.mark.parametrize("call", [c for c in CREATING if c not in ("rename to", "creat")])
def test_a_taken_name_wins_over_a_missing_right(open_dir: Path, other: Path, alice: User, call: str) -> None:
    closed = open_dir / "closed"
    alice.mkdir(closed, 0o755)
    alice.put(closed / "x", b"")
    os.chown(other, alice.uid, alice.gid)
    alice.chmod(closed, 0o555)
    with fails(errno.EEXIST):
        CREATING[call](alice, closed / "x", other)


@pytest.mark.parametrize("call", ["mkdir", "mkfifo", "mknod", "symlink", "link to"])
def test_dot_and_dot_dot_exist(d: Path, other: Path, root: Actor, call: str) -> None:
    for name in (".", ".."):
        with fails(errno.EEXIST):
            CREATING[call](root, f"{d}/{name}", other)


@pytest.mark.parametrize("call", ["link to", "mkfifo", "mknod", "creat", "symlink", "rename to"])
def test_a_trailing_slash_asks_for_a_directory(d: Path, other: Path, root: Actor, call: str) -> None:
    wanted = (errno.EISDIR,) if call == "creat" else (errno.ENOENT, errno.ENOTDIR)
    with fails(*wanted):
        CREATING[call](root, f"{d}/x/", other)
    assert os.listdir(d) == ["open"]


@pytest.mark.parametrize("call", ["stat", "chmod", "open to read", "truncate", "unlink", "utimensat"])
def test_a_file_with_a_trailing_slash(d: Path, other: Path, root: Actor, call: str) -> None:
    calls.put(d / "x", b"")
    with fails(errno.ENOTDIR):
        ALL[call](root, f"{d}/x/", other)


def test_names_are_bytes(d: Path) -> None:
    folder = os.fsencode(d)
    names = [
        b"\xff\xfe",
        b"a b",
        b"new\nline",
        b"quote\"'",
        b"-",
        b"\x01",
        "ä".encode(),
        "a\u0308".encode(),
        b"A",
        b"a",
    ]
    for name in names:
        calls.put(os.path.join(folder, name), name)
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        assert calls.get(os.path.join(folder, name)) == name


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("chmod", (None, 0o644)), ("chown", (None, 0, 0)), ("lchown", (None, 0, 0)), ("truncate", (None, 0)),
        ("link", (None, b"x")), ("link", (b"x", None)), ("mkdir", (None, 0o755)), ("mkfifo", (None, 0o644)),
        ("open", (None, 0)), ("rename", (None, b"x")), ("rename", (b"x", None)), ("rmdir", (None,)),
        ("symlink", (None, b"x")), ("symlink", (b"x", None)), ("unlink", (None,)),
    ],
)  # fmt: skip
def test_a_wild_pointer(name: str, args: tuple[Any, ...]) -> None:
    with fails(errno.EFAULT, errno.ENOENT if args[0] is not None else errno.EFAULT):
        calls.wild(name, *args)


def test_wild_pointers_of_data(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"data")
    for call in ("write", "pwrite"):
        with fails(errno.EFAULT):
            calls.wild(call, fd, None, 4, 0)
    os.lseek(fd, 0, 0)
    with fails(errno.EFAULT):
        calls.wild("read", fd, None, 4)
    assert os.pread(fd, 9, 0) == b"data"
    os.close(fd)


def test_outcome_of_a_call_that_works() -> None:
    assert outcome(os.getpid) == 0
