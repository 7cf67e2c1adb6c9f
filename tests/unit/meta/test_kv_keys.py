# SPDX-License-Identifier: Apache-2.0
"""Keys and values of key-value stores, byte for byte. Vectors: format §12; layouts: format §6.2, §6.3."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DIRECTORY, TRASH, Attr, DirStat, Entry, Quota
from core.meta.stores.kv import values as v
from core.meta.stores.kv.driver import Range
from core.meta.stores.kv.keys import KeyCodec, after

PLAIN = KeyCodec(b"")

KEYS: list[tuple[Key, str]] = [
    (k.node(4097), "41 0110000000000000 49"),
    (k.entry(1, b"ab"), "41 0100000000000000 44 6162"),
    (k.chunk(4097, 3), "41 0110000000000000 43 00000003"),
    (k.parent(4097, 1), "41 0110000000000000 50 0100000000000000"),
    (k.sliceref(258, 65536), "4b 0000000000000102 00010000"),
    (k.delfile(4097, 65536), "44 0110000000000000 0000000000010000"),
    (k.sustained(5, 4097), "5353 0000000000000005 0110000000000000"),
    (k.symlink(4097), "41 0110000000000000 53"),
    (k.xattr(4097, b"u.a"), "41 0110000000000000 58 752e61"),
    (k.setting(), b"setting".hex()),
    (k.counter("nextInode"), b"CnextInode".hex()),
    (k.delslices(7, 1_700_000_000), "4c 000000006553f100 0000000000000007"),
    (k.flocks(4097), "46 0110000000000000"),
    (k.plocks(4097), "50 0110000000000000"),
    (k.session(5), "5345 0000000000000005"),
    (k.sessioninfo(5), "5349 0000000000000005"),
    (k.dirstat(4097), "55 0110000000000000"),
    (k.detached(4097), "4e 0110000000000000"),
    (k.quota(0, 4097), "5144 0110000000000000"),
    (k.quota(1, 1001), "5155 00000000000003e9"),
    (k.quota(2, 0xFFFFFFFE), "5147 00000000fffffffe"),
    (k.acl(7), "52 00000007"),
    (k.node(TRASH + 1), "41 01000010ffffff7f 49"),
]
VALUES: list[tuple[Key, Any, str]] = [
    (k.entry(1, b"d"), Entry(DIRECTORY, 4097), "02 0000000000001001"),
    (k.counter("usedSpace"), 1026, "0204000000000000"),
    (k.counter("nextInode"), 1026, "0204000000000000"),  # next free is what is stored
    (k.counter("nextSession"), 1027, "0204000000000000"),  # last used is what is stored
    (k.counter("lastCleanupTrash"), 1_700_000_000, "000000006553f100"),
    (k.counter("nextCleanupSlices"), 1_700_000_000, "000000006553f100"),
    (k.session(5), 1_700_000_000, "000000006553f100"),
    (k.delfile(5, 6), 1_700_000_000, "000000006553f100"),
    (k.detached(5), 1_700_000_000, "000000006553f100"),
    (k.sliceref(1, 2), 1, "0000000000000000"),
    (k.sliceref(1, 2), 3, "0200000000000000"),
    (k.sliceref(1, 2), 0, "ffffffffffffffff"),
    (k.parent(5, 1), 2, "0200000000000000"),
    (k.dirstat(5), DirStat(1, 4096, -1), "0000000000000001 0000000000001000 ffffffffffffffff"),
    (k.quota(0, 5), Quota(-1, 0, 1, 2), "ffffffffffffffff 0000000000000000 0000000000000001 0000000000000002"),
    (k.sustained(5, 6), True, "01"),
    (k.flocks(5), {(5, 0xABC): "R"}, "0000000000000005 0000000000000abc 52"),
    (k.plocks(5), {(5, 0xABC): bytes(24)}, "0000000000000005 0000000000000abc 00000018" + "00" * 24),
    (k.symlink(5), b"../x", b"../x".hex()),
]


@pytest.mark.parametrize(("key", "expected"), KEYS, ids=[str(key) for key, _ in KEYS])
def test_keys_are_those_of_the_format(key: Key, expected: str) -> None:
    raw = bytes.fromhex(expected)
    assert PLAIN.encode(key) == raw
    assert KeyCodec(b"/jfs\xfd").encode(key) == b"/jfs\xfd" + raw


@pytest.mark.parametrize(("key", "value", "expected"), VALUES, ids=[str(key) for key, _, _ in VALUES])
def test_values_are_those_of_the_format(key: Key, value: Any, expected: str) -> None:
    raw = bytes.fromhex(expected)
    assert v.encode(key, value) == raw
    assert v.decode(key, raw) == value


def test_attributes_of_every_length_are_read() -> None:
    common = bytes.fromhex(
        "2011a4000003e800000064000000006553f100075bcd15000000006553f10100000005000000006553f1023b9ac9ff00000001"
        "0000000012345678000000000000000000000002"
    )
    attr = Attr(1, 0o644, 1000, 100, 1_700_000_000_123_456_789, 1_700_000_001_000_000_005, 1_700_000_002_999_999_999, 1,
                0x12345678, 0, 2, 0x20)  # fmt: skip
    assert v.encode(k.node(5), attr) == common + b"\0"
    for tail, fields in [
        (b"\0", {}), (b"", {}), (bytes.fromhex("0000000700000000") + b"\0", {"access_acl": 7}),
        (b"\x02\0", {"tier": 2}),
        (bytes.fromhex("0000000700000009") + b"\x02\0", {"access_acl": 7, "default_acl": 9, "tier": 2}),
    ]:  # fmt: skip
        found = v.decode(k.node(5), common + tail)
        assert {name: getattr(found, name) for name in fields} == fields
    assert v.decode(k.node(5), common[:63] + b"\0").parent == 0  # records of very old clients


@pytest.mark.parametrize(
    "key", [key for key, _ in KEYS if key[0] not in (k.SETTING, k.COUNTER, k.SESSIONINFO)], ids=str
)
def test_scanned_keys_are_told_from_others(key: Key) -> None:
    codec = KeyCodec(b"vol\xfd")
    raw = codec.encode(key)
    assert codec.decode(key[0], raw) == key
    inside = [start <= raw < end for start, end in codec.spaces(key[0])]
    assert inside.count(True) == 1
    if key[0] not in (k.ENTRY, k.XATTR):
        assert codec.decode(key[0], raw + b"x") is None  # a key of another length is of somebody else
    others = {k.NODE, k.ENTRY, k.SYMLINK, k.XATTR, k.CHUNK, k.PARENT} - {key[0]}
    if key[0] in (k.NODE, k.ENTRY, k.SYMLINK, k.XATTR, k.CHUNK, k.PARENT):
        assert [kind for kind in others if codec.decode(kind, raw)] == []


def test_the_key_behind_a_prefix() -> None:
    assert after(b"/jfs\xfd") == b"/jfs\xfe"
    assert after(b"a\xff\xff") == b"b"
    with pytest.raises(ValueError, match="no key lies behind"):
        after(b"\xff")


def test_groups_are_ranges() -> None:
    head = bytes.fromhex("41 0110000000000000")
    assert PLAIN.group(k.xattrs(4097)) == Range(head + b"X", head + b"Y")
    assert PLAIN.group(k.occupied(4097)) == Range(head + b"D", head + b"E", 1, True)
    assert PLAIN.group(k.chunks(4097, 3)) == Range(head + b"C" + bytes(4), head + b"C" + bytes.fromhex("00000003"))
    assert PLAIN.entries(4097, b"", 9) == Range(head + b"D", head + b"E", 9)
    assert PLAIN.entries(4097, b"a", 9) == Range(head + b"Da\0", head + b"E", 9)


def test_change_log_keys_have_shards_on_tikv_and_none_elsewhere() -> None:
    version = (1 << 40) + 5
    assert KeyCodec(b"").log_key(version) == b"XLOG" + version.to_bytes(8, "big")
    shard = (version ^ (version >> 18)) % 64
    sharded = KeyCodec(b"p", 64)
    assert sharded.log_key(version) == b"pXLOG" + bytes((shard,)) + version.to_bytes(8, "big")
    assert sharded.decode(k.CHANGELOG, sharded.log_key(version)) == k.changelog(version)
    assert len(sharded.spaces(k.CHANGELOG)) == 64
    later = sharded.spaces(k.CHANGELOG, version)
    assert not any(start <= sharded.log_key(version) < end for start, end in later)
    assert any(start <= sharded.log_key(version + 1) < end for start, end in later)


@pytest.mark.parametrize("key", [k.chunk(1, 2), k.quota(1, 2), k.acl(1), k.delslices(1, 2), k.sliceref(1, 2)], ids=str)
def test_a_value_of_no_bytes_is_missing(key: Key) -> None:
    assert v.decode(key, b"") is None


def test_what_is_stored_for_nothing() -> None:
    names = ("nextInode", "nextChunk", "nextSession", "aclMaxId", "usedSpace", "lastCleanupTrash")
    assert [v.decode(k.counter(name), None) for name in names] == [2, 1, 1, 1, 0, 0]
    assert v.encode(k.flocks(1), {}) is None
    assert v.decode(k.flocks(1), None) == {}


@pytest.mark.parametrize(
    ("key", "raw"),
    [
        (k.node(5), b"short"), (k.entry(1, b"a"), b"x" * 8), (k.counter("usedSpace"), b"1234"),
        (k.quota(0, 1), bytes(31)), (k.dirstat(1), bytes(25)), (k.flocks(1), bytes(16)),
        (k.plocks(1), bytes(8) + bytes(8) + b"\0\0\0\x18" + bytes(23)), (k.sliceref(1, 2), b"\1"),
    ],
    ids=str,
)  # fmt: skip
def test_damaged_values_are_named(key: Key, raw: bytes) -> None:
    with pytest.raises(MetaError, match=r"damaged metadata record .*sluice fsck") as caught:
        v.decode(key, raw)
    assert not caught.value.retryable
