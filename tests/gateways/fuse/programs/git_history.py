# SPDX-License-Identifier: Apache-2.0
"""A git repository with a long history, made by `git fast-import` from a seed."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.gateways.fuse.programs.run import run


def make_repository(root: Path, commits: int, files: int, rng: random.Random) -> None:
    """A bare repository: `commits` on main over `files` files, every tenth commit tagged, a branch every hundredth."""
    root.mkdir(parents=True)
    run("git", "init", "--quiet", "--bare", "--initial-branch=main", root)
    subprocess.run(
        ["git", "-C", root, "fast-import", "--quiet"], input=b"".join(_stream(commits, files, rng)), check=True
    )


def _stream(commits: int, files: int, rng: random.Random) -> Iterator[bytes]:
    paths = [f"part{n % 17}/section{n % 113}/file{n}.txt".encode() for n in range(files)]
    first = commits // 10 or 1
    for number in range(commits):
        # The first tenth of the history adds the files, the rest changes them.
        if number < first:
            changed = paths[number * files // first : (number + 1) * files // first]
        else:
            changed = rng.sample(paths, min(files, rng.randrange(1, 6)))
        message = f"commit {number}\n".encode()
        yield b"commit refs/heads/main\nmark :%d\n" % (number + 1)
        yield b"committer A <a@example.org> %d +0000\n" % (1_000_000_000 + number)
        yield b"data %d\n%s" % (len(message), message)
        for path in changed:
            lines = b"".join(b"%d %x\n" % (i, rng.getrandbits(64)) for i in range(rng.randrange(1, 60)))
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(lines), lines)
        if number % 10 == 9:
            yield b"reset refs/tags/t%d\nfrom :%d\n\n" % (number, number + 1)
        if number % 100 == 50:
            yield b"reset refs/heads/branch%d\nfrom :%d\n\n" % (number, number + 1)
