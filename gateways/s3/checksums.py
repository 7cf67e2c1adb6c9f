# SPDX-License-Identifier: Apache-2.0
"""Checksums of bodies: incremental hashers, combination for multipart uploads, and which headers ask for what.

CRC64NVME, CRC32C and the xxHash family come from awscrt (measured here: CRCs 10–50 GiB/s, combination in C). Without it
CRC32C falls back to google_crc32c, CRC64NVME to a table in Python that is only bearable for small bodies (`is_fast`
tells), and the xxHash family is refused.
Source: spec s3 §6. Polynomials in reflected form: CRC-32 0xEDB88320, Castagnoli 0x82F63B78, and 0x9A6C9329AC4BC9B5, the
reflection of NVMe's 0xAD93D23594C93659; all start with and are inverted by ones.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import google_crc32c

from core.object.api import Buffer
from gateways.s3.errors import S3Error

try:
    awscrt: Any = import_module("awscrt.checksums")  # it has no type information
except ImportError:  # no wheel for this platform
    awscrt = None

FULL_OBJECT = "FULL_OBJECT"
COMPOSITE = "COMPOSITE"

HEADER_PREFIX = "x-amz-checksum-"
#: Headers with that prefix that carry no checksum.
_OTHER_HEADERS = frozenset({"x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"})

DEFAULT = "crc64nvme"


class Hasher(Protocol):
    """Incremental. `update` takes any buffer and doesn't keep it; digests are big endian."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    __slots__ = ("_bytes", "_update", "_value")

    def __init__(self, update: Callable[[Any, int], int], size: int) -> None:
        self._update = update
        self._bytes = size
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._update(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._bytes, "big")


class _XXHash:
    """awscrt's object gives its result only once, and takes bytes only: other buffers are copied (10 GiB/s)."""

    __slots__ = ("_digest", "_hash")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._hash = make()
        self._digest = b""

    def update(self, data: Buffer, /) -> None:
        self._hash.update(data if isinstance(data, bytes) else bytes(data))

    def digest(self) -> bytes:
        if not self._digest:
            self._digest = self._hash.finalize()
        return self._digest


@lru_cache(maxsize=1)
def _crc64_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x9A6C9329AC4BC9B5 if value & 1 else 0)
        table.append(value)
    return table


def crc64nvme_slow(data: Buffer, value: int = 0) -> int:
    """About 5 MB/s: for machines without awscrt, and the oracle of the tests."""
    table = _crc64_table()
    value ^= 0xFFFFFFFFFFFFFFFF
    for byte in memoryview(data).cast("B"):
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFFFFFFFFFF


def _google_crc32c(data: Buffer, value: int = 0) -> int:
    return int(google_crc32c.extend(value, data if isinstance(data, bytes) else bytes(data)))


def _multiply(a: int, b: int, polynomial: int, bits: int) -> int:
    """a·b modulo the polynomial, reflected: the highest bit is x^0."""
    mask = 1 << (bits - 1)
    product = 0
    while a:
        if a & mask:
            product ^= b
            a ^= mask
        mask >>= 1
        b = b >> 1 ^ (polynomial if b & 1 else 0)
    return product


@lru_cache(maxsize=64)  # nearly all parts of an upload have one length
def _power(length_bytes: int, polynomial: int, bits: int) -> int:
    """x^(8·length) modulo the polynomial, by squaring."""
    result = 1 << (bits - 1)
    square = 1 << (bits - 9)  # x^8
    while length_bytes:
        if length_bytes & 1:
            result = _multiply(result, square, polynomial, bits)
        square = _multiply(square, square, polynomial, bits)
        length_bytes >>= 1
    return result


def combine_slow(first: int, second: int, second_length: int, polynomial: int, bits: int) -> int:
    """CRC of A‖B from CRC(A), CRC(B) and len(B): shifting A by len(B) bytes is a multiplication."""
    return _multiply(first, _power(second_length, polynomial, bits), polynomial, bits) ^ second


class Algorithm(NamedTuple):
    """name: as in headers, lower case. full: CRCs of parts can be combined to the CRC of the object."""

    name: str
    size: int
    make: Callable[[], Hasher] | None  # None: not available on this machine
    types: tuple[str, ...]  # first is the default of a multipart upload
    combine: Callable[[int, int, int], int] | None = None

    @property
    def header(self) -> str:
        return HEADER_PREFIX + self.name


def _combiner(name: str, polynomial: int, bits: int) -> Callable[[int, int, int], int]:
    fast: Callable[[int, int, int], int] | None = getattr(awscrt, "combine_" + name, None)
    return fast or (lambda a, b, length: combine_slow(a, b, length, polynomial, bits))


_crc32c = awscrt.crc32c if awscrt else _google_crc32c
_crc64nvme = awscrt.crc64nvme if awscrt else crc64nvme_slow
_BOTH = (COMPOSITE, FULL_OBJECT)


def _xxhash(make: str) -> Callable[[], Hasher] | None:
    function = getattr(awscrt, "XXHash", None) and getattr(awscrt.XXHash, make, None)
    return (lambda: _XXHash(function)) if function else None


ALGORITHMS: dict[str, Algorithm] = {
    a.name: a
    for a in (
        Algorithm("crc32", 4, lambda: _Crc(zlib.crc32, 4), _BOTH, _combiner("crc32", 0xEDB88320, 32)),
        Algorithm("crc32c", 4, lambda: _Crc(_crc32c, 4), _BOTH, _combiner("crc32c", 0x82F63B78, 32)),
        Algorithm(
            "crc64nvme", 8, lambda: _Crc(_crc64nvme, 8), (FULL_OBJECT,), _combiner("crc64nvme", 0x9A6C9329AC4BC9B5, 64)
        ),
        Algorithm("sha1", 20, lambda: hashlib.sha1(usedforsecurity=False), (COMPOSITE,)),
        Algorithm("sha256", 32, hashlib.sha256, (COMPOSITE,)),
        Algorithm("sha512", 64, hashlib.sha512, (COMPOSITE,)),
        Algorithm("md5", 16, lambda: hashlib.md5(usedforsecurity=False), (COMPOSITE,)),
        Algorithm("xxhash64", 8, _xxhash("new_xxhash64"), (COMPOSITE,)),
        Algorithm("xxhash3", 8, _xxhash("new_xxhash3_64"), (COMPOSITE,)),
        Algorithm("xxhash128", 16, _xxhash("new_xxhash3_128"), (COMPOSITE,)),
    )
}

_NAMES = ", ".join(name.upper() for name, a in ALGORITHMS.items() if a.make)


def is_fast(name: str) -> bool:
    """Cheap enough to compute without being asked?"""
    return name != "crc64nvme" or awscrt is not None


def find_algorithm(name: str) -> Algorithm:
    """By the name in a header (any case), else 400 `InvalidRequest`."""
    found = ALGORITHMS.get(name.strip().lower())
    if found is None or found.make is None:
        raise S3Error("InvalidRequest", f"Checksum algorithm provided is unsupported. Please try again with {_NAMES}.")
    return found


def new_hasher(name: str) -> Hasher:
    make = ALGORITHMS[name].make
    if make is None:
        raise S3Error("InvalidRequest", f"The checksum algorithm {name.upper()} is not available on this server.")
    return make()


def encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def decode(name: str, text: str) -> bytes:
    """Digest of a checksum header or trailer; 400 `InvalidRequest` unless it is base64 of the right length."""
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != ALGORITHMS[name].size:
        raise S3Error("InvalidRequest", f"Value for {HEADER_PREFIX}{name} header is invalid.")
    return digest


def check(name: str, expected: bytes, actual: bytes) -> None:
    if not hmac.compare_digest(expected, actual):
        raise S3Error("BadDigest", f"The {name.upper()} you specified did not match the calculated checksum.")


def combine(name: str, parts: Iterable[tuple[bytes, int]]) -> bytes:
    """FULL_OBJECT checksum from the digests and lengths of the parts in order, without reading them again."""
    algorithm = ALGORITHMS[name]
    if algorithm.combine is None:
        raise ValueError(f"{name} can't be combined")
    value = 0
    for digest, length in parts:
        value = algorithm.combine(value, int.from_bytes(digest, "big"), length)
    return value.to_bytes(algorithm.size, "big")


def composite(name: str, digests: Sequence[bytes]) -> str:
    """COMPOSITE checksum: digest over the raw part digests, written `B64-N`."""
    hasher = new_hasher(name)
    hasher.update(b"".join(digests))
    return f"{encode(hasher.digest())}-{len(digests)}"


class Requested(NamedTuple):
    """What a client wants checked. algorithm "": nothing. digest None: it comes as a trailer."""

    algorithm: str = ""
    digest: bytes | None = None

    @property
    def in_trailer(self) -> bool:
        return bool(self.algorithm) and self.digest is None


def trailer_names(headers: Mapping[str, str]) -> list[str]:
    """Lower-case names that `x-amz-trailer` announces. Only checksums are legal, and only one."""
    value = headers.get("x-amz-trailer")
    if not value:
        return []
    names = [name for name in (part.strip().lower() for part in value.split(",")) if name]
    for name in names:
        algorithm = ALGORITHMS.get(name.removeprefix(HEADER_PREFIX)) if name.startswith(HEADER_PREFIX) else None
        if algorithm is None or algorithm.make is None:
            raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported.")
    if len(names) > 1:
        raise S3Error("InvalidRequest", "Expecting a single x-amz-checksum- header, also in the trailer.")
    return names


def requested(headers: Mapping[str, str]) -> Requested:
    """Which checksum a request carries, in a header or announced as trailer; 400 `InvalidRequest` if they disagree."""
    sent = [n for n in headers if n.startswith(HEADER_PREFIX) and n not in _OTHER_HEADERS]
    trailers = trailer_names(headers)
    if len(sent) > 1:
        raise S3Error(
            "InvalidRequest", "Expecting a single x-amz-checksum- header. Multiple checksum types are not allowed."
        )
    if sent and trailers:
        raise S3Error("InvalidRequest", "A checksum may be sent as a header or as a trailer, not as both.")
    result = Requested()
    if sent:
        algorithm = find_algorithm(sent[0][len(HEADER_PREFIX) :])
        result = Requested(algorithm.name, decode(algorithm.name, headers[sent[0]]))
    elif trailers:
        result = Requested(trailers[0][len(HEADER_PREFIX) :])
    named = headers.get("x-amz-sdk-checksum-algorithm")
    if named:
        algorithm = find_algorithm(named)
        if not result.algorithm:
            raise S3Error(
                "InvalidRequest",
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer "
                "headers were found.",
            )
        if algorithm.name != result.algorithm:
            raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")
    return result


def content_md5(headers: Mapping[str, str]) -> bytes | None:
    """The digest of Content-MD5, None if absent; malformed is 400 `InvalidDigest`."""
    value = headers.get("content-md5")
    if value is None:
        return None
    try:
        digest = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise S3Error("InvalidDigest")
    return digest


def multipart_kind(headers: Mapping[str, str]) -> tuple[str, str]:
    """Algorithm and type of a new multipart upload, ("", "") if none is asked for."""
    name, kind = headers.get("x-amz-checksum-algorithm", ""), headers.get("x-amz-checksum-type", "").strip().upper()
    if not name:
        if kind:
            raise S3Error("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm beside it.")
        return "", ""
    algorithm = find_algorithm(name)
    kind = kind or algorithm.types[0]
    if kind not in _BOTH:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if kind not in algorithm.types:
        raise S3Error(
            "InvalidRequest",
            f"The {kind} checksum type cannot be used with the {algorithm.name} checksum algorithm.",
        )
    return algorithm.name, kind
