# SPDX-License-Identifier: Apache-2.0
"""Ranges, part numbers, conditional requests, tags."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateways.s3 import conditions, tags
from gateways.s3.errors import S3Error
from gateways.s3.ranges import PartRange, Range, parse_copy_range, parse_range, part_range
from gateways.s3.xml_text import http_time
from tests.unit.s3.helpers import code_of


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        (None, 10, None), ("", 10, None), ("bytes=0-4", 10, (0, 5)), ("bytes=0-0", 10, (0, 1)),
        ("bytes=9-9", 10, (9, 1)),
        ("bytes=5-", 10, (5, 5)), ("bytes=-3", 10, (7, 3)), ("bytes=-30", 10, (0, 10)), ("bytes=5-99", 10, (5, 5)),
        ("Bytes=5-99", 10, (5, 5)), ("bytes=0-" + "9" * 5000, 10, (0, 10)), ("bytes=-" + "9" * 5000, 10, (0, 10)),
        ("bytes=5-4", 10, None), ("bytes=a-b", 10, None), ("bytes=-", 10, None), ("bytes=", 10, None),
        ("bytes", 10, None),
        ("lines=0-1", 10, None), ("bytes=0-1,3-4", 10, None), ("bytes=+1-2", 10, None), ("bytes=1_0-20", 99, None),
        ("bytes=--5", 10, None), ("bytes=1-2-3", 10, None), ("bytes=٣-٤", 10, None),
        ("bytes=10-", 10, "416"), ("bytes=10-12", 10, "416"), ("bytes=-0", 10, "416"), ("bytes=0-0", 0, "416"),
        ("bytes=-5", 0, "416"), ("bytes=0-", 0, "416"), ("bytes=" + "9" * 5000 + "-", 10, "416"),
    ],
)  # fmt: skip
def test_ranges(header, size, expected):
    if expected == "416":
        with pytest.raises(S3Error) as e:
            parse_range(header, size)
        assert (e.value.status, e.value.code) == (416, "InvalidRange")
        assert e.value.headers == (("Content-Range", f"bytes */{size}"),)
        assert dict(e.value.extra)["ActualObjectSize"] == str(size)
    else:
        assert parse_range(header, size) == expected


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 20))
def test_a_range_selects_what_a_slice_selects(first, last, size):
    data = bytes(range(size))
    try:
        found = parse_range(f"bytes={first}-{last}", size)
    except S3Error:
        assert not data[first : last + 1]
        return
    if found is None:
        assert last < first
        return
    assert data[found.start : found.start + found.length] == data[first : last + 1]
    assert found.content_range(size) == f"bytes {first}-{min(last, size - 1)}/{size}"


def test_copy_ranges():
    assert parse_copy_range("bytes=0-9", 10) == Range(0, 10)
    for bad in ("", "bytes=0-", "bytes=-5", "0-5", "bytes=5-4", "bytes=a-b", "bytes=0-1,2-3", "Bytes=0-1"):
        assert code_of(parse_copy_range, bad, 10) == (400, "InvalidArgument")
    assert code_of(parse_copy_range, "bytes=0-10", 10) == (416, "InvalidRange")


def test_part_numbers():
    runs = [(5, 2), (3, 1)]
    assert [part_range(n, 13, runs) for n in (1, 2, 3)] == [
        PartRange(Range(0, 5), 3), PartRange(Range(5, 5), 3), PartRange(Range(10, 3), 3),
    ]  # fmt: skip
    assert code_of(part_range, 4, 13, runs) == (416, "InvalidPartNumber")
    assert code_of(part_range, 3, 12, runs) == (416, "InvalidPartNumber")
    assert part_range(1, 7) == PartRange(Range(0, 7), 0)
    assert part_range(1, 0) == PartRange(None, 0)
    assert code_of(part_range, 2, 7) == (416, "InvalidPartNumber")
    assert code_of(part_range, 0, 7) == (400, "InvalidArgument")


NOW = 1_700_000_000
T = NOW - 1000
FAILED = (412, "PreconditionFailed")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "ok"),
        ({"if-match": '"e"'}, "ok"),
        ({"if-match": "e"}, "ok"),
        ({"if-match": '"x", W/"e"'}, "ok"),
        ({"if-match": "*"}, "ok"),
        ({"if-match": '"x"'}, "412"),
        ({"if-match": ""}, "412"),
        ({"if-none-match": '"e"'}, "304"),
        ({"if-none-match": "*"}, "304"),
        ({"if-none-match": '"x"'}, "ok"),
        ({"if-unmodified-since": http_time(T)}, "ok"),
        ({"if-unmodified-since": http_time(T - 1)}, "412"),
        ({"if-modified-since": http_time(T)}, "304"),
        ({"if-modified-since": http_time(T - 1)}, "ok"),
        ({"if-modified-since": http_time(NOW + 5)}, "ok"),
        ({"if-modified-since": "yesterday"}, "ok"),
        ({"if-unmodified-since": "yesterday"}, "ok"),
        # A matching If-Match suppresses If-Unmodified-Since; If-None-Match suppresses If-Modified-Since.
        ({"if-match": "e", "if-unmodified-since": http_time(T - 1)}, "ok"),
        ({"if-none-match": '"x"', "if-modified-since": http_time(T)}, "ok"),
        ({"if-none-match": '"e"', "if-modified-since": http_time(T - 1)}, "304"),
        ({"if-match": "x", "if-none-match": "e"}, "412"),
    ],
)
def test_read_conditions(headers, expected):
    source = {"x-amz-copy-source-" + name: value for name, value in headers.items()}
    if expected == "412":
        assert code_of(conditions.not_modified, headers, "e", T, NOW) == FAILED
    else:
        assert conditions.not_modified(headers, "e", T, NOW) == (expected == "304")
    if expected == "ok":
        conditions.check_source(source, "e", T, NOW, "x-amz-copy-source-")
    else:  # a copy is never answered with 304
        assert code_of(conditions.check_source, source, "e", T, NOW, "x-amz-copy-source-") == FAILED


def test_write_conditions():
    none = conditions.parse_write({})
    assert not none
    none.check(None)
    absent = conditions.parse_write({"if-none-match": "*"})
    assert absent
    assert absent.must_be_absent
    absent.check(None)
    assert code_of(absent.check, "e") == FAILED
    assert absent.lost_race().code == "ConditionalRequestConflict"
    assert absent.lost_race(before_body=True).code == "PreconditionFailed"
    other = conditions.parse_write({"if-none-match": '"e"'})
    other.check(None)
    other.check("x")
    assert not other.must_be_absent
    assert code_of(other.check, "e") == FAILED
    match = conditions.parse_write({"if-match": '"e"'})
    match.check("e")
    assert code_of(match.check, "x") == FAILED
    assert code_of(match.check, None) == (404, "NoSuchKey")
    assert code_of(conditions.parse_write({"if-match": "*"}).check, None) == (404, "NoSuchKey")
    both = conditions.parse_write({"if-match": "e", "if-none-match": "e"})
    assert code_of(both.check, "e") == FAILED


def test_delete_conditions():
    assert not conditions.parse_delete({})
    good = {"if-match": '"e"', "x-amz-if-match-size": "5", "x-amz-if-match-last-modified-time": http_time(T)}
    found = conditions.parse_delete(good)
    assert found
    found.check("e", 5, T)
    for changed in (("x", 5, T), ("e", 6, T), ("e", 5, T + 1)):
        assert code_of(found.check, *changed) == FAILED
    conditions.delete_conditions("", None, "2023-11-14T22:13:20.000Z").check("e", 1, NOW)
    assert code_of(conditions.delete_conditions, None, "x", None) == (400, "InvalidArgument")
    assert code_of(conditions.delete_conditions, None, None, "soon") == (400, "InvalidArgument")


def test_tags():
    pairs = [("a", "b c"), ("k+-=._:/@ é", ""), ("x", "1")]
    tags.check_tags(pairs)
    assert tags.parse_tag_query(tags.format_tag_query(pairs)) == pairs
    assert tags.parse_tag_query("a=1&&b&c=x%26y+z") == [("a", "1"), ("b", ""), ("c", "x&y z")]
    assert code_of(tags.parse_tag_query, "a=%ff") == (400, "InvalidTag")
    assert code_of(tags.check_tags, [(str(i), "") for i in range(11)]) == (400, "BadRequest")
    tags.check_tags([(str(i), "") for i in range(50)], limit=tags.MAX_BUCKET_TAGS)
    for bad in (
        [("", "v")],
        [("k" * 129, "v")],
        [("k", "v" * 257)],
        [("k", "v"), ("k", "w")],
        [("k<", "v")],
        [("k", "\n")],
    ):
        assert code_of(tags.check_tags, bad) == (400, "InvalidTag")
