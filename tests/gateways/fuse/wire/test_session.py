# SPDX-License-Identifier: Apache-2.0
"""INIT: what we ask for, what older kernels get, and what a later process is told."""

from __future__ import annotations

import struct

import pytest

from gateways.fuse.session import PAGE, Negotiated, Options, UnsupportedKernel, negotiate
from gateways.fuse.wire.constants import Init

EVERYTHING = (1 << 43) - 1
OUT = "=IIIIHHIIHHIIH"


def agree(options: Options | None = None, *, minor: int = 45, offered: int = EVERYTHING) -> Negotiated:
    agreed = negotiate(7, minor, 131072, offered, options or Options(), most_pages=256)[1]
    assert agreed is not None
    return agreed


def test_requests_of_a_mebibyte_and_exact_times() -> None:
    reply, agreed = negotiate(7, 45, 131072, EVERYTHING, Options(), most_pages=256)
    assert agreed is not None
    assert len(reply) == 64
    fields = struct.unpack_from(OUT, reply)
    assert fields[:3] == (7, 45, 131072)
    assert fields[3] | fields[10] << 32 == agreed.flags
    assert fields[6:9] == (256 * PAGE, 1, 256)
    assert agreed.max_write == 256 * PAGE


@pytest.mark.parametrize("minor", range(31, 46))
def test_every_version_from_7_31_on(minor: int) -> None:
    reply, agreed = negotiate(7, minor, 131072, 0x7FFFFFFF if minor < 36 else EVERYTHING, Options())
    assert agreed is not None
    assert agreed.minor == minor == struct.unpack_from("=I", reply, 4)[0]


def test_a_newer_kernel_gets_what_we_know() -> None:
    assert agree(minor=99).minor == 45


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 8), (6, 45)])
def test_an_old_kernel_is_refused_with_a_way_out(major: int, minor: int) -> None:
    with pytest.raises(UnsupportedKernel, match=rf"{major}\.{minor}.*update the kernel"):
        negotiate(major, minor, 0, 0, Options())


def test_a_kernel_of_another_major_version_is_asked_to_come_again() -> None:
    reply, agreed = negotiate(8, 0, 0, 0, Options())
    assert agreed is None
    assert struct.unpack_from("=I", reply)[0] == 7


def test_nothing_is_taken_that_was_not_offered() -> None:
    assert agree(offered=0).flags == 0
    assert agree(offered=0).max_write == 32 * PAGE
    old = agree(offered=EVERYTHING & ~Init.INIT_EXT, minor=35)
    assert old.flags >> 32 == 0


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        (Options(), Init.AUTO_INVAL_DATA | Init.READDIRPLUS_AUTO | Init.POSIX_LOCKS | Init.DONT_MASK,
         Init.WRITEBACK_CACHE | Init.ASYNC_DIO | Init.POSIX_ACL | Init.PASSTHROUGH | Init.ALLOW_IDMAP),
        (Options(data_cache="explicit"), Init.EXPLICIT_INVAL_DATA, Init.AUTO_INVAL_DATA),
        (Options(readdirplus="never"), Init(0), Init.DO_READDIRPLUS | Init.READDIRPLUS_AUTO),
        (Options(readdirplus="always"), Init.DO_READDIRPLUS, Init.READDIRPLUS_AUTO),
        (Options(locks=False), Init(0), Init.POSIX_LOCKS | Init.FLOCK_LOCKS),
        (Options(writeback_cache=True, passthrough=True), Init.WRITEBACK_CACHE, Init.PASSTHROUGH),
        (Options(passthrough=True), Init.PASSTHROUGH, Init(0)),
        (Options(posix_acl=True, async_dio=True), Init.POSIX_ACL | Init.ASYNC_DIO, Init(0)),
        (Options(export=True), Init.EXPORT_SUPPORT, Init(0)),
        (Options(kill_privileges=False), Init(0), Init.HANDLE_KILLPRIV_V2 | Init.HANDLE_KILLPRIV),
    ],
)  # fmt: skip
def test_options_choose_flags(options: Options, there: Init, absent: Init) -> None:
    flags = agree(options).flags
    assert flags & there == there
    assert not flags & absent


def test_passthrough_says_how_deep_file_systems_may_stack() -> None:
    reply, _ = negotiate(7, 45, 131072, EVERYTHING, Options(passthrough=True))
    assert struct.unpack_from(OUT, reply)[11] == 1
    reply, _ = negotiate(7, 45, 131072, EVERYTHING, Options())
    assert struct.unpack_from(OUT, reply)[11] == 0


def test_small_and_huge_requests_stay_inside_what_the_kernel_takes() -> None:
    assert agree(Options(max_io=1)).max_write == max(4096, PAGE)
    assert agree(Options(max_io=1 << 40)).max_pages == 256


def test_a_later_process_can_be_told() -> None:
    agreed = agree()
    assert Negotiated.from_dict(agreed.to_dict()) == agreed
    assert all(isinstance(value, int) for value in agreed.to_dict().values())


def test_mount_options() -> None:
    assert Options().mount_options() == ["default_permissions"]
    assert Options(read_only=True, allow_other=True, default_permissions=False).mount_options() == ["ro", "allow_other"]
