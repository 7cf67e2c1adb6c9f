# SPDX-License-Identifier: Apache-2.0
"""Layouts of answers, compared with the kernel's header where there is a compiler."""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from gateways.fuse.wire import replies, requests
from tests.servers.process import missing

ATTR = replies.pack_attr(7, 1 << 40, 9, -1, 1_500_000_000, -1_500_000_000, stat.S_IFREG | 0o640, 3, 10, 20, 0x105)


def test_attributes_with_times_before_1970() -> None:
    fields = struct.unpack("=QQQqqqIIIIIIIIII", ATTR)
    assert fields[:3] == (7, 1 << 40, 9)
    assert fields[3:6] == (-1, 1, -2)
    assert fields[6:9] == (999_999_999, 500_000_000, 500_000_000)
    assert fields[9:] == (stat.S_IFREG | 0o640, 3, 10, 20, 0x105, 65536, 0)


def test_an_entry_says_how_long_it_is_good() -> None:
    raw = replies.entry(7, ATTR, 1.5, 0.25)
    assert struct.unpack_from("=QQQQII", raw) == (7, 1, 1, 0, 500_000_000, 250_000_000)
    assert raw[40:] == ATTR


@pytest.mark.parametrize(
    ("ttl", "found"), [(0, (0, 0)), (-1, (0, 0)), (1e9, (10**9, 0)), (0.9999999999, (0, 999_999_999))]
)
def test_ttls(ttl: float, found: tuple[int, int]) -> None:
    assert struct.unpack_from("=QI", replies.attr(ATTR, ttl)) == found


def test_a_name_that_is_not_there() -> None:
    raw = replies.negative_entry(2)
    assert len(raw) == 128
    assert struct.unpack_from("=QQQ", raw) == (0, 0, 2)


def test_statx_has_the_birth_time_if_there_is_one() -> None:
    raw = replies.statx(7, 5, 1, 0, 0, 0, stat.S_IFREG | 0o600, 1, 2, 3, 0x1234567, 1.0, btime_ns=-1)
    assert len(raw) == 288
    assert struct.unpack_from("=I", raw, 32) == (0xFFF,)
    assert struct.unpack_from("=qI", raw, 32 + 80) == (-1, 999_999_999)
    assert struct.unpack_from("=II", raw, 32 + 128) == (0x345, 0x1267)
    raw = replies.statx(7, 5, 1, 0, 0, 0, stat.S_IFREG | 0o600, 1, 2, 3, 0, 1.0)
    assert struct.unpack_from("=I", raw, 32) == (0x7FF,)


def test_a_listing_stops_when_it_is_full_and_entries_are_aligned() -> None:
    found = replies.DirBuffer(24 + 8 + 24 + 16)
    assert found.add(1, 1, 4, b"eight888")
    assert found.add(2, 2, 8, b"nine99999")
    assert not found.add(3, 3, 8, b"x")
    raw = found.bytes()
    assert len(raw) == 72
    assert struct.unpack_from("=QQII", raw, 32) == (2, 2, 9, 8)
    assert raw[56:65] == b"nine99999"


def test_a_listing_with_attributes() -> None:
    entry = replies.entry(7, ATTR, 1, 1)
    found = replies.DirBuffer(2 * (128 + 24 + 8))
    assert found.add_plus(replies.NO_ENTRY, 1, 1, 4, b".")
    assert found.add_plus(entry, 7, 2, 8, b"file")
    assert not found.add_plus(entry, 7, 2, 8, b"f")
    raw = found.bytes()
    assert raw[160:288] == entry
    assert struct.unpack_from("=QQII", raw, 288) == (7, 2, 4, 8)


def test_written_is_right_for_both_lengths_of_the_answer() -> None:
    assert struct.unpack("=II", replies.written(4096)) == (4096, 0)


def test_sizes_are_those_of_the_kernel_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/fuse.h").exists():
        missing("a C compiler and linux/fuse.h", "apt install gcc linux-libc-dev")
    sizes = {
        "fuse_attr": len(ATTR),
        "fuse_entry_out": len(replies.entry(1, ATTR, 0, 0)),
        "fuse_attr_out": len(replies.attr(ATTR, 0)),
        "fuse_open_out": len(replies.opened(1, 0)),
        "fuse_write_out": len(replies.written(1)),
        "fuse_statfs_out": len(replies.statfs(1, 1, 1, 1, 1, 1, 1, 1)),
        "fuse_getxattr_out": len(replies.xattr_size(1)),
        "fuse_lk_out": len(replies.lock(1, 1, 1, 1)),
        "fuse_lseek_out": len(replies.lseek(1)),
        "fuse_ioctl_out": len(replies.ioctl(0)),
        "fuse_poll_out": len(replies.poll(1)),
        "fuse_in_header": requests.HEADER.size,
        "fuse_getattr_in": requests._GETATTR.size,
        "fuse_setattr_in": requests._SETATTR.size,
        "fuse_release_in": requests._RELEASE.size,
        "fuse_flush_in": requests._FLUSH.size,
        "fuse_read_in": requests._READ.size,
        "fuse_write_in": requests._READ.size,
        "fuse_ioctl_in": requests._IOCTL.size,
        "fuse_fallocate_in": requests._FALLOCATE.size,
        "fuse_lseek_in": requests._LSEEK.size,
        "fuse_copy_file_range_in": requests._COPY.size,
        "fuse_lk_in": requests._LK.size,
        "fuse_rename2_in": requests._RENAME2.size,
        "fuse_create_in": requests._FOUR32.size,
        "fuse_setxattr_in": requests._FOUR32.size,
    }
    lines = "".join(f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in sizes)
    source = tmp_path / "sizes.c"
    source.write_text(f"#include <stdio.h>\n#include <linux/fuse.h>\nint main(void) {{ {lines} return 0; }}\n")
    subprocess.run([compiler, "-o", tmp_path / "sizes", source], check=True)
    out = subprocess.run([tmp_path / "sizes"], check=True, capture_output=True, text=True).stdout
    assert {name: int(size) for name, size in map(str.split, out.splitlines())} == sizes


def test_a_listed_node_is_an_entry_with_its_attributes() -> None:
    class Attr:
        length, nlink, uid, gid, rdev = 5, 2, 3, 4, 5
        atime_ns, mtime_ns, ctime_ns = -1, 2_000_000_003, 4

    packed = replies.pack_attr(7, 5, 8, -1, 2_000_000_003, 4, 0o100644, 2, 3, 4, 5)
    for name in (b"f", b"eight by", b"somewhat longer than that"):
        plain, whole = replies.DirBuffer(4096), replies.DirBuffer(4096)
        assert plain.add_plus(replies.entry(7, packed, 1.5, 0.25), 7, 9, 8, name)
        assert whole.add_node(7, Attr(), 0o100644, 8, 1.5, 0.25, 9, 8, name)
        assert whole.bytes() == plain.bytes()
        full = replies.DirBuffer(len(plain.bytes()) - 1)
        assert not full.add_node(7, Attr(), 0o100644, 8, 1.5, 0.25, 9, 8, name)
        assert full.bytes() == b""
