# SPDX-License-Identifier: Apache-2.0
"""The Range header: which bytes of a file are wanted. Pure functions. Source: spec webdav §7; RFC 9110 §14."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateways.webdav.errors import DavError

MAX_RANGES: Final = 16
_MAX_DIGITS: Final = 18


class Range(NamedTuple):
    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return int(text) if len(text) <= _MAX_DIGITS else 10**_MAX_DIGITS


def parse(header: str | None, size: int) -> list[Range]:
    """Ranges in the order asked, overlapping ones merged; [] means the whole file (bad syntax, too many).

    416 if no byte of the file is meant.
    """
    if not header:
        return []
    unit, equals, spec = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return []
    found: list[Range] = []
    asked = spec.split(",")
    if len(asked) > 4 * MAX_RANGES:
        return []
    for part in asked:
        first, dash, last = part.strip().partition("-")
        if not dash:
            return []
        if not first:
            suffix = _number(last)
            if suffix is None:
                return []
            if suffix and size:
                found.append(Range(size - min(suffix, size), min(suffix, size)))
            continue
        start, stop = _number(first), _number(last) if last else size - 1
        if start is None or stop is None or (last and stop < start):
            return []
        if start < size:
            found.append(Range(start, min(stop, size - 1) - start + 1))
    if not found:
        raise DavError(416, "No byte of the file lies in the range.", headers=[("Content-Range", f"bytes */{size}")])
    merged = _merged(found)
    return merged if len(merged) <= MAX_RANGES else []


def _merged(ranges: list[Range]) -> list[Range]:
    """Overlapping and touching ranges become one, where they stand first."""
    if len(ranges) == 1:
        return ranges
    out: list[Range] = []
    for each in ranges:
        for at, other in enumerate(out):
            if each.start <= other.start + other.length and other.start <= each.start + each.length:
                start = min(each.start, other.start)
                stop = max(each.start + each.length, other.start + other.length)
                out[at] = Range(start, stop - start)
                break
        else:
            out.append(each)
    return out if len(out) == len(ranges) else _merged(out)
