# SPDX-License-Identifier: Apache-2.0
"""What the name of an object tells: a block's says how long the block is, `…/<slice id>_<index>_<bytes>`.

Pure; layers use it to know the size of a read before its answer. Source: spec data-path §1.1.
"""

from __future__ import annotations


def named_size(key: str) -> int | None:
    """Bytes of the block as the file system sees it (stored ones may be fewer or a few more); None: no block's name."""
    text = key[key.rfind("_") + 1 :]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 and len(text) < len(key) else None
