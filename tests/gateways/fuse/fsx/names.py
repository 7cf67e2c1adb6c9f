# SPDX-License-Identifier: Apache-2.0
"""Random operations on names by many processes at once; what is left has to make sense.

Actors share a few directories and few names, so that they meet often. Nobody knows what an operation should answer, but
only errors that a race explains are allowed, and afterwards links are counted: `survey` reads a tree and says what is
wrong with it.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.gateways.fuse.posix import calls

FOLDERS: Final = ("", "a", "b", "a/a", "a/b", "b/a")
NAMES: Final = ("a", "b", "c", "d", "e")
#: What a race with others explains. ELOOP and EINVAL: names that became symlinks or ancestors.
EXPECTED: Final = frozenset(
    {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.ELOOP, errno.EPERM,
     errno.ESTALE, errno.ENODATA, *(errno.ENXIO, errno.EPIPE, errno.EAGAIN)}  # the last ones: FIFOs
)  # fmt: skip


class Fuzzer:
    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.held: list[int] = []
        self.operations: dict[str, Callable[[], object]] = {
            "create": self.create,
            "create2": lambda: os.close(os.open(self.path(), os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
            "mkdir": lambda: os.mkdir(self.path()),
            "mkdir2": lambda: os.mkdir(self.folder()),
            "symlink": lambda: os.symlink(self.rng.choice(NAMES), self.path()),
            "mkfifo": lambda: os.mkfifo(self.path()),
            "unlink": lambda: os.unlink(self.path()),
            "unlink2": lambda: os.unlink(self.path()),
            "rmdir": lambda: os.rmdir(self.path()),
            "rename": lambda: os.rename(self.path(), self.path()),
            "rename2": lambda: os.rename(self.path(), self.path()),
            "exchange": lambda: calls.renameat2(self.path(), self.path(), calls.RENAME_EXCHANGE),
            "noreplace": lambda: calls.renameat2(self.path(), self.path(), calls.RENAME_NOREPLACE),
            "link": lambda: os.link(self.path(), self.path(), follow_symlinks=False),
            "link2": lambda: os.link(self.path(), self.path(), follow_symlinks=False),
            "chmod": lambda: os.chmod(self.path(), 0o755),
            "truncate": lambda: self.truncate(),
            "setxattr": lambda: os.setxattr(self.path(), "user.a", b"1"),
            "list": lambda: [os.lstat(e) for e in os.scandir(self.folder())],
            "hold": self.hold,
            "tmpfile": self.tmpfile,
        }

    def folder(self) -> Path:
        return self.root / self.rng.choice(FOLDERS)

    def path(self) -> Path:
        return self.folder() / self.rng.choice(NAMES)

    def create(self) -> None:
        fd = os.open(self.path(), os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, self.rng.randbytes(self.rng.randrange(3000)))
        finally:
            os.close(fd)

    def truncate(self) -> None:
        path = self.path()
        if stat.S_ISREG(os.lstat(path).st_mode):
            os.truncate(path, self.rng.randrange(5000))

    def hold(self) -> None:
        """Keep a file open, so that it is removed while it is."""
        if len(self.held) > 5:
            os.close(self.held.pop(self.rng.randrange(len(self.held))))
        self.held.append(os.open(self.path(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW))

    def tmpfile(self) -> None:
        fd = os.open(self.folder(), os.O_TMPFILE | os.O_RDWR)
        try:
            os.write(fd, b"1")
            if self.rng.random() < 0.7:
                calls.link_fd(fd, self.path())
        finally:
            os.close(fd)

    def run(self, count: int) -> None:
        names = list(self.operations)
        for _ in range(count):
            name = self.rng.choice(names)
            try:
                self.operations[name]()
                self.done[name] += 1
            except OSError as e:
                if e.errno not in EXPECTED:
                    raise RuntimeError(f"{name}: {e!r}") from e
        while self.held:
            os.close(self.held.pop())


class Survey:
    """A tree as one mount shows it, with what can't be true in it."""

    def __init__(self, root: Path) -> None:
        self.entries: dict[str, tuple[int, int, int, int]] = {}
        names: Counter[int] = Counter()
        below: Counter[int] = Counter()
        seen: dict[int, os.stat_result] = {}
        listed: dict[str, int] = {}
        for folder, dirs, files in os.walk(root):
            ino = os.lstat(folder).st_ino
            seen[ino] = os.lstat(folder)
            for entry in os.scandir(folder):
                listed[os.path.relpath(entry.path, root)] = entry.inode()
            for name in (*dirs, *files):
                path = os.path.join(folder, name)
                found = seen[os.lstat(path).st_ino] = os.lstat(path)
                names[found.st_ino] += 1
                if stat.S_ISDIR(found.st_mode):
                    below[ino] += 1
                self.entries[os.path.relpath(path, root)] = (
                    found.st_ino, found.st_mode, found.st_nlink, found.st_size if stat.S_ISREG(found.st_mode) else 0
                )  # fmt: skip
        self.wrong = [
            f"inode {ino} ({'directory' if stat.S_ISDIR(s.st_mode) else 'file'}): {s.st_nlink} links, not {wanted}"
            for ino, s in seen.items()
            if s.st_nlink != (wanted := 2 + below[ino] if stat.S_ISDIR(s.st_mode) else names[ino])
        ]
        self.wrong += [
            f"{path}: listed as inode {ino}, found as {self.entries[path][0]}"
            for path, ino in listed.items()
            if path in self.entries and self.entries[path][0] != ino
        ]


def main() -> None:
    """python -m tests.gateways.fuse.fsx.names ROOT SEED COUNT"""
    root, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    fuzzer = Fuzzer(root, seed)
    fuzzer.run(count)
    print(dict(fuzzer.done))


if __name__ == "__main__":
    main()
