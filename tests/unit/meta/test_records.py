# SPDX-License-Identifier: Apache-2.0
"""Binary forms of attributes, entries and slice records: published vectors, round trips, old and damaged forms.

Facts: metadata-format §2 (attributes), §3.1 (slices), §1.1 (space), §1.10 (entries), §12 (vectors), §13 (checklist).
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from core.meta.records import (
    BLOCKDEV,
    CHARDEV,
    CHUNK_SIZE,
    DIRECTORY,
    FIFO,
    FILE,
    SLICE_BYTES,
    SOCKET,
    SYMLINK,
    TRASH,
    Attr,
    Entry,
    Slice,
    align4k,
    decode_attr,
    decode_entry,
    decode_slices,
    encode_attr,
    encode_entry,
    encode_slice,
    encode_slices,
    node_space,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
# i64 seconds on both sides of the epoch, with room for the nanoseconds.
TIMES = st.integers(-(2**63) * 10**9, (2**63 - 1) * 10**9 + 999_999_999)

COMMON = bytes.fromhex(
    "2011a4000003e800000064000000006553f100075bcd15000000006553f10100000005000000006553f1023b9ac9ff"
    "000000010000000012345678000000000000000000000002"
)
PLAIN = Attr(
    FILE, 0o644, 1000, 100, 1700000000_123456789, 1700000001_000000005, 1700000002_999999999, 1, 0x12345678,
    parent=2, flags=0x20,
)  # fmt: skip

VECTORS = {
    "plain": (PLAIN, "00", 72),
    "access ACL 7": (msgspec.structs.replace(PLAIN, access_acl=7), "0000000700000000 00", 80),
    "default ACL 9": (msgspec.structs.replace(PLAIN, default_acl=9), "0000000000000009 00", 80),
    "tier 2": (msgspec.structs.replace(PLAIN, tier=2), "02 00", 73),
    "ACLs 7 and 9, tier 2": (
        msgspec.structs.replace(PLAIN, access_acl=7, default_acl=9, tier=2), "0000000700000009 02 00", 81,
    ),
}  # fmt: skip

ATTRS = st.builds(
    Attr,
    type=st.sampled_from([FILE, DIRECTORY, SYMLINK, FIFO, BLOCKDEV, CHARDEV, SOCKET]),
    mode=st.integers(0, 0o7777), uid=U32, gid=U32, atime_ns=TIMES, mtime_ns=TIMES, ctime_ns=TIMES, nlink=U32,
    length=U64, rdev=U32, parent=U64, flags=st.integers(0, 255), access_acl=U32, default_acl=U32,
    tier=st.integers(0, 255),
)  # fmt: skip
SLICES = st.builds(Slice, pos=U32, id=U64, size=U32, off=U32, length=U32)


# -- attributes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors_of_attributes(name: str) -> None:
    attr, tail, size = VECTORS[name]
    raw = COMMON + bytes.fromhex(tail)
    assert len(raw) == size
    assert encode_attr(attr) == raw
    assert decode_attr(raw) == attr


@pytest.mark.parametrize("name", VECTORS)
def test_the_trailing_zero_byte_may_be_missing(name: str) -> None:
    attr, tail, _ = VECTORS[name]
    assert decode_attr(COMMON + bytes.fromhex(tail)[:-1]) == attr


def test_very_old_records_of_64_bytes_have_no_parent() -> None:
    orphan = msgspec.structs.replace(PLAIN, parent=0)
    assert decode_attr(COMMON[:63] + b"\0") == orphan
    assert decode_attr(COMMON[:63]) == orphan
    assert decode_attr(COMMON[:70]) == orphan  # seven bytes are no parent


def test_unknown_trailing_bytes_are_ignored() -> None:
    full, tail, _ = VECTORS["ACLs 7 and 9, tier 2"]
    assert decode_attr(COMMON + bytes.fromhex(tail) + b"from the future") == full


@pytest.mark.parametrize("size", [0, 1, 47, 62])
def test_short_attributes_are_refused_with_their_size(size: int) -> None:
    with pytest.raises(ValueError, match=rf"{size} bytes, expected at least 63"):
        decode_attr(COMMON[:size])


@given(ATTRS)
def test_attributes_round_trip(attr: Attr) -> None:
    raw = encode_attr(attr)
    assert decode_attr(raw) == attr
    assert raw[-1] == 0
    assert len(raw) == 72 + (8 if attr.access_acl or attr.default_acl else 0) + (1 if attr.tier else 0)
    # The restore path of other clients patches these in place; server-side scripts parse the first eleven bytes.
    assert int.from_bytes(raw[47:51], "big") == attr.nlink
    assert int.from_bytes(raw[63:71], "big") == attr.parent
    assert raw[0] == attr.flags
    assert int.from_bytes(raw[1:3], "big") == attr.type << 12 | attr.mode


@pytest.mark.parametrize(
    ("time_ns", "seconds", "rest"),
    [(-1, -1, 999_999_999), (-1_000_000_000, -1, 0), (-1_000_000_001, -2, 999_999_999), (1, 0, 1), (0, 0, 0)],
)
def test_times_before_the_epoch_keep_their_nanoseconds_positive(time_ns: int, seconds: int, rest: int) -> None:
    raw = encode_attr(msgspec.structs.replace(PLAIN, mtime_ns=time_ns))
    assert int.from_bytes(raw[23:31], "big", signed=True) == seconds
    assert int.from_bytes(raw[31:35], "big") == rest
    assert decode_attr(raw).mtime_ns == time_ns


@given(st.binary(min_size=63, max_size=100))
def test_any_bytes_of_sufficient_length_decode(raw: bytes) -> None:
    attr = decode_attr(raw)
    assert 0 <= attr.type < 16
    assert 0 <= attr.mode <= 0o7777


def test_types_as_stat_calls_them() -> None:
    modes = {FILE: 0o100644, DIRECTORY: 0o040644, SYMLINK: 0o120644, FIFO: 0o010644, BLOCKDEV: 0o060644,
             CHARDEV: 0o020644, SOCKET: 0o140644}  # fmt: skip
    for kind, mode in modes.items():
        assert msgspec.structs.replace(PLAIN, type=kind).st_mode == mode


def test_only_what_lies_below_the_trash_root_is_in_the_trash() -> None:
    assert not msgspec.structs.replace(PLAIN, parent=TRASH).in_trash  # an hourly directory itself
    assert msgspec.structs.replace(PLAIN, parent=TRASH + 1).in_trash
    assert not PLAIN.in_trash


# -- entries and slices ---------------------------------------------------------------------------------------------


def test_published_vector_of_an_entry() -> None:
    raw = bytes.fromhex("02 0000000000001001")
    assert encode_entry(Entry(DIRECTORY, 4097)) == raw
    assert decode_entry(raw) == Entry(DIRECTORY, 4097)


@given(st.integers(1, 7), U64)
def test_entries_round_trip(kind: int, ino: int) -> None:
    assert decode_entry(encode_entry(Entry(kind, ino))) == (kind, ino)


def test_published_vector_of_a_slice() -> None:
    raw = bytes.fromhex("00001000 0000112233445566 00002000 00000010 00001f40")
    s = Slice(4096, 0x112233445566, 8192, 16, 8000)
    assert encode_slice(s) == raw
    assert decode_slices(raw) == [s]


@given(st.lists(SLICES, max_size=20))
def test_chunks_round_trip(slices: list[Slice]) -> None:
    raw = encode_slices(slices)
    assert raw == b"".join(map(encode_slice, slices))
    assert len(raw) == SLICE_BYTES * len(slices)
    assert decode_slices(raw) == slices


@pytest.mark.parametrize("size", [1, 23, 25, 47])
def test_a_cut_chunk_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes is no multiple of 24"):
        decode_slices(bytes(size))


# -- space ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "space"),
    [(-1, 4096), (0, 4096), (1, 4096), (4095, 4096), (4096, 4096), (4097, 8192), (8192, 8192),
     (CHUNK_SIZE, CHUNK_SIZE), (CHUNK_SIZE + 1, CHUNK_SIZE + 4096), ((1 << 57) - 1, 1 << 57)],
)  # fmt: skip
def test_space_is_rounded_up_to_4_kib_and_never_zero(length: int, space: int) -> None:
    assert align4k(length) == space


@pytest.mark.parametrize("kind", [DIRECTORY, SYMLINK, FIFO, BLOCKDEV, CHARDEV, SOCKET])
def test_anything_but_a_file_takes_one_page(kind: int) -> None:
    assert node_space(msgspec.structs.replace(PLAIN, type=kind, length=10_000)) == 4096
    assert node_space(msgspec.structs.replace(PLAIN, length=10_000)) == 12_288
