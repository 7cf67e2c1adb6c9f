# SPDX-License-Identifier: Apache-2.0
"""Encodings of blocks: what other clients read, and what we refuse (data-path §3.1)."""

from __future__ import annotations

import lz4.block
import pytest
import zstandard
from hypothesis import given, strategies as st

from core.chunk.encoding import Codec, codec_for
from core.errors import ConfigError, DataCorrupt

from .doubles import noise

NAMES = ["none", "lz4", "zstd"]


@pytest.fixture(params=NAMES)
def codec(request: pytest.FixtureRequest) -> Codec:
    return codec_for(request.param)


@pytest.mark.parametrize("data", [b"a", b"hello" * 1000, noise(70_000), bytes(4 << 20), noise(4 << 20)])
def test_a_block_survives_and_its_object_stays_within_the_bound(codec: Codec, data: bytes) -> None:
    raw = codec.encode(memoryview(bytearray(data)))
    assert len(raw) <= codec.bound(len(data))
    assert codec.decode(raw, len(data)) == data


def test_incompressible_blocks_are_stored_compressed_all_the_same() -> None:
    data = noise(1000)
    for name in ("lz4", "zstd"):
        assert len(codec_for(name).encode(data)) > len(data)


def test_lz4_objects_are_raw_blocks_without_a_length() -> None:
    raw = codec_for("lz4").encode(b"x" * 1000)
    assert lz4.block.decompress(bytes(raw), uncompressed_size=1000) == b"x" * 1000


def test_zstd_objects_are_one_frame_with_content_size_and_no_checksum() -> None:
    raw = codec_for("zstd").encode(noise(100_000))
    frame = zstandard.get_frame_parameters(bytes(raw))
    assert (frame.content_size, frame.has_checksum) == (100_000, False)


@pytest.mark.parametrize(
    "options", [{"level": 19}, {"level": 3, "write_checksum": True}, {"write_content_size": False}]
)
def test_zstd_frames_of_any_writer_are_read(options: dict[str, object]) -> None:
    data = b"some text " * 5000
    raw = zstandard.ZstdCompressor(**options).compress(data)
    assert codec_for("zstd").decode(raw, len(data)) == data


@pytest.mark.parametrize("n", [1, 99, 101])
@pytest.mark.parametrize("name", ["lz4", "zstd"])
def test_an_object_of_another_length_is_corrupt(name: str, n: int) -> None:
    codec = codec_for(name)
    raw = codec.encode(b"a" * 100)
    with pytest.raises(DataCorrupt):
        codec.decode(raw, n)


def test_uncompressed_objects_may_be_longer_but_not_shorter() -> None:
    codec = codec_for("")
    assert codec.decode(b"hello world", 5) == b"hello"
    with pytest.raises(DataCorrupt, match="shorter"):
        codec.decode(b"hell", 5)


def test_an_empty_object_is_corrupt(codec: Codec) -> None:
    with pytest.raises(DataCorrupt, match="empty"):
        codec.decode(b"", 5)


def test_an_object_beyond_the_bound_is_corrupt() -> None:
    for name in ("lz4", "zstd"):
        codec = codec_for(name)
        with pytest.raises(DataCorrupt, match="too long"):
            codec.decode(bytes(codec.bound(100) + 1), 100)


def test_a_zstd_bomb_is_refused_before_it_unpacks() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    with pytest.raises(DataCorrupt, match="says 67108864"):
        codec_for("zstd").decode(bomb, 65536)


@given(st.sampled_from(NAMES[1:]), st.binary(min_size=1, max_size=300), st.data())
def test_damaged_objects_never_raise_anything_but_corrupt(name: str, data: bytes, draw: st.DataObject) -> None:
    codec = codec_for(name)
    raw = bytearray(codec.encode(data))
    at = draw.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= draw.draw(st.integers(1, 255))
    try:
        assert len(codec.decode(bytes(raw), len(data))) == len(data)
    except DataCorrupt:
        pass


def test_names_are_case_insensitive_and_unknown_ones_are_refused() -> None:
    assert codec_for("LZ4").name == "lz4"
    assert codec_for("Zstd").name == "zstd"
    assert codec_for("none").plain
    with pytest.raises(ConfigError, match="gzip"):
        codec_for("gzip")
