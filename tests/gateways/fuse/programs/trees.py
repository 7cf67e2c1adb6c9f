# SPDX-License-Identifier: Apache-2.0
"""Make a tree of files from a seed, and describe a tree so that two descriptions can be compared.

A description holds what `tar` and `rsync -aHAX` promise to keep: types, permissions, owners, times of files,
contents, link targets, and which names are one file.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
from pathlib import Path

#: 2001-09-09, and a second before 1970: both must survive.
FIRST_TIME_NS = 1_000_000_000_123_456_789
BEFORE_1970_NS = -1_500_000_000


def make_tree(root: Path, files: int, rng: random.Random, *, xattrs: bool = False, largest: int = 300_000) -> None:
    """`files` files in folders of about a hundred; some are links, executable, empty, sparse or have odd names.

    xattrs: every tenth has an extended attribute and an ACL too."""
    root.mkdir(parents=True)
    noise = rng.randbytes(1 << 20)
    folder = root
    written: list[Path] = []
    for number in range(files):
        if number % 100 == 0:
            folder = root / f"d{number // 2000}" / f"ordner {number // 100} ü"
            folder.mkdir(parents=True, mode=rng.choice([0o755, 0o700, 0o750]))
        path = folder / rng.choice(
            [f"f{number}", f"-{number}.c", f"name with spaces {number}", f"{number}\u00e9\\n'\""]
        )
        kind = rng.random()
        if kind < 0.03:
            path.symlink_to(rng.choice(["../elsewhere", "/does/not/exist", "x" * 200, path.name]))
            continue
        if kind < 0.06 and written:
            os.link(rng.choice(written[-50:]), path)
            continue
        size = 0 if kind < 0.10 else int(min(largest, rng.paretovariate(0.6) * 200))
        start = rng.randrange(len(noise) - 1) % max(1, len(noise) - size) if size < len(noise) else 0
        with open(path, "wb") as file:
            if kind > 0.99:
                file.seek(rng.randrange(1 << 20))
            file.write(noise[start : start + size])
        path.chmod(rng.choice([0o644, 0o600, 0o755, 0o444, 0o4755, 0o2644]))
        if xattrs and number % 10 == 0:
            os.setxattr(path, "user.comment", f"number {number}".encode())
            subprocess.run(["setfacl", "-m", "u:4321:rw,g:1234:r", path], check=True)
        when = BEFORE_1970_NS if kind > 0.98 else FIRST_TIME_NS + number * 1_000_000_007
        os.utime(path, ns=(when, when))
        written.append(path)


def describe(root: Path, *, xattrs: bool = False) -> dict[str, tuple[object, ...]]:
    """Relative name -> what it is. Hard links are numbered in the order of names, inode numbers don't matter."""
    result: dict[str, tuple[object, ...]] = {}
    links: dict[tuple[int, int], int] = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        shown: tuple[object, ...] = (oct(about.st_mode), about.st_uid, about.st_gid)
        if stat.S_ISLNK(about.st_mode):
            shown += (os.readlink(path),)
        elif stat.S_ISREG(about.st_mode):
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            one = links.setdefault((about.st_dev, about.st_ino), len(links))
            shown += (about.st_size, about.st_mtime_ns, about.st_nlink, one, digest)
        if xattrs and not stat.S_ISLNK(about.st_mode):
            shown += tuple(sorted((name, os.getxattr(path, name)) for name in os.listxattr(path)))
        result[str(path.relative_to(root))] = shown
    return result


def assert_same(got: dict[str, tuple[object, ...]], expected: dict[str, tuple[object, ...]]) -> None:
    """Names the first differences instead of printing two dictionaries."""
    wrong = [f"missing: {name}" for name in expected.keys() - got.keys()]
    wrong += [f"extra: {name}" for name in got.keys() - expected.keys()]
    wrong += [f"{n}: {got[n]} instead of {expected[n]}" for n in expected if n in got and got[n] != expected[n]]
    assert not wrong, f"{len(wrong)} differences, such as\n" + "\n".join(sorted(wrong)[:10])
