# SPDX-License-Identifier: Apache-2.0
"""Names: paths to bucket and key, what is refused and with which code."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given, strategies as st

from gateways.s3.keys import (
    CopySource,
    Target,
    bucket_from_host,
    check_bucket_name,
    check_key,
    check_upload_id,
    parse_copy_source,
    parse_part_number,
    parse_path,
    percent_decode,
    valid_bucket_name,
    volume_path,
)
from tests.unit.s3.helpers import code_of

ARGUMENT = (400, "InvalidArgument")
TOO_LONG = (400, "KeyTooLongError")
HIDDEN = (403, "AllAccessDisabled")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", Target("", b"")),
        ("//", Target("", b"")),
        ("", Target("", b"")),
        ("*", Target("", b"")),
        ("/b", Target("b", b"")),
        ("/b/", Target("b", b"")),
        ("/b/k", Target("b", b"k")),
        ("/b/k/", Target("b", b"k/")),
        ("/b//k", Target("b", b"/k")),
        ("/b/a+b%2Bc%20d", Target("b", b"a+b+c d")),
        ("/b/a%2Fb", Target("b", b"a/b")),
        ("/b/%2525", Target("b", b"%25")),
        ("/b/%ff\xe9", Target("b", b"\xff\xe9")),
        ("/b/../x", Target("b", b"../x")),
    ],
)
def test_paths(path, expected):
    assert parse_path(path) == expected


def test_virtual_hosts():
    assert parse_path("/a/b", "bucket") == Target("bucket", b"a/b")
    assert parse_path("/", "bucket") == Target("bucket", b"")
    domains = ["example.com", "s3.example.com"]
    assert bucket_from_host("a.b.s3.example.com:9000", domains) == "a.b"
    assert bucket_from_host("b.example.com", domains) == "b"
    assert bucket_from_host("S3.Example.com", domains) == ""
    assert bucket_from_host("notexample.com", domains) == ""
    assert bucket_from_host("127.0.0.1:9000", domains) == ""
    assert bucket_from_host("[::1]:9000", domains) == ""
    assert bucket_from_host("b.example.com", []) == ""


@pytest.mark.parametrize("path", ["/b/%", "/b/%1", "/b/%zz", "/b/%%20", "/b/% 1", "/b/%+1"])
def test_broken_percent_encoding(path):
    assert code_of(parse_path, path) == (400, "InvalidURI")


def test_other_targets():
    assert code_of(parse_path, "http://h/b/k") == (400, "InvalidURI")
    assert code_of(parse_path, "//k") == (400, "InvalidBucketName")


@given(st.binary())
def test_decoding_reverses_encoding(raw):
    assert percent_decode(quote_from_bytes(raw, "").encode()) == raw


GOOD = ["abc", "a.b-c", "1a2", "a" * 63, "my.bucket.name", "1.2.3.4.5"]
BAD = ["ab", "a" * 64, "Abc", "a_b", "-ab", "ab-", ".ab", "ab.", "a..b", "a.-b", "a-.b", "192.168.0.1", "xn--abc",
       "sthree-x", "amzn-s3-demo-x", "abc-s3alias", "abc--ol-s3", "abc.mrap", "abc--x-s3", "minio", "äbc", "abc\n",
       "a b", ".sys", ""]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_bucket_names(name):
    assert valid_bucket_name(name)
    check_bucket_name(name, create=True)


@pytest.mark.parametrize("name", BAD)
def test_bad_bucket_names(name):
    assert not valid_bucket_name(name)
    if not name.startswith(".sys"):
        assert code_of(check_bucket_name, name) == (404, "NoSuchBucket")
        assert code_of(check_bucket_name, name, create=True) == (400, "InvalidBucketName")


def test_relaxed_and_hidden_bucket_names():
    assert valid_bucket_name("Old_Bucket", True)
    for name in ("..", "a..b", ".trash", "a/b", "minio", "a\n"):
        assert not valid_bucket_name(name, True)
    for name in (".sys", ".minio.sys", ".trash", ".stats"):
        assert code_of(check_bucket_name, name) == HIDDEN


@pytest.mark.parametrize(
    "key",
    [b"a", b"a/b", b"a/", "é/日本".encode(), b"a.sys", b"x/.sys/y", b"...", b".a", b"a\x01\x7f\\:\"'%+ b", b"a" * 255,
     (b"a" * 255 + b"/") * 4, b".sysx", b"a/..b"],
)  # fmt: skip
def test_good_keys(key):
    check_key(key, multi=False)
    check_key(key, multi=True)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"", ARGUMENT), (b"/", ARGUMENT), (b"/a", ARGUMENT), (b"a//b", ARGUMENT), (b"a//", ARGUMENT), (b".", ARGUMENT),
        (b"..", ARGUMENT), (b"../a", ARGUMENT), (b"a/..", ARGUMENT), (b"a/../b", ARGUMENT), (b"a/./b", ARGUMENT),
        (b"../", ARGUMENT), (b"a\0b", ARGUMENT), (b"\xff", ARGUMENT), (b"a" * 256, TOO_LONG),
        (b"a/" + b"b" * 256, TOO_LONG), (b"ab/" * 342, TOO_LONG), (b".sys/a", HIDDEN), (b".sys", HIDDEN),
        (b".minio.sys/config", HIDDEN), (b".trash/", HIDDEN), (b".config", HIDDEN), (b".accesslog", HIDDEN),
    ],
)  # fmt: skip
def test_bad_keys(key, expected):
    assert code_of(check_key, key, multi=False) == expected
    if expected == HIDDEN:
        check_key(key, multi=True)


def test_names_of_other_front_ends_can_be_read():
    check_key(b"\xff", multi=True, any_bytes=True)
    assert code_of(check_key, b"../\xff", multi=True, any_bytes=True) == ARGUMENT


def test_volume_paths():
    assert volume_path("b", b"a/b", multi=True) == b"/b/a/b"
    assert volume_path("b", b"a/", multi=True) == b"/b/a"
    assert volume_path("b", multi=True) == b"/b"
    assert volume_path("b", b"a/b", multi=False) == b"/a/b"
    assert volume_path("b", multi=False) == b"/"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("b/k", CopySource("b", b"k", "")),
        ("/b/k/l", CopySource("b", b"k/l", "")),
        ("b/a%20b+c%2Bd%3Fx", CopySource("b", b"a b c+d?x", "")),
        ("b%2Fk", CopySource("b", b"k", "")),
        ("b/k?versionId=null", CopySource("b", b"k", "null")),
        ("b/k?x", CopySource("b", b"k?x", "")),
        ("b/\xc3\xa9", CopySource("b", b"\xc3\xa9", "")),
    ],
)
def test_copy_sources(value, expected):
    assert parse_copy_source(value) == expected


@pytest.mark.parametrize("value", ["", "/", "b", "b/", "/b/", "//k", "b/%zz", "b/k?versionId=", "b/日本"])
def test_bad_copy_sources(value):
    assert code_of(parse_copy_source, value) == ARGUMENT


def test_upload_ids_and_part_numbers():
    check_upload_id("01234567-89ab-cdef-0123-456789abcdef")
    for bad in (
        "",
        "x",
        "../../../etc/passwd",
        "01234567-89AB-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcdef\n",
    ):
        assert code_of(check_upload_id, bad) == (404, "NoSuchUpload")
    assert [parse_part_number(t) for t in ("1", "10000", "007")] == [1, 10000, 7]
    for bad in ("", "0", "10001", "-1", "+1", "1.0", "１", "x", "9" * 50):
        assert code_of(parse_part_number, bad) == ARGUMENT
