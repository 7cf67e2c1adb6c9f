# SPDX-License-Identifier: Apache-2.0
"""Rows → binary parameters: each column of many rows is one array, as `unnest` takes it apart again.

Layout (PostgreSQL, array_recv): i32 dimensions | i32 has nulls | u32 element type | i32 length | i32 lower bound |
then per element i32 size (-1: NULL) and that many bytes. All big endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

INT4: Final = "int4"
INT8: Final = "int8"
BYTEA: Final = "bytea"
TEXT: Final = "text"

#: Element type -> (its oid, the array's oid). Fixed numbers of the system catalogue.
OIDS: Final = {INT4: (23, 1007), INT8: (20, 1016), BYTEA: (17, 1001), TEXT: (25, 1009)}

_HEAD: Final = struct.Struct(">iiIii")
_SIZE: Final = struct.Struct(">i")
_NULL: Final = _SIZE.pack(-1)


@lru_cache(maxsize=1024)
def _packer(kind: str, count: int) -> struct.Struct:
    return struct.Struct(">iiIii" + ("iq" if kind == INT8 else "ii") * count)


def array(kind: str, values: Sequence[Any]) -> bytes:
    """struct.error if a number doesn't fit."""
    count = len(values)
    oid = OIDS[kind][0]
    if kind is INT8 or kind is INT4:
        if None in values:
            one, size = (struct.Struct(">iq"), 8) if kind == INT8 else (struct.Struct(">ii"), 4)
            body = [_NULL if v is None else one.pack(size, v) for v in values]
            return b"".join((_HEAD.pack(1, 1, oid, count, 1), *body))
        flat = [8 if kind is INT8 else 4] * (2 * count)
        flat[1::2] = values
        return _packer(kind, count).pack(1, 0, oid, count, 1, *flat)
    size_of = _SIZE.pack
    parts = [_HEAD.pack(1, int(None in values), oid, count, 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(size_of(len(value)))
            parts.append(value)
    return b"".join(parts)


def columns(kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[bytes]:
    """One array per column. There is at least one row."""
    return [array(kind, values) for kind, values in zip(kinds, zip(*rows, strict=True), strict=True)]


_INT8: Final = struct.Struct(">q")


def scalar(kind: str, value: Any) -> bytes:
    return _INT8.pack(value) if kind == INT8 else _SIZE.pack(value) if kind == INT4 else bytes(value)
