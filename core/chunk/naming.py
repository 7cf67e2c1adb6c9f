# SPDX-License-Identifier: Apache-2.0
"""Names of blocks: slice id, block index and plain length make the key of an object.

Pure functions. Source: data-path §1.1. Keys are relative to the volume's prefix; the last number is the plain length
of the block whatever compression or encryption does to the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

#: (slice id, block index, plain length): all that a block's key says, and how caches call a block.
BlockId = tuple[int, int, int]

MIN_BLOCK_SIZE: Final = 1 << 16
MAX_BLOCK_SIZE: Final = 1 << 24

# Plain: chunks/<id//10^6>/<id//10^3>/…; hashed: chunks/<HH>/<id//10^6>/… with HH in upper-case hex.
_KEY = re.compile(r"chunks/(?:[0-9]+|[0-9A-F]{2})/[0-9]+/([0-9]+)_([0-9]+)_([0-9]+)", re.ASCII)


def block_count(size: int, block_size: int) -> int:
    """Number of objects of a slice of `size` bytes (0 for an empty slice)."""
    return -(-size // block_size)


def block_length(size: int, index: int, block_size: int) -> int:
    """Plain length of block `index`. Raises ValueError if the slice has no such block."""
    left = size - index * block_size
    if index < 0 or left <= 0:
        raise ValueError(f"a slice of {size} bytes has no block {index} (block size {block_size})")
    return block_size if left > block_size else left


def block_key(slice_id: int, index: int, length: int, hash_prefix: bool = False) -> str:
    if hash_prefix:
        return f"chunks/{slice_id % 256:02X}/{slice_id // 1000000}/{slice_id}_{index}_{length}"
    return f"chunks/{slice_id // 1000000}/{slice_id // 1000}/{slice_id}_{index}_{length}"


def iter_blocks(slice_id: int, size: int, block_size: int) -> Iterator[BlockId]:
    """All blocks of a slice in order."""
    for index in range(block_count(size, block_size)):
        yield slice_id, index, min(block_size, size - index * block_size)


def parse_block_key(key: str) -> BlockId | None:
    """Inverse of `block_key` for both layouts; None for any other name. The folders aren't compared with the id."""
    match = _KEY.fullmatch(key)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
