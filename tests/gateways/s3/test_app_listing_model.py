# SPDX-License-Identifier: Apache-2.0
"""Listing against a flat sorted model: random trees, every delimiter, prefix, marker and page size (spec s3 §10)."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings, strategies as st

from core.meta.records import DIRECTORY
from gateways.s3.errors import S3Error
from gateways.s3.listing import Page, Query, decode_token, encode_token, list_page
from tests.gateways.s3.fake_fs import FakeFileSystem

# Few letters around "/" in byte order, so that names collide with each other's prefixes all the time.
ALPHABET = "a!-.0b"
names = st.text(ALPHABET, min_size=1, max_size=3).filter(lambda s: s not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
prefixes = st.text(ALPHABET + "/", max_size=5)


def build(files: list[str], dirs: list[tuple[str, bool]]) -> tuple[FakeFileSystem, list[bytes], list[bytes]]:
    """A volume with one bucket, its keys, and its directories as pseudo keys."""
    fs = FakeFileSystem()
    fs.add(b"/bkt", DIRECTORY)
    for path, explicit in dirs:
        try:
            node = fs.add(b"/bkt/" + path.encode(), DIRECTORY)
        except Exception:  # a parent is a file
            continue
        if explicit:
            node.atime = 0
    for path in files:
        try:
            if path.encode() in (k for k, _ in walk(fs, fs.nodes[1].children[b"bkt"], b"")):
                continue
            fs.add(b"/bkt/" + path.encode())
        except Exception:
            continue
    everything = list(walk(fs, fs.nodes[1].children[b"bkt"], b""))
    keys = sorted(k for k, is_key in everything if is_key)
    pseudo = sorted(k for k, _ in everything if k.endswith(b"/"))
    return fs, keys, pseudo


def walk(fs: FakeFileSystem, ino: int, prefix: bytes):
    for name, child in fs.nodes[ino].children.items():
        node = fs.nodes[child]
        if node.type == DIRECTORY:
            yield prefix + name + b"/", node.atime == 0
            yield from walk(fs, child, prefix + name + b"/")
        else:
            yield prefix + name, True
            yield prefix + name, False  # the name is taken


def model(keys: list[bytes], pseudo: list[bytes], prefix: bytes, delimiter: bytes, after: bytes) -> list[bytes]:
    """Every key and common prefix of the whole listing after the marker."""
    out: list[bytes] = []
    stream = sorted({*keys, *pseudo}) if delimiter == b"/" else keys
    for key in stream:
        if not key.startswith(prefix):
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        if at >= 0:
            common = key[: at + len(delimiter)]
            if common > after and (not out or out[-1] != common):
                out.append(common)
        elif key > after and key in keys:
            out.append(key)
    return out


async def all_pages(fs: FakeFileSystem, query: Query) -> list[bytes]:
    out: list[bytes] = []
    while True:
        page: Page = await list_page(fs, "bkt", query, multi=True)
        assert len(page.items) <= query.max_keys
        out += [i.key for i in page.items]
        if not page.truncated:
            return out
        assert page.last is not None
        after, is_prefix = decode_token(encode_token(page.last))
        query = Query(
            prefix=query.prefix, delimiter=query.delimiter, max_keys=query.max_keys, after=after, after_prefix=is_prefix
        )


@settings(max_examples=400, deadline=None)
@given(
    files=st.lists(paths, max_size=25), dirs=st.lists(st.tuples(paths, st.booleans()), max_size=8), prefix=prefixes,
    delimiter=st.sampled_from(["", "/", "-", "a", "!/", "/a", "0b"]), after=prefixes,
    max_keys=st.sampled_from([1, 2, 3, 7, 1000]),
)  # fmt: skip
def test_pages_together_equal_the_flat_model(files, dirs, prefix, delimiter, after, max_keys):
    fs, keys, pseudo = build(files, dirs)
    p, d, a = prefix.encode(), delimiter.encode(), after.encode()
    query = Query(prefix=p, delimiter=d, after=a, max_keys=max_keys)
    assert asyncio.run(all_pages(fs, query)) == model(keys, pseudo, p, d, a)


def test_every_marker_resumes_exactly_behind_it():
    names = ["a", "a!", "a-b/c", "a-b/c.d/e", "a-b.c", "a.b", "a/b", "a/b!/c", "a/b/c", "a0", "b/", "b/c"]
    fs, keys, pseudo = build([n for n in names if n not in ("a", "a/b", "b/")], [("b", True)])
    markers = sorted({k[:n] for k in keys for n in range(len(k) + 1)} | {k + b"\xff" for k in keys})
    for delimiter in (b"", b"/", b"b", b"c"):
        for prefix in (b"", b"a", b"a/", b"a-b/c", b"b/"):
            for marker in markers:
                query = Query(prefix=prefix, delimiter=delimiter, after=marker, max_keys=2)
                assert asyncio.run(all_pages(fs, query)) == model(keys, pseudo, prefix, delimiter, marker), (
                    prefix, delimiter, marker,
                )  # fmt: skip


async def test_many_keys_under_one_common_prefix_are_skipped_by_seeking():
    fs = FakeFileSystem()
    for i in range(5000):
        fs.add(b"/bkt/x-%05d" % i)
    fs.add(b"/bkt/y")
    before = fs.trips
    page = await list_page(fs, "bkt", Query(delimiter=b"-", max_keys=2), multi=True)
    assert [i.key for i in page.items] == [b"x-", b"y"] and not page.truncated
    assert fs.trips - before < 15


async def test_prefix_that_no_key_can_have_is_an_empty_page():
    fs = FakeFileSystem()
    fs.add(b"/bkt/a/b")
    for prefix in (b"/", b"a//", b"a/../", b"./", b"x" * 300, b"a/b/", b"nothing/here"):
        page = await list_page(fs, "bkt", Query(prefix=prefix), multi=True)
        assert page == ([], False, 0)
    with pytest.raises(S3Error, match="NoSuchBucket"):
        await list_page(fs, "other", Query(), multi=True)


async def test_single_mode_hides_the_systems_names_at_the_root_only():
    fs = FakeFileSystem()
    for path in (b"/.sys/tmp/x", b"/.minio.sys/config/c", b"/.trash/y", b"/a", b"/sub/.sys"):
        fs.add(path)
    page = await list_page(fs, "any", Query(), multi=False)
    assert [i.key for i in page.items] == [b"a", b"sub/.sys"]
    for delimiter in (b"", b"/"):
        page = await list_page(fs, "any", Query(prefix=b".sys/", delimiter=delimiter), multi=False)
        assert page.items == []


async def test_links_show_their_targets_and_never_loop():
    from core.meta.records import FIFO, SYMLINK

    fs = FakeFileSystem()
    fs.add(b"/bkt/dir/file", data=b"12345")
    fs.add(b"/bkt/link", SYMLINK, target=b"dir/file")
    fs.add(b"/bkt/linkdir", SYMLINK, target=b"dir")
    fs.add(b"/bkt/dir/up", SYMLINK, target=b"../dir")
    fs.add(b"/bkt/dangling", SYMLINK, target=b"nowhere")
    fs.add(b"/bkt/outside", SYMLINK, target=b"/etc/passwd")
    fs.add(b"/bkt/pipe", FIFO)
    page = await list_page(fs, "bkt", Query(), multi=True)
    assert [(i.key, i.node.attr.length) for i in page.items] == [
        (b"dir/file", 5), (b"link", 5), (b"linkdir/file", 5),
    ]  # fmt: skip
    page = await list_page(fs, "bkt", Query(delimiter=b"/"), multi=True)
    assert [i.key for i in page.items] == [b"dir/", b"link", b"linkdir/"]


async def test_directory_marker_survives_in_our_own_xattr():
    fs = FakeFileSystem()
    fs.add(b"/bkt/a", DIRECTORY).xattrs[b"s3-ext"] = b'{"v":1,"dir":true}'
    fs.add(b"/bkt/b", DIRECTORY).xattrs[b"s3-ext"] = b'{"v":1,"mk":1}'
    page = await list_page(fs, "bkt", Query(), multi=True)
    assert [i.key for i in page.items] == [b"a/"]


async def test_a_page_of_a_directory_costs_three_trips_wherever_it_begins():
    fs = FakeFileSystem()
    for i in range(20000):
        fs.add(b"/bkt/%06d" % i)
    query = Query(delimiter=b"/")
    before, started = fs.trips, time.perf_counter()
    page = await list_page(fs, "bkt", query, multi=True)
    assert fs.trips - before == 3 and len(page.items) == 1000 and page.truncated
    before = fs.trips
    page = await list_page(fs, "bkt", Query(delimiter=b"/", after=b"015000"), multi=True)
    assert page.items[0].key == b"015001"
    assert fs.trips - before <= 5
    assert time.perf_counter() - started < 5  # a bound against quadratic mistakes, not a measurement
