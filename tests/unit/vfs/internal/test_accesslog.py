# SPDX-License-Identifier: Apache-2.0
"""The access log: readers of their own, bounded, silent when nobody reads (cli §10.1)."""

from __future__ import annotations

import asyncio

from core.vfs.internal.accesslog import MAX_LINE, MAX_LINES, AccessLog


async def test_readers_get_the_lines_since_their_open() -> None:
    log = AccessLog()
    assert not log.listening
    log.write("nobody")
    first = log.open()
    log.write("one")
    second = log.open()
    log.write("two \udcff")
    assert log.listening
    assert await first.read(0, 1000) == b"one\ntwo \xff\n"
    assert await second.read(0, 1000) == b"two \xff\n"
    first.close()
    assert log.listening
    second.close()
    assert not log.listening


async def test_a_short_read_leaves_the_rest_of_the_line() -> None:
    log = AccessLog()
    reader = log.open()
    log.write("0123456789")
    log.write("ab")
    assert [await reader.read(0, 4) for _ in range(4)] == [b"0123", b"4567", b"89\na", b"b\n"]


async def test_a_slow_reader_loses_the_newest_and_is_told() -> None:
    log = AccessLog()
    reader = log.open()
    for number in range(MAX_LINES + 5):
        log.write(str(number))
    data = await reader.read(0, 1 << 20)
    assert data.splitlines()[-1] == str(MAX_LINES - 1).encode()
    log.write("later")
    assert await reader.read(0, 1000) == b"# 5 lines were lost: the reader is too slow\nlater\n"
    log.write("x" * 100_000)
    assert len(await reader.read(0, 1 << 20)) == MAX_LINE + 1


async def test_an_idle_second_is_one_mark_and_a_cancelled_read_loses_nothing() -> None:
    log = AccessLog()
    reader = log.open()
    assert await reader.read(0, 1000) == b"#\n"
    waiting = asyncio.create_task(reader.read(0, 1000))
    await asyncio.sleep(0)
    log.write("kept")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await reader.read(0, 1000) == b"kept\n"


async def test_whoever_makes_lines_hears_when_somebody_listens() -> None:
    log, heard = AccessLog(), []
    log.on_listening = heard.append
    first, second = log.open(), log.open()
    first.close()
    second.close()
    assert heard == [True, False]
