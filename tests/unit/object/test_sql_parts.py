# SPDX-License-Identifier: Apache-2.0
"""Parts of the SQL object stores without a server: the pool's promises, ranges of keys, times, literals."""

from __future__ import annotations

import asyncio
import time

import pytest

from core.object.sql.pool import Lost, Pool
from core.object.sql.table import key_range, local_seconds, local_time, utc_seconds, utc_text


class Link:
    """A connection that counts."""

    opened: list[Link]

    def __init__(self) -> None:
        self.alive = True
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True

    async def quit(self) -> None:
        self.dropped = True


class Links:
    def __init__(self) -> None:
        self.made: list[Link] = []

    async def connect(self) -> Link:
        self.made.append(Link())
        return self.made[-1]


async def use(link: Link) -> Link:
    if not link.alive:
        raise Lost
    await asyncio.sleep(0)
    return link


async def test_connections_are_kept_and_bounded() -> None:
    links = Links()
    pool = Pool(links.connect, 3)
    await asyncio.gather(*(pool.run(use) for _ in range(50)))
    assert len(links.made) == 3
    await pool.close()
    assert all(link.dropped for link in links.made)


async def test_a_dead_connection_is_replaced_and_the_others_forgotten() -> None:
    links = Links()
    pool = Pool(links.connect, 3)
    await asyncio.gather(*(pool.run(use) for _ in range(3)))
    for link in links.made:
        link.alive = False
    assert (await pool.run(use)).alive
    assert len(links.made) == 4
    assert all(link.dropped for link in links.made[:3])


async def test_a_fresh_connection_that_dies_is_an_error_and_leaves_room() -> None:
    links = Links()
    pool = Pool(links.connect, 1)

    async def die(link: Link) -> None:
        raise Lost

    for _ in range(3):
        with pytest.raises(Lost):
            await pool.run(die)
    assert (await pool.run(use)).alive
    assert all(link.dropped for link in links.made[:3])


async def test_a_refusal_keeps_the_connection_and_a_cancelled_call_costs_it() -> None:
    links = Links()
    pool = Pool(links.connect, 1)

    async def refuse(link: Link) -> None:
        raise ValueError

    with pytest.raises(ValueError):
        await pool.run(refuse)
    assert not links.made[0].dropped

    async def hang(link: Link) -> None:
        await asyncio.get_running_loop().create_future()

    task = asyncio.ensure_future(pool.run(hang))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert links.made[0].dropped
    assert await pool.run(use) is links.made[1]


def test_ranges_of_keys_end_where_the_prefix_ends() -> None:
    keys = [b"a", b"a/", b"a/b", b"a0", b"b", b"b/c"]
    for prefix in ("", "a", "a/", "b/", "c"):
        for after in ("", "a", "a/b", "b"):
            begin, low, end = key_range(prefix, after)
            found = [key for key in keys if key > begin and key >= low and key < end]
            assert found == [key for key in keys if key.startswith(prefix.encode()) and key > after.encode()]


def test_times_survive_their_column(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000.75
    assert utc_text(now) == "2023-11-14 22:13:20"
    assert utc_seconds(utc_text(now)) == 1_700_000_000
    for text in ("2023-11-14T22:13:20Z", "2023-11-14 23:13:20+01:00", b"2023-11-14 22:13:20.000"):
        assert utc_seconds(text) == 1_700_000_000
    assert utc_seconds("nonsense") == 0 == local_seconds("0000-00-00 00:00:00")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert local_time(now).isoformat(" ") == "2023-11-15 07:13:20"
        assert local_seconds(local_time(now)) == 1_700_000_000
    finally:
        monkeypatch.undo()
        time.tzset()


def test_literals_escape_two_bytes_and_no_more() -> None:
    from core.object.sql.mysql import quoted

    assert quoted(b"a'b\\c\0\n\x1a\xff\"") == b"_binary'a\\'b\\\\c\0\n\x1a\xff\"'"
    assert len(quoted(bytes(range(256)))) == len(b"_binary''") + 256 + 2
