# SPDX-License-Identifier: Apache-2.0
"""The pure parts: If grammar, ranges, names, the lock index against a plain list, the stored form of properties."""

from __future__ import annotations

import random

import pytest

from gateways.webdav import ifheader, ranges
from gateways.webdav.errors import DavError
from gateways.webdav.locks.records import decode, encode
from gateways.webdav.locks.table import Lock, LockTable, unsatisfied
from gateways.webdav.names import from_layer, href, parse_names, parse_target, split_reference, starts_with, to_layer
from gateways.webdav.properties import dead


def make_lock(number: int, path: tuple[bytes, ...], *, infinite: bool = True, exclusive: bool = True) -> Lock:
    return Lock(
        token=f"00000000-0000-0000-0000-{number:012d}", path=path, infinite=infinite, exclusive=exclusive,
        owner="<x/>", principal="a", created=1, timeout=60, expires=10**19,
    )  # fmt: skip


def test_the_lock_index_answers_as_a_walk_over_all_locks_does() -> None:
    dice = random.Random(7)
    table, plain = LockTable(), []
    for number in range(300):
        path = tuple(dice.choice([b"a", b"b", b"c", b"a0"]) for _ in range(dice.randrange(5)))
        plain.append(make_lock(number, path, infinite=dice.random() < 0.5))
        table.put(plain[-1])
        if dice.random() < 0.3:
            table.remove(plain.pop(dice.randrange(len(plain))).token)
    for _ in range(300):
        path = tuple(dice.choice([b"a", b"b", b"c", b"a0"]) for _ in range(dice.randrange(5)))
        covering = [x for x in plain if x.path == path or (x.infinite and starts_with(path, x.path))]
        below = [x for x in plain if starts_with(x.path, path) and x.path != path]
        assert {x.token for x in table.covering(path)} == {x.token for x in covering}
        assert {x.token for x in table.below(path)} == {x.token for x in below}


def test_one_token_of_shared_locks_is_enough_and_only_for_its_holder() -> None:
    locks = [make_lock(1, (b"x",), exclusive=False), make_lock(2, (b"x",), exclusive=False)]
    assert unsatisfied(locks, {locks[1].token}, "a") == []
    assert unsatisfied(locks, {locks[1].token}, "b") == locks
    assert unsatisfied(locks, set(), "a") == locks


def test_a_lock_record_survives_any_name() -> None:
    lock = make_lock(3, (b"\xff\n", b"a b%", "ä".encode()))
    assert decode(encode(lock)) == lock
    assert decode(b"{}") is None


@pytest.mark.parametrize("name", [bytes([n]) for n in range(1, 256) if n != 0x2F])
def test_every_byte_travels_through_urls_and_through_the_layer(name: bytes) -> None:
    path = (b"dir", name + b"x")
    assert parse_names(href(path)) == path
    assert from_layer(to_layer(path)) == path
    assert set(to_layer(path)) <= set("/=-_~") | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


def test_targets() -> None:
    assert parse_target("http://h:1/a//b/?q#f") == ((b"a", b"b"), True)
    assert parse_target("/dav/x", (b"dav",)) == ((b"x",), False)
    for bad in ("/a/../b", "/%2e%2E", "/a%2fb", "/%0", "relative", "/a#b"):
        with pytest.raises(DavError):
            parse_target(bad)
    assert split_reference("https://u@Host:443/p?q") == ("host", "/p")
    for bad in ("//host/p", "ftp://h/p", "\\x", "/a\r\nb", ""):
        with pytest.raises(DavError):
            split_reference(bad)


def test_random_if_headers_never_do_anything_but_parse_or_refuse() -> None:
    dice = random.Random(11)
    words = ["(", ")", "<urn:uuid:1>", '["e"]', "Not ", "<http://h/x>", " ", "[", '"', "W/", "<", "DAV:no-lock"]
    accepted = 0
    for _ in range(5000):
        text = "".join(dice.choice(words) for _ in range(dice.randrange(1, 9)))
        try:
            found = ifheader.parse(text)
        except DavError as error:
            assert error.status == 400
        else:
            accepted += 1
            assert all(each.conditions for each in found.lists)
    assert accepted


def test_ranges_merge_where_they_touch() -> None:
    assert ranges.parse("bytes=0-1,1-3,8-8", 10) == [(0, 4), (8, 1)]
    assert ranges.parse("bytes=" + ",".join(f"{n}-{n}" for n in range(0, 60, 3)), 100) == []
    assert ranges.parse("bytes=5-2", 10) == []


def test_properties_are_stored_as_juicefs_spells_them() -> None:
    raw = dead.encode({("http://example.org/ns", "colour"): dead.Dead("red")})
    assert raw == (
        b'[{"name":{"Space":"http://example.org/ns","Local":"colour"},'
        b'"property":{"XMLName":{"Space":"http://example.org/ns","Local":"colour"},"Lang":"","InnerXML":"cmVk"}}]'
    )
    assert dead.decode(raw) == {("http://example.org/ns", "colour"): dead.Dead("red")}
    assert dead.decode(b"null") == {} and dead.decode(None) == {}
    with pytest.raises(dead.Unreadable):
        dead.decode(b"no json")
    evil = dead.encode({("", "x onload=1"): dead.Dead("1"), ("", "ok"): dead.Dead("</D:prop>")})
    assert dead.shown(evil, 1) == {}
