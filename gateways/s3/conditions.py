# SPDX-License-Identifier: Apache-2.0
"""Conditional requests: reads, copy sources, writes and deletes. Pure functions on headers and what was found.

ETags are given without quotes; times are whole seconds, as `Last-Modified` shows them.
Source: spec s3 §11.3 (reads), §11.4 (deletes), §11.5 (copies), §11.6 (writes), §11.7 (renames); RFC 9110 §13.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz
from typing import NamedTuple

from gateways.s3.errors import S3Error


def plain_etag(text: str) -> str:
    """Without weak prefix and quotes."""
    return text.strip().removeprefix("W/").strip('"')


def etag_matches(header: str, etag: str) -> bool:
    """Is an ETag among those of a header? `*` matches everything."""
    if header.strip() == "*":
        return True
    return any(plain_etag(part) == etag for part in header.split(","))


def parse_http_date(text: str) -> int | None:
    """Unix time of an HTTP date in any of its forms, None if it is none."""
    try:
        fields = parsedate_tz(text)
        return None if fields is None else int(mktime_tz(fields))
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _failed(condition: str) -> S3Error:
    return S3Error("PreconditionFailed", extra=(("Condition", condition),))


def not_modified(headers: Mapping[str, str], etag: str, mtime_s: int, now: float, prefix: str = "") -> bool:
    """Evaluate If-Match, If-Unmodified-Since, If-None-Match, If-Modified-Since in the order of RFC 9110.

    True: answer 304 (ETag, Last-Modified, Cache-Control, no body). Raises 412 `PreconditionFailed`.
    prefix: in front of the header names, such as `x-amz-copy-source-`. Dates of the future or unparsable are ignored.
    """
    match = headers.get(prefix + "if-match")
    if match is not None:
        if not etag_matches(match, etag):
            raise _failed(prefix + "If-Match")
    elif (value := headers.get(prefix + "if-unmodified-since")) is not None:
        since = parse_http_date(value)
        if since is not None and mtime_s > since:
            raise _failed(prefix + "If-Unmodified-Since")
    none_match = headers.get(prefix + "if-none-match")
    if none_match is not None:
        return etag_matches(none_match, etag)
    if (value := headers.get(prefix + "if-modified-since")) is not None:
        since = parse_http_date(value)
        return since is not None and since <= now and mtime_s <= since
    return False


def check_source(headers: Mapping[str, str], etag: str, mtime_s: int, now: float, prefix: str) -> None:
    """Conditions on the source of a copy (`x-amz-copy-source-`) or rename (`x-amz-rename-source-`): always 412."""
    if not_modified(headers, etag, mtime_s, now, prefix):
        name = "If-None-Match" if prefix + "if-none-match" in headers else "If-Modified-Since"
        raise _failed(prefix + name)


class WriteConditions(NamedTuple):
    """Conditions on the key that is about to be written. Test them before the body is read, and again at publish."""

    if_match: str | None = None
    if_none_match: str | None = None

    def __bool__(self) -> bool:
        return self.if_match is not None or self.if_none_match is not None

    @property
    def must_be_absent(self) -> bool:
        """`If-None-Match: *`: publish without replacing."""
        return self.if_none_match is not None and self.if_none_match.strip() == "*"

    def check(self, etag: str | None) -> None:
        """etag: of the present object, None if there is none."""
        if self.if_match is not None:
            if etag is None:
                raise S3Error("NoSuchKey")
            if not etag_matches(self.if_match, etag):
                raise _failed("If-Match")
        if self.if_none_match is not None and etag is not None and etag_matches(self.if_none_match, etag):
            raise _failed("If-None-Match")

    def lost_race(self, *, before_body: bool = False) -> S3Error:
        """The answer when the key changed between check and publish."""
        return (
            _failed("If-None-Match" if self.must_be_absent else "If-Match")
            if before_body
            else S3Error("ConditionalRequestConflict")
        )


def parse_write(headers: Mapping[str, str]) -> WriteConditions:
    return WriteConditions(headers.get("if-match"), headers.get("if-none-match"))


class DeleteConditions(NamedTuple):
    """Conditions of DeleteObject, or of one entry of DeleteObjects."""

    etag: str | None = None
    size: int | None = None
    mtime_s: int | None = None

    def __bool__(self) -> bool:
        return self != (None, None, None)

    def check(self, etag: str, size: int, mtime_s: int) -> None:
        """For a key that exists; deleting a missing one is always success."""
        if self.etag is not None and not etag_matches(self.etag, etag):
            raise _failed("If-Match")
        if self.size is not None and self.size != size:
            raise _failed("x-amz-if-match-size")
        if self.mtime_s is not None and self.mtime_s != mtime_s:
            raise _failed("x-amz-if-match-last-modified-time")


def delete_conditions(etag: str | None, size: str | int | None, last_modified: str | None) -> DeleteConditions:
    """Malformed sizes and times are 400 `InvalidArgument`: ignoring them would delete what should be kept."""
    number: int | None = None
    if size is not None and size != "":
        text = str(size).strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 18:
            raise S3Error("InvalidArgument", "The size to match must be a number of bytes.")
        number = int(text)
    seconds: int | None = None
    if last_modified:
        seconds = parse_http_date(last_modified)
        if seconds is None:
            seconds = _parse_iso(last_modified)
        if seconds is None:
            raise S3Error("InvalidArgument", "The last-modified time to match is not a valid date.")
    return DeleteConditions(etag or None, number, seconds)


def parse_delete(headers: Mapping[str, str]) -> DeleteConditions:
    return delete_conditions(
        headers.get("if-match"), headers.get("x-amz-if-match-size"), headers.get("x-amz-if-match-last-modified-time")
    )


def _parse_iso(text: str) -> int | None:
    """`YYYY-MM-DDTHH:MM:SS[.mmm]Z`, as XML bodies have it."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
