# SPDX-License-Identifier: Apache-2.0
"""How a plain block becomes the bytes of an object: not at all, one raw LZ4 block, or one Zstandard frame.

Pure functions over buffers; the C libraries release the GIL, so whole blocks are coded in threads by the caller.
Source: data-path §3.1, pitfalls §15 (2–4). There is no marker in an object: the volume's setting says how to decode,
the key says the plain length.
"""

from __future__ import annotations

import threading
from typing import Protocol

import lz4.block
import zstandard

from core.errors import ConfigError, DataCorrupt
from core.object.api import Buffer


class Codec(Protocol):
    """One compression. Thread-safe."""

    name: str
    #: Objects hold the plain bytes, so parts of them can be read.
    plain: bool

    def bound(self, n: int) -> int:
        """Longest object that a reader accepts for a block of n bytes."""
        ...

    def encode(self, data: Buffer) -> Buffer: ...

    def decode(self, raw: Buffer, n: int) -> Buffer:
        """The n plain bytes; raises DataCorrupt unless the object decodes to exactly that many."""
        ...


class Plain:
    name = "none"
    plain = True

    def bound(self, n: int) -> int:
        return n

    def encode(self, data: Buffer) -> Buffer:
        return data

    def decode(self, raw: Buffer, n: int) -> Buffer:
        _not_empty(raw, n)
        if len(raw) < n:
            raise DataCorrupt(f"object of {len(raw)} bytes is shorter than its block ({n})")
        return raw if len(raw) == n else memoryview(raw)[:n]


class Lz4:
    name = "lz4"
    plain = False

    def bound(self, n: int) -> int:
        return n + n // 255 + 16

    def encode(self, data: Buffer) -> Buffer:
        # Stored even if larger than the input: a reader has no way to know (§3.1).
        out: bytes = lz4.block.compress(data, store_size=False)
        return out

    def decode(self, raw: Buffer, n: int) -> Buffer:
        _not_empty(raw, n)
        _within(raw, self.bound(n), n)
        try:
            out: bytes = lz4.block.decompress(raw, uncompressed_size=n)
        except (lz4.block.LZ4BlockError, ValueError) as e:
            raise DataCorrupt(f"{len(raw)} bytes are no LZ4 block of {n} bytes: {e}") from e
        return _exact(out, n)


class Zstd:
    name = "zstd"
    plain = False

    def __init__(self) -> None:
        # (De)compressor objects are not thread-safe; one pair per thread.
        self._local = threading.local()

    def bound(self, n: int) -> int:
        return n + (n >> 8) + ((131072 - n) >> 11 if n < 131072 else 0)

    def encode(self, data: Buffer) -> Buffer:
        compressor: zstandard.ZstdCompressor | None = getattr(self._local, "compressor", None)
        if compressor is None:
            # The content size is a must: without it the reference reader fails for most blocks (§3.1).
            compressor = zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)
            self._local.compressor = compressor
        return compressor.compress(data)

    def decode(self, raw: Buffer, n: int) -> Buffer:
        _not_empty(raw, n)
        _within(raw, self.bound(n), n)
        decompressor: zstandard.ZstdDecompressor | None = getattr(self._local, "decompressor", None)
        if decompressor is None:
            decompressor = self._local.decompressor = zstandard.ZstdDecompressor()
        try:
            # The header is read first, so that a damaged size can't make us allocate gigabytes.
            size = zstandard.frame_content_size(raw)
            if size > n:
                raise DataCorrupt(f"zstd frame says {size} bytes, the block has {n}")
            out = decompressor.decompress(raw, max_output_size=n)
        except zstandard.ZstdError as e:
            raise DataCorrupt(f"{len(raw)} bytes are no zstd frame of {n} bytes: {e}") from e
        return _exact(out, n)


def codec_for(compression: str) -> Codec:
    """The codec of a volume's `Compression` setting (case-insensitive; empty is none)."""
    match compression.lower():
        case "" | "none":
            return Plain()
        case "lz4":
            return Lz4()
        case "zstd":
            return Zstd()
    raise ConfigError(f"compression {compression!r} is unknown; the volume format knows none, lz4 and zstd")


def _not_empty(raw: Buffer, n: int) -> None:
    if not len(raw):
        raise DataCorrupt(f"object is empty, its block has {n} bytes")


def _within(raw: Buffer, bound: int, n: int) -> None:
    if len(raw) > bound:
        raise DataCorrupt(f"object of {len(raw)} bytes is too long for a block of {n} bytes (at most {bound})")


def _exact(out: bytes, n: int) -> bytes:
    if len(out) != n:
        raise DataCorrupt(f"object decodes to {len(out)} bytes, its block has {n}")
    return out
