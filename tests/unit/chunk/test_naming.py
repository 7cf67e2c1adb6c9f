# SPDX-License-Identifier: Apache-2.0
"""Block keys: check vectors of data-path §1.1."""

from __future__ import annotations

import pytest

from core.chunk.naming import block_count, block_key, block_length, iter_blocks, parse_block_key

B = 4 << 20


@pytest.mark.parametrize(
    ("slice_id", "plain", "hashed"),
    [
        (1, "chunks/0/0/1_0_4194304", "chunks/01/0/1_0_4194304"),
        (999, "chunks/0/0/999_0_4194304", "chunks/E7/0/999_0_4194304"),
        (1000, "chunks/0/1/1000_0_4194304", "chunks/E8/0/1000_0_4194304"),
        (1234567, "chunks/1/1234/1234567_0_4194304", "chunks/87/1/1234567_0_4194304"),
        (98765432101, "chunks/98765/98765432/98765432101_0_4194304", "chunks/25/98765/98765432101_0_4194304"),
    ],
)
def test_keys_match_the_check_vectors(slice_id: int, plain: str, hashed: str) -> None:
    assert block_key(slice_id, 0, B) == plain
    assert block_key(slice_id, 0, B, True) == hashed
    assert parse_block_key(plain) == parse_block_key(hashed) == (slice_id, 0, B)


def test_blocks_of_a_slice_cover_it_exactly() -> None:
    assert list(iter_blocks(7, 0, B)) == []
    assert list(iter_blocks(7, B, B)) == [(7, 0, B)]
    assert list(iter_blocks(7, B + 1, B)) == [(7, 0, B), (7, 1, 1)]
    assert block_count(64 << 20, B) == 16
    assert [block_length(B + 1, i, B) for i in range(2)] == [B, 1]
    for index in (-1, 2):
        with pytest.raises(ValueError, match="has no block"):
            block_length(B + 1, index, B)


@pytest.mark.parametrize(
    "name",
    ["", "chunks", "juicefs_uuid", "chunks/0/0/1_0", "chunks/0/0/1_0_x", "chunks/e7/0/1_0_5", "chunks/0/0/1_0_5.tmp",
     "xchunks/0/0/1_0_5", "chunks/0/0/1_0_5\n", "chunks/0/0/١_0_5"],
)  # fmt: skip
def test_other_names_are_no_blocks(name: str) -> None:
    assert parse_block_key(name) is None
