# SPDX-License-Identifier: Apache-2.0
"""Running client programs, and trees of files that they carry.

Programs come from `tests/tools/install-needs.sh`. A program that fails shows what it said.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import require

#: Of a client's names nothing is ASCII only; each has tripped some WebDAV client or server.
ODD_NAMES = (
    "with space", "umlaut äöü ß", "per%20cent %", "plus+and&", "quote ' \"", "hash #1", "semi;colon", "[brackets]",
    "question?", "🦉 owl", "comma,equals=", "tilde~at@", "dots...", "(parens)", "日本語", "caret^{brace}|",
    "a:b", "x<y>",
)  # fmt: skip


def tool(name: str) -> str:
    return require(name, "tests/tools/install-needs.sh installs it")


def run(
    command: list[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 120,
    text: str | None = None,
) -> str:  # fmt: skip
    """Standard output of a program that has to succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_s, input=text, cwd=cwd,
        env={**os.environ, **env} if env is not None else None, errors="surrogateescape",
    )  # fmt: skip
    assert done.returncode == 0, (
        f"{' '.join(command[:4])} … ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: files with their bytes, directories with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def make_tree(folder: Path, files: int, rng: random.Random, *, names: tuple[str, ...] = ODD_NAMES) -> Path:
    """Files of 0 B to some 100 KiB, one in twenty larger, in nested directories with odd names, one of them empty."""
    (folder / "empty directory").mkdir(parents=True)
    for number in range(files):
        odd = names[number % len(names)]
        parent = folder / f"d{number % 7}" / odd if number % 3 else folder / f"d{number % 7}"
        parent.mkdir(parents=True, exist_ok=True)
        size = rng.choice((0, 1, 700, 4096, 20_000)) if number % 20 else rng.randrange(100_000, 400_000)
        (parent / f"{number} {odd}.bin").write_bytes(rng.randbytes(size))
    return folder


def require_same(found: Mapping[str, bytes | None], expected: Mapping[str, bytes | None]) -> None:
    """Which entries differ, rather than megabytes of their bytes."""
    wrong = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    lost, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    assert not (wrong or lost or extra), f"differ: {wrong[:9]}, lost: {lost[:9]}, too many: {extra[:9]}"
