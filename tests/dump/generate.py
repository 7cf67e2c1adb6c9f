# SPDX-License-Identifier: Apache-2.0
"""Dumps of any size without a volume: `python -m tests.dump.generate 1000000 big.json`.

The text is laid out exactly as the original writes it, so a load and a dump of it must give the same file again.
Directories of 1 000 files, every seventh of them with an extended attribute, every hundredth file with a second place.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

_PER_DIR = 1000
_TIME = 1_790_000_000
_UUID = "5a0c0b0e-93f6-4b5e-a7d5-0a4f6c5d3e11"


def _attr(ino: int, kind: str, mode: int, nlink: int, length: int) -> str:
    owner = f'"uid":{1000 + ino % 7},"gid":{100 + ino % 5}' if kind == "regular" else '"uid":0,"gid":0'
    times = f'"atime":{_TIME},"mtime":{_TIME + ino},"ctime":{_TIME + ino},"mtimensec":{1 + ino % 999},'
    return (
        f'{{"inode":{ino},"type":"{kind}","mode":{mode},{owner},{times}"ctimensec":{1 + ino % 999},'
        f'"nlink":{nlink},"length":{length}}}'
    )


def generate(files: int) -> Iterator[str]:
    """Pieces of the text of a dump with so many files."""
    folders = -(-files // _PER_DIR)
    linked = range(0, files, 100)
    size = [100 + n % 9000 for n in range(files)] if files < 10_000 else None

    def length(n: int) -> int:
        return size[n] if size is not None else 100 + n % 9000

    used = sum((length(n) + 4095) // 4096 * 4096 for n in range(files)) + 4096 * (folders + 1)
    yield (
        "{\n"
        + _setting()
        + (
            f'  "Counters": {{\n    "usedSpace": {used},\n    "usedInodes": {files + folders + 1},\n'
            f'    "nextInodes": {files + folders + 1025},\n    "nextChunk": {files + 4097},\n'
            '    "nextSession": 3,\n    "nextTrash": 0\n  },\n  "Sustained": [],\n  "DelFiles": [],\n'
        )
    )
    first = folders + 3  # inode of the first file; the directory of links is 2
    yield f'  "FSTree": {{\n    "attr": {_attr(1, "directory", 511, folders + 3, 0)},\n    "entries": {{'
    for d in range(folders):
        yield f'{"," if d else ""}\n      "d{d:06d}": {{\n        "attr": {_attr(3 + d, "directory", 493, 2, 0)},\n'
        yield '        "entries": {'
        lines = []
        for n in range(d * _PER_DIR, min((d + 1) * _PER_DIR, files)):
            lines.append(f'\n          "file%20{n:08d}": {_file(n, first + n, length(n), " " * 10)}')
        yield ",".join(lines) + "\n        }\n      }"
    yield f',\n      "links": {{\n        "attr": {_attr(2, "directory", 493, 2, 0)},\n        "entries": {{'
    yield ",".join(f'\n          "l{n:08d}": {_file(n, first + n, length(n), " " * 10)}' for n in linked)
    yield "\n        }\n      }\n    }\n  },\n"
    trash = '{"inode":9223372032828243968,"type":"directory","mode":0,"uid":0,"gid":0,"atime":0,"mtime":0,"ctime":0,'
    yield f'  "Trash": {{\n    "attr": {trash}"nlink":2,"length":0}},\n    "entries": {{\n    }}\n  }}\n}}\n'


def _file(n: int, ino: int, length: int, indent: str) -> str:
    inner = indent + "  "
    text = f'{{\n{inner}"attr": {_attr(ino, "regular", 420, 1 if n % 100 else 2, length)}'
    if n % 7 == 0:
        text += f',\n{inner}"xattrs": [{{"name":"user.n","value":"number%20{n}"}}]'
    part = f'{{"id":{n + 1},"size":{length},"len":{length}}}'
    return f'{text},\n{inner}"chunks": [{{"index":0,"slices":[{part}]}}]\n{indent}}}'


def _setting() -> str:
    return (
        f'  "Setting": {{\n    "Name": "generated",\n    "UUID": "{_UUID}",\n    "Storage": "file",\n'
        '    "Tiers": {\n      "0": {\n        "ID": 0,\n        "StorageClass": "",\n        "Tag": ""\n'
        "      }\n    },\n"
        '    "Bucket": "/nowhere/",\n    "BlockSize": 4096,\n    "Compression": "none",\n    "TrashDays": 0,\n'
        '    "MetaVersion": 1,\n    "MinClientVersion": "1.1.0-A",\n    "DirStats": true,\n'
        '    "EnableACL": false\n  },\n'
    )


def write(files: int, path: Path) -> None:
    with path.open("w") as out:
        for piece in generate(files):
            out.write(piece)


if __name__ == "__main__":
    write(int(sys.argv[1]), Path(sys.argv[2]))
