# SPDX-License-Identifier: Apache-2.0
"""Local files that clients send: made once per session, never the same content twice, hashed once.

Random bytes neither compress nor repeat, so a block that is swapped, shifted or missing changes the digest.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Final

MIB: Final = 1 << 20

#: One block and one chunk of the volume, with a byte more and less; nothing; and one byte.
SIZES: Final = {
    "0": 0, "1": 1,
    "4MiB-1": 4 * MIB - 1, "4MiB": 4 * MIB, "4MiB+1": 4 * MIB + 1,
    "64MiB-1": 64 * MIB - 1, "64MiB": 64 * MIB, "64MiB+1": 64 * MIB + 1,
}  # fmt: skip
MULTIPART: Final = 200 * MIB

#: Names that clients, XML, URLs and shells like to damage. None has a character that a file name or a client's own
#: patterns forbid (`/`, `*`, `?`, `[`).
ODD_NAMES: Final = (
    "plain.txt",
    "two words.txt",
    " leading and trailing ",
    "plus+plus++.txt",
    "per%cent.txt",
    "per%25cent.txt",
    "%2F%2e%2E",
    "100%",
    "quote'single.txt",
    'quote"double.txt',
    "amp&lt;<tag>&amp;.xml",
    "semi;colon=equals,comma.txt",
    "hash#mark!$~@^{}|.txt",
    "(parens).txt",
    "dollar $HOME `id`.txt",
    "grüße-naïve-Ñ.txt",
    "composed-\u00e9 decomposed-e\u0301.txt",
    "日本語/ファイル.txt",
    "кириллица.txt",
    "emoji-😀-👩‍👧.txt",
    "x" * 200 + ".txt",
)


class Files:
    """Files in a folder, by size; `digest` remembers."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self._seed = seed
        self._digests: dict[Path, str] = {}

    def sized(self, size: int) -> Path:
        path = self.folder / f"{size}.bin"
        if not path.exists():
            source = random.Random(f"{self._seed}:{size}")
            with open(path, "wb") as f:
                while size:
                    piece = min(size, 8 * MIB)
                    f.write(source.randbytes(piece))
                    size -= piece
        return path

    def digest(self, path: Path) -> str:
        """SHA-256 of one of the files here, which don't change."""
        if path not in self._digests:
            self._digests[path] = digest_of(path)
        return self._digests[path]


def digest_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def make_tree(folder: Path, count: int, seed: int) -> Path:
    """`count` files of 0 to 8 KiB in folders of 100, three deep."""
    source = random.Random(f"{seed}:tree:{count}")
    for number in range(count):
        path = folder / f"d{number // 1000}" / f"e{number // 100 % 10}" / f"file-{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(8192) if number % 50 else 0))
    return folder


def make_odd_tree(folder: Path) -> Path:
    for name in ODD_NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content of " + name.encode())
    return folder


def snapshot(folder: Path) -> dict[str, str]:
    """Relative name to digest of every file below a folder."""
    return {str(p.relative_to(folder)): digest_of(p) for p in sorted(folder.rglob("*")) if p.is_file()}
