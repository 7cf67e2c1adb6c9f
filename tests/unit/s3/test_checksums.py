# SPDX-License-Identifier: Apache-2.0
"""Checksums: published check values, combination against recomputation, and the rules about headers."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import zlib

import pytest
from hypothesis import given, settings, strategies as st

from gateways.s3 import checksums
from gateways.s3.checksums import ALGORITHMS, COMPOSITE, FULL_OBJECT, Requested
from tests.unit.s3.helpers import code_of

AVAILABLE = [name for name, a in ALGORITHMS.items() if a.make]
COMBINABLE = {"crc32": (0xEDB88320, 32), "crc32c": (0x82F63B78, 32), "crc64nvme": (0x9A6C9329AC4BC9B5, 64)}


def digest(name: str, *pieces: bytes) -> bytes:
    hasher = checksums.new_hasher(name)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # The "check" values of the CRC catalogue and of RFC 3720.
        ("crc32", "cbf43926"),
        ("crc32c", "e3069283"),
        ("crc64nvme", "ae8b14860a799888"),
        ("sha1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("sha256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ("md5", "25f9e794323b453885f5181f1b624d0b"),
        ("xxhash64", "8cb841db40e6ae83"),
    ],
)
def test_published_values_of_123456789(name, expected):
    assert digest(name, b"123456789").hex() == expected
    assert digest(name, b"1234", b"", b"56789").hex() == expected


def test_the_crc32c_of_the_documented_trailer_upload():
    assert checksums.encode(digest("crc32c", b"a" * 66560)) == "sOO8/Q=="


def test_the_value_botocore_sends_for_hello():
    assert checksums.encode(digest("crc32", b"hello")) == "NhCmhg=="


@pytest.mark.parametrize("name", AVAILABLE)
def test_any_buffer_in_any_split(name):
    data = bytes(range(256)) * 50
    whole = digest(name, data)
    assert len(whole) == ALGORITHMS[name].size
    for kind in (bytearray, memoryview, lambda d: memoryview(bytearray(d))):
        assert digest(name, kind(data)) == whole
        assert digest(name, kind(data[:1001]), kind(data[1001:])) == whole
    hasher = checksums.new_hasher(name)
    hasher.update(data)
    assert hasher.digest() == hasher.digest() == whole


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_the_table_agrees_with_the_fast_crc64(data):
    assert checksums.crc64nvme_slow(data).to_bytes(8, "big") == digest("crc64nvme", data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(COMBINABLE)), st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_combined_parts_equal_the_whole(name, parts):
    pairs = [(digest(name, part), len(part)) for part in parts]
    whole = digest(name, b"".join(parts))
    assert checksums.combine(name, pairs) == whole
    value = 0
    for part_digest, length in pairs:
        value = checksums.combine_slow(value, int.from_bytes(part_digest, "big"), length, *COMBINABLE[name])
    assert value.to_bytes(ALGORITHMS[name].size, "big") == whole


@pytest.mark.parametrize("name", sorted(COMBINABLE))
def test_combination_of_lengths_too_large_to_compute(name):
    """Against 5 GiB parts: three parts combined in either grouping give one value; both implementations agree."""
    size, polynomial = ALGORITHMS[name].size, COMBINABLE[name]
    a, b, c = (int.from_bytes(hashlib.sha256(bytes([i])).digest()[:size], "big") for i in range(3))
    long = 5 << 30

    def join(x: int, y: int, length: int) -> int:
        return checksums.combine_slow(x, y, length, *polynomial)

    assert join(join(a, b, long), c, long + 3) == join(a, join(b, c, long + 3), 2 * long + 3)
    fast = ALGORITHMS[name].combine
    assert fast is not None
    assert fast(a, b, long) == join(a, b, long)


def test_crc32_of_zlib_over_many_parts():
    part = bytes(range(256)) * 32
    pairs = [(zlib.crc32(part).to_bytes(4, "big"), len(part))] * 1000
    assert checksums.combine("crc32", pairs) == zlib.crc32(part * 1000).to_bytes(4, "big")


def test_composite_is_the_digest_of_digests():
    digests = [digest("sha256", b"a"), digest("sha256", b"b")]
    expected = base64.b64encode(hashlib.sha256(b"".join(digests)).digest()).decode() + "-2"
    assert checksums.composite("sha256", digests) == expected
    with pytest.raises(ValueError, match="combined"):
        checksums.combine("sha256", [])


INVALID = (400, "InvalidRequest")


def test_which_checksum_a_request_carries():
    assert checksums.requested({}) == Requested()
    crc = {"x-amz-checksum-crc32": "NhCmhg=="}
    assert checksums.requested(crc) == Requested("crc32", bytes.fromhex("3610a686"))
    assert checksums.requested(crc | {"x-amz-sdk-checksum-algorithm": "CRC32"}).algorithm == "crc32"
    assert checksums.requested({"x-amz-checksum-mode": "ENABLED", "x-amz-checksum-type": "COMPOSITE"}) == Requested()
    trailer = {"x-amz-trailer": "X-Amz-Checksum-CRC64NVME", "x-amz-sdk-checksum-algorithm": "CRC64NVME"}
    assert checksums.requested(trailer) == Requested("crc64nvme")
    assert checksums.requested(trailer).in_trailer


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-crc32": "NhCmhg==", "x-amz-checksum-sha1": "x"},
        {"x-amz-checksum-crc32": "NhCmhg==", "x-amz-trailer": "x-amz-checksum-crc32"},
        {"x-amz-checksum-crc32": "NhCmhg==", "x-amz-sdk-checksum-algorithm": "SHA1"},
        {"x-amz-checksum-crc32": "NhCmhg"},
        {"x-amz-checksum-crc32": "NhCm hg=="},
        {"x-amz-checksum-crc32": "NhCmhgAA"},
        {"x-amz-checksum-crc32": ""},
        {"x-amz-checksum-crc32": "ÿÿÿ"},
        {"x-amz-checksum-adler32": "NhCmhg=="},
        {"x-amz-sdk-checksum-algorithm": "CRC32"},
        {"x-amz-sdk-checksum-algorithm": "ADLER32"},
        {"x-amz-trailer": "x-amz-checksum-crc32, x-amz-checksum-sha1"},
        {"x-amz-trailer": "content-length"},
        {"x-amz-trailer": "x-amz-checksum-type"},
    ],
)
def test_contradictions_are_invalid_requests(headers):
    assert code_of(checksums.requested, headers) == INVALID


def test_content_md5():
    assert checksums.content_md5({}) is None
    value = base64.b64encode(hashlib.md5(b"x").digest()).decode()
    assert checksums.content_md5({"content-md5": value}) == hashlib.md5(b"x").digest()
    for bad in ("", "x", "NhCmhg==", value[:-1], "é"):
        assert code_of(checksums.content_md5, {"content-md5": bad}) == (400, "InvalidDigest")


def test_a_wrong_value_is_a_bad_digest():
    checksums.check("crc32", b"1234", b"1234")
    assert code_of(checksums.check, "crc32", b"1234", b"1235") == (400, "BadDigest")


@pytest.mark.parametrize(
    ("algorithm", "kind", "expected"),
    [
        ("", "", ("", "")),
        ("CRC32", "", ("crc32", COMPOSITE)),
        ("crc32c", "full_object", ("crc32c", FULL_OBJECT)),
        ("CRC64NVME", "", ("crc64nvme", FULL_OBJECT)),
        ("SHA256", "", ("sha256", COMPOSITE)),
        ("XXHASH3", "COMPOSITE", ("xxhash3", COMPOSITE)),
        ("CRC64NVME", "COMPOSITE", None),
        ("SHA1", "FULL_OBJECT", None),
        ("MD5", "FULL_OBJECT", None),
        ("CRC32", "PARTIAL", None),
        ("", "FULL_OBJECT", None),
        ("ADLER32", "", None),
    ],
)
def test_kinds_of_multipart_checksums(algorithm, kind, expected):
    headers = {"x-amz-checksum-algorithm": algorithm} if algorithm else {}
    headers |= {"x-amz-checksum-type": kind} if kind else {}
    if expected is None:
        assert code_of(checksums.multipart_kind, headers) == INVALID
    else:
        assert checksums.multipart_kind(headers) == expected


def test_without_awscrt_everything_but_xxhash_still_works():
    """A fresh interpreter in which the import fails, as on a platform without a wheel."""
    script = (
        "import sys; sys.modules['awscrt'] = None; sys.modules['awscrt.checksums'] = None\n"
        "from gateways.s3 import checksums as c\n"
        "for name in ('crc32', 'crc32c', 'crc64nvme'):\n"
        "    h = c.new_hasher(name); h.update(memoryview(bytearray(b'123456789'))); print(h.digest().hex())\n"
        "    print(c.combine(name, [(h.digest(), 9), (h.digest(), 9)]).hex())\n"
        "print(c.is_fast('crc64nvme'), c.ALGORITHMS['xxhash3'].make)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    expected = []
    for name, value in (("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")):
        expected += [value, digest(name, b"123456789" * 2).hex()]
    assert out == [*expected, "False", "None"]
