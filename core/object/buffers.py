# SPDX-License-Identifier: Apache-2.0
"""One buffer or a sequence of them, seen as bytes without copying; ranges clipped to an object's end.

Pure helpers for stores and decorators. Source: the contract in core/object/api.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.object.api import Buffer

#: Flat byte views (a name of its own, because `list` is a method inside stores).
Views = list[memoryview]


def views(data: Buffer | Sequence[Buffer]) -> Views:
    """The non-empty parts as flat byte views."""
    if isinstance(data, bytes | bytearray | memoryview):
        data = (data,)
    result = []
    for part in data:
        view = memoryview(part)
        if view.nbytes:
            # A view of wider items counts items in len(); everything here counts bytes.
            result.append(view if view.format == "B" and view.ndim == 1 else view.cast("B"))
    return result


def total(data: Buffer | Sequence[Buffer]) -> int:
    """Length in bytes."""
    if isinstance(data, bytes | bytearray):
        return len(data)
    if isinstance(data, memoryview):
        return data.nbytes
    return sum(memoryview(part).nbytes for part in data)


def joined(data: Buffer | Sequence[Buffer]) -> Buffer:
    """One contiguous buffer; copies only if there are several parts."""
    if isinstance(data, bytes | bytearray):
        return data
    parts = views(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def clip(size: int, start: int, length: int | None) -> tuple[int, int]:
    """(start, length) of the part of an object of `size` bytes that a range asks for; empty at or after the end."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"a range has no negative start or length (start {start}, length {length})")
    begin = min(start, size)
    rest = size - begin
    return begin, rest if length is None else min(length, rest)


def frozen(data: Buffer | Sequence[Buffer]) -> bytes:
    """Bytes that stay what they are when the caller reuses its buffers; copies whatever is not one `bytes` already.

    For clients that keep a reference after a call was cancelled (4 MiB: 0.4 ms).
    """
    return data if isinstance(data, bytes) else b"".join(views(data))
