# SPDX-License-Identifier: Apache-2.0
"""Which bytes of an object are wanted: Range, part numbers, and ranges of copied parts. Pure functions.

Source: spec s3 §11.2 (reads), §12 (UploadPartCopy), §4.2 (part boundaries); RFC 9110 §14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gateways.s3.errors import S3Error

#: Longer numbers are beyond every object; int() of kilobytes of digits would be work for nothing.
_MAX_DIGITS = 18


class Range(NamedTuple):
    start: int
    length: int

    def content_range(self, size: int) -> str:
        """Value of the Content-Range header."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return int(text) if len(text) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _unsatisfiable(header: str, size: int) -> S3Error:
    return S3Error(
        "InvalidRange",
        extra=(("ActualObjectSize", str(size)), ("RangeRequested", header[:200])),
        headers=(("Content-Range", f"bytes */{size}"),),
    )


def parse_range(header: str | None, size: int) -> Range | None:
    """The part of an object that is asked for. None: everything (no range, wrong syntax, several ranges).

    Raises 416 `InvalidRange` if no byte of the object is meant.
    """
    if not header:
        return None
    unit, equals, spec = header.partition("=")
    if not equals or unit.strip().lower() != "bytes" or "," in spec:
        return None
    first, dash, last = spec.strip().partition("-")
    first, last = first.strip(), last.strip()
    if not dash:
        return None
    if not first:
        suffix = _number(last)
        if suffix is None:
            return None
        if suffix == 0 or size == 0:
            raise _unsatisfiable(header, size)
        length = min(suffix, size)
        return Range(size - length, length)
    start, stop = _number(first), _number(last) if last else size - 1
    if start is None or stop is None or (last and stop < start):
        return None
    if start >= size:
        raise _unsatisfiable(header, size)
    return Range(start, min(stop, size - 1) - start + 1)


def parse_copy_range(header: str, size: int) -> Range:
    """`x-amz-copy-source-range`: exactly `bytes=a-b`, else 400 `InvalidArgument`; beyond the source 416."""
    first, dash, last = header.removeprefix("bytes=").partition("-")
    start, stop = _number(first), _number(last)
    if not header.startswith("bytes=") or not dash or start is None or stop is None or stop < start:
        raise S3Error(
            "InvalidArgument",
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy.",
            extra=(("ArgumentName", "x-amz-copy-source-range"), ("ArgumentValue", header[:200])),
        )
    if stop >= size:
        raise _unsatisfiable(header, size)
    return Range(start, stop - start + 1)


class PartRange(NamedTuple):
    """range None: the object is empty, so there is no byte to point at. parts: number of parts, 0 if unknown."""

    range: Range | None
    parts: int


def part_range(number: int, size: int, runs: Sequence[tuple[int, int]] = ()) -> PartRange:
    """Bytes of part `number` (from 1). runs: (part size, count) from `s3-ext`; none for objects of a single upload."""
    if number < 1:
        raise S3Error("InvalidArgument", "Part number must be a positive integer.")
    if not runs:
        if number > 1:
            raise _no_part(1)
        return PartRange(Range(0, size) if size else None, 0)
    parts = sum(count for _, count in runs)
    start, before = 0, 0
    for part_size, count in runs:
        if number <= before + count:
            start += (number - 1 - before) * part_size
            if start + part_size > size:  # the record doesn't describe this content
                raise _no_part(1)
            return PartRange(Range(start, part_size) if part_size else None, parts)
        start += part_size * count
        before += count
    raise _no_part(parts)


def _no_part(parts: int) -> S3Error:
    return S3Error("InvalidPartNumber", extra=(("ActualPartCount", str(parts)),))
