# SPDX-License-Identifier: Apache-2.0
"""CRC-32C (Castagnoli) over any buffers, without copying where the library allows it.

The `crc32c` package takes every buffer, releases the GIL and needs 0.25 ms for 4 MiB; `google-crc32c` needs 0.85 ms
and read-only bytes. Source: spec data-path §3.4; check value of `123456789` is 3808858755.
"""

from __future__ import annotations

from collections.abc import Callable

from core.object.buffers import Views

_extend: Callable[[memoryview, int], int]
try:
    import crc32c as _fast

    _extend = _fast.crc32c
except ImportError:
    import google_crc32c

    def _copying(data: memoryview, value: int) -> int:
        return int(google_crc32c.extend(value, bytes(data)))

    _extend = _copying


def crc32c(parts: Views) -> int:
    """Checksum of the parts one after another."""
    value = 0
    for part in parts:
        value = _extend(part, value)
    return value
