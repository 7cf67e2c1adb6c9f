# SPDX-License-Identifier: Apache-2.0
"""Files of the disk cache: format, verification levels, writing (data-path §5.1-§5.3)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.chunk import cachefile
from core.chunk.cachefile import GRANULE, Level
from core.errors import DataCorrupt

from .doubles import noise

LEVELS: list[Level] = ["none", "full", "shrink", "extend"]


def save(path: Path, data: bytes, level: Level = "extend") -> str:
    assert cachefile.write(str(path), data, level, 0o600, 0o700)
    return str(path)


def test_checksum_vectors() -> None:
    assert cachefile.checksums(b"hello").hex() == "9a71bb4c"
    assert cachefile.checksums(bytes(40_000)).hex() == "bc43baada5f92803"
    assert cachefile.checksums(memoryview(bytearray(b"hello"))).hex() == "9a71bb4c"


@pytest.mark.parametrize("n", [1, 5, GRANULE - 1, GRANULE, GRANULE + 1, 3 * GRANULE + 17])
@pytest.mark.parametrize("level", LEVELS)
def test_every_range_reads_back(tmp_path: Path, n: int, level: Level) -> None:
    data = noise(n)
    path = save(tmp_path / "a" / "b" / "block", data, level)
    assert os.path.getsize(path) == n + (0 if level == "none" else cachefile.trailer_length(n))
    cuts = sorted({0, 1, GRANULE - 1, GRANULE, GRANULE + 1, 2 * GRANULE, n - 1, n} & set(range(n + 1)))
    for start in cuts:
        for end in cuts:
            if start < end:
                for other in LEVELS:  # written with one level, read with another
                    assert cachefile.read(path, n, start, end - start, other) == data[start:end]


@pytest.mark.parametrize(
    ("level", "off", "length", "found"),
    [
        ("none", 0, 3 * GRANULE, False),
        ("full", 0, 3 * GRANULE, True),
        ("full", 0, 3 * GRANULE - 1, False),
        ("shrink", GRANULE, GRANULE, True),
        ("shrink", GRANULE + 1, GRANULE, False),
        ("shrink", 0, 3 * GRANULE, True),
        ("extend", GRANULE + 5, 1, True),
        ("extend", 0, GRANULE, False),
        ("extend", 2 * GRANULE, GRANULE, False),
    ],
)
def test_levels_verify_what_they_promise(tmp_path: Path, level: Level, off: int, length: int, found: bool) -> None:
    path = save(tmp_path / "block", noise(3 * GRANULE))
    with open(path, "r+b") as f:  # damage in the middle granule
        f.seek(GRANULE + GRANULE // 2)
        f.write(b"\0\1\2\3")
    if found:
        with pytest.raises(DataCorrupt, match="checksum"):
            cachefile.read(path, 3 * GRANULE, off, length, level)
    else:
        cachefile.read(path, 3 * GRANULE, off, length, level)


def test_shrink_verifies_a_short_last_granule_only_when_the_read_reaches_the_end(tmp_path: Path) -> None:
    n = GRANULE + 100
    path = save(tmp_path / "block", noise(n))
    with open(path, "r+b") as f:
        f.seek(n - 1)
        f.write(b"\0" if noise(n)[-1] else b"\1")
    cachefile.read(path, n, GRANULE, 99, "shrink")
    with pytest.raises(DataCorrupt):
        cachefile.read(path, n, GRANULE, 100, "shrink")


@pytest.mark.parametrize(
    ("extra", "summed"), [(0, False), (4, True), (4 + 20, True), (18, False), (1, False), (2, False)]
)
def test_the_size_of_a_file_tells_what_follows_the_data(extra: int, summed: bool) -> None:
    assert cachefile.has_checksums(1000 + extra, 1000) is summed


def test_files_that_are_too_short_are_invalid(tmp_path: Path) -> None:
    with pytest.raises(DataCorrupt):
        cachefile.has_checksums(999, 1000)
    with pytest.raises(DataCorrupt):
        cachefile.has_checksums(GRANULE + 1 + 4, GRANULE + 1)  # two granules need 8 bytes
    path = save(tmp_path / "block", noise(1000), "none")
    os.truncate(path, 500)
    with pytest.raises(DataCorrupt):
        cachefile.read(path, 1000, 0, 10, "none")


def test_staged_blocks_with_a_footer_are_read(tmp_path: Path) -> None:
    data = noise(1000)
    with_sum, without = tmp_path / "a", tmp_path / "b"
    footer = bytes.fromhex("4653001082a474696572cc02a3706164c4020000")
    with_sum.write_bytes(data + cachefile.checksums(data) + footer)
    without.write_bytes(data + bytes.fromhex("4653000e82a474696572cc02a3706164c400"))
    for path in (with_sum, without):
        assert cachefile.read(str(path), 1000, 0, 1000, "extend") == data


def test_modes_follow_the_cache_mode_whatever_the_umask(tmp_path: Path) -> None:
    assert [oct(cachefile.directory_mode(m)) for m in (0o600, 0o644, 0o640)] == ["0o700", "0o777", "0o770"]
    old = os.umask(0o077)
    try:
        path = tmp_path / "x" / "y"
        cachefile.write(str(path), b"data", "none", 0o644, 0o777)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o777


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "block"
    temp = tmp_path / "block.tmp"
    temp.write_bytes(b"half")
    assert not cachefile.write(str(path), b"data", "none", 0o600, 0o700)
    assert temp.read_bytes() == b"half" and not path.exists()
    os.utime(temp, (1, 1))  # its writer died long ago
    assert cachefile.write(str(path), b"data", "none", 0o600, 0o700)
    assert path.read_bytes() == b"data" and not temp.exists()
