# SPDX-License-Identifier: Apache-2.0
"""Close-to-open: what one mount closed, the other opens, with that size and those bytes, at once.

A model keeps the content of each file; after each change by one mount a random mount looks. Names follow within the
time that entries are cached, or at once where that is 0.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import sizes
from tests.gateways.fuse.two_mounts.pair import pair
from tests.servers.process import wait_for

FILES = 5
AT_ONCE = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0", "--negative-entry-cache", "0")


def change(path: Path, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One change between an open and a close; what it was, and the content from now on."""
    kind = rng.choice(["rewrite", "append", "overwrite", "truncate", "extend", "mapped", "two handles"])
    size = rng.choice([0, 1, 100, 4096, 5000, rng.randrange(200_000), rng.randrange(1, 2_000_000)])
    data = rng.randbytes(size)
    at = rng.randrange(len(content) + 1)
    if kind == "rewrite":
        path.write_bytes(data)
        return kind, data
    with open(path, "r+b" if kind != "append" else "ab", buffering=0) as file:
        if kind == "append":
            file.write(data)
            return kind, content + data
        if kind == "truncate":
            file.truncate(at)
            return kind, content[:at]
        if kind == "extend":
            file.truncate(len(content) + size)
            return kind, content + bytes(size)
        if kind == "mapped" and content:
            data = data[: len(content) - at]
            with mmap.mmap(file.fileno(), len(content)) as view:
                view[at : at + len(data)] = data
            return kind, content[:at] + data + content[at + len(data) :]
        if kind == "two handles":
            # Closed by the first handle: there, though a second one is still open.
            second = os.open(path, os.O_RDWR)
            try:
                os.pwrite(second, data, at)
            finally:
                os.close(second)
            return kind, content[:at] + data + content[at + len(data) :]
        os.pwrite(file.fileno(), data, at)
        return "overwrite", content[:at] + data + content[at + len(data) :]


def look(path: Path, content: bytes, rng: random.Random) -> str | None:
    """What an open right now sees wrongly."""
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        if size != len(content):
            return f"fstat tells {size} bytes instead of {len(content)}"
        if rng.random() < 0.2 and content:
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
                data = bytes(view)
        else:
            data, piece = b"", rng.choice([1 << 12, 1 << 17, 1 << 22])
            while part := os.pread(fd, piece, len(data)):
                data += part
        if data != content:
            first = next((i for i, (x, y) in enumerate(zip(data, content, strict=False)) if x != y), len(data))
            return f"{len(data)} bytes of {len(content)}; they differ from {first} on: {data[first : first + 16].hex()}"
    finally:
        os.close(fd)
    return None


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="1s"),
        pytest.param(AT_ONCE, id="0s", marks=pytest.mark.heavy),
        pytest.param(("--open-cache", "0", "--attr-cache", "10"), id="10s", marks=pytest.mark.heavy),
    ],
)
@sizes(fast=150, heavy=4000)
def test_what_was_closed_is_what_is_opened(size: int, flags: tuple[str, ...], rng: random.Random) -> None:
    with pair(*flags) as two:
        model = {f"file{n}": b"" for n in range(FILES)}
        for name in model:
            (two.a / name).touch()
        history = []
        for number in range(size):
            name = rng.choice(list(model))
            writer, reader = rng.choice([(two.a, two.b), (two.b, two.a), (two.a, two.a)])
            kind, model[name] = change(writer / name, model[name], rng)
            if len(model[name]) > 6_000_000:
                os.truncate(writer / name, 0)
                model[name] = b""
            history.append(f"{number}: {kind} {name} by {'ab'[writer == two.b]}")
            if rng.random() < 0.8:
                wrong = look(reader / name, model[name], rng)
                assert not wrong, f"{'ab'[reader == two.b]} opens {name}: {wrong}\n" + "\n".join(history[-12:])
        for side in (two.a, two.b):
            for name, content in model.items():
                assert (side / name).read_bytes() == content, name


@sizes(fast=150, heavy=3000)
def test_names_follow_at_once_where_they_are_not_cached(size: int, rng: random.Random) -> None:
    with pair(*AT_ONCE) as two:
        names: dict[str, bytes | None] = {}  # None: a folder
        for number in range(size):
            writer, reader = rng.choice([(two.a, two.b), (two.b, two.a)])
            done = change_names(writer, names, number, rng)
            for name in done:
                wrong = look_at_name(reader, name, names)
                assert not wrong, f"round {number}, {name}: {wrong}"
            if number % 10 == 0:
                assert sorted(os.listdir(reader)) == sorted(names)


def change_names(side: Path, names: dict[str, bytes | None], number: int, rng: random.Random) -> list[str]:
    """One change of the folder; the names that it touched."""
    kind = rng.choice(["create", "create", "mkdir", "rename", "replace", "unlink", "link", "symlink"])
    files = [name for name, content in names.items() if content is not None]
    new = f"n{number % 40}"
    if kind in ("create", "mkdir", "symlink", "link", "rename") and new in names:
        kind = "unlink"
    if kind in ("rename", "replace", "link") and not files:
        kind = "create"
    if kind == "create":
        content = names[new] = str(number).encode() * rng.randrange(1, 100)
        (side / new).write_bytes(content)
    elif kind == "mkdir":
        (side / new).mkdir()
        names[new] = None
    elif kind == "symlink":
        (side / new).symlink_to(f"target {number}")
        names[new] = b"-> target %d" % number
    elif kind == "link":
        files = [name for name in files if not (names[name] or b"").startswith(b"-> ")]
        if not files:
            return []
        old = rng.choice(files)
        os.link(side / old, side / new)
        names[new] = names[old]
        return [old, new]
    elif kind in ("rename", "replace"):
        old = rng.choice(files)
        to = new if kind == "rename" else rng.choice(files)
        os.rename(side / old, side / to)
        # Two names of one file: rename does nothing then, by POSIX; links here share their content.
        if (side / old).is_symlink() or (side / old).exists():
            return [old, to]
        names[to] = names.pop(old)
        return [old, to]
    elif names:
        new = rng.choice(list(names))
        if names.pop(new) is None:
            (side / new).rmdir()
        else:
            (side / new).unlink()
    return [new]


def look_at_name(side: Path, name: str, names: dict[str, bytes | None]) -> str | None:
    path = side / name
    try:
        about = path.lstat()
    except FileNotFoundError:
        return "it is missing" if name in names else None
    if name not in names:
        return f"it is still there: {about}"
    content = names[name]
    if content is None:
        return None if path.is_dir() else "it is no folder"
    if content.startswith(b"-> "):
        return None if path.is_symlink() and os.readlink(path) == content[3:].decode() else "another link"
    return None if path.read_bytes() == content else f"other content: {path.read_bytes()[:40]!r}"


@pytest.mark.heavy
def test_names_follow_within_the_time_that_they_are_cached() -> None:
    with pair() as two:
        for number in range(5):
            old, new = f"old{number}", f"new{number}"
            assert not (two.b / old).exists()
            (two.a / old).write_text("one")
            wait_for((two.b / old).exists, 3, "a created name")
            (two.a / old).rename(two.a / new)
            wait_for(lambda new=new: (two.b / new).exists(), 3, "the new name")  # type: ignore[misc]
            wait_for(lambda old=old: not (two.b / old).exists(), 3, "the end of the old name")  # type: ignore[misc]
            (two.a / new).chmod(0o600)
            wait_for(lambda new=new: (two.b / new).stat().st_mode & 0o777 == 0o600, 3, "other permissions")  # type: ignore[misc]
            (two.a / new).unlink()
            wait_for(lambda new=new: new not in os.listdir(two.b), 3, "the end of the file")  # type: ignore[misc]


def test_a_file_that_the_other_mount_removed_can_be_used_to_the_end_or_says_so() -> None:
    """JuiceFS keeps it only for its own client. Never other bytes: the old ones, or an error."""
    with pair() as two:
        content = random.Random(1).randbytes(3_000_000)
        (two.a / "file").write_bytes(content)
        with open(two.b / "file", "rb", buffering=0) as file:
            assert file.read(1000) == content[:1000]
            (two.a / "file").unlink()
            at = 1000
            try:
                while at < len(content):  # what was read before the error is an answer of its own
                    found = os.pread(file.fileno(), 2_000_000, at)
                    assert found and found == content[at : at + len(found)], f"other bytes at {at}"
                    at += len(found)
            except OSError as e:
                assert e.errno in (errno.EIO, errno.ENOENT, errno.ESTALE), e
