# SPDX-License-Identifier: Apache-2.0
"""The control file as a stream: requests in pieces, progress, one request at a time, the end by flush."""

from __future__ import annotations

import asyncio
import errno

import pytest

from core.errors import FsError
from core.meta.caller import Caller
from core.vfs.internal import protocol as p
from core.vfs.internal.control import ControlHandle, Intake
from core.vfs.internal.progress import Tally


class Told:
    """A performer that does what the test says, and time that passes when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, p.Request, Caller]] = []
        self.tally = Tally()
        self.started = asyncio.Event()
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.ticks: asyncio.Queue[None] = asyncio.Queue()

    async def perform(self, command: int, request: p.Request, caller: Caller, tally: Tally) -> bytes:
        self.requests.append((command, request, caller))
        self.tally = tally
        self.started.set()
        return await self.answer

    async def sleep(self, seconds: float) -> None:
        assert seconds == p.PROGRESS_EVERY_S
        await self.ticks.get()

    async def tick(self, first: int, second: int) -> None:
        self.tally.set(first, second)
        self.ticks.put_nowait(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def opened(told: Told) -> ControlHandle:
    return ControlHandle(told, Caller(7, (7,), 1), sleep=told.sleep)


REMOVE = p.encode(p.RemoveTree(1, b"x"))


async def test_a_request_runs_as_its_writer_and_tells_progress() -> None:
    told = Told()
    handle = opened(told)
    assert await handle.read(0, 100) == b""
    assert await handle.write(0, REMOVE, Caller(3, (3,), 2)) == len(REMOVE)
    await told.started.wait()
    assert told.requests == [(1002, p.RemoveTree(1, b"x", False, 50), Caller(3, (3,), 2))]
    await told.tick(5, 0)
    assert await handle.read(12, 1 << 16) == p.progress_frame(5, 0)
    await told.tick(6, 0)
    await told.tick(7, 0)  # nobody read the one before
    told.answer.set_result(p.errno_frame(0))
    assert await handle.read(0, 1 << 16) == p.progress_frame(7, 0)
    assert await handle.read(0, 1 << 16) == b"\0"
    assert await handle.read(0, 1 << 16) == b""
    await handle.release()


async def test_replies_can_be_read_byte_by_byte() -> None:
    told = Told()
    told.answer.set_result(p.data_frame(b'{"Ino":1}'))
    handle = opened(told)
    await handle.write(0, p.encode(p.Info(1)))
    data = b""
    while len(data) < 14:
        data += await handle.read(len(data), 1)
    assert data == p.data_frame(b'{"Ino":1}')


async def test_a_request_may_come_in_several_writes() -> None:
    told = Told()
    handle = opened(told)
    message = p.encode(p.WarmUp((b"/a" * 100,)))
    for at in range(0, len(message), 50):
        assert not told.requests
        await handle.write(at, message[at : at + 50])
    await told.started.wait()
    assert told.requests[0][1] == p.WarmUp((b"/a" * 100,))
    await handle.release()


async def test_only_one_request_at_a_time() -> None:
    told = Told()
    handle = opened(told)
    await handle.write(0, REMOVE)
    await told.started.wait()
    with pytest.raises(FsError) as busy:
        await handle.write(0, REMOVE)
    assert busy.value.errno == errno.EBUSY
    await handle.release()


async def test_flush_cancels_what_runs() -> None:
    told = Told()
    handle = opened(told)
    await handle.write(0, REMOVE)
    await told.started.wait()
    await handle.flush()
    assert told.answer.cancelled()
    assert await handle.read(0, 10) == bytes((errno.EINTR,))


@pytest.mark.parametrize(
    "message", [p.encode(p.Info(1))[:4] + b"\0\0\0\0", b"\0\0\x03\xff\0\0\0\0", b"\0\0\x03\xe9" + bytes(4)]
)
async def test_what_is_no_request_answers_einval(message: bytes) -> None:
    told = Told()
    handle = opened(told)
    await handle.write(0, message)
    assert await handle.read(0, 10) == bytes((errno.EINVAL,))
    assert not told.requests


async def test_errors_become_their_errno_and_bugs_become_eio() -> None:
    for error, number in ((FsError(errno.EEXIST, "there"), errno.EEXIST), (ZeroDivisionError(), errno.EIO)):
        told = Told()
        handle = opened(told)
        told.answer.set_exception(error)
        await handle.write(0, REMOVE)
        assert await handle.read(0, 10) == bytes((number,))


async def test_a_request_without_options_gets_no_progress() -> None:
    """Clients before 1.0 take the first byte for the errno."""
    told = Told()
    handle = opened(told)
    await handle.write(0, p.encode(p.RemoveTree(1, b"x"), legacy=True))
    await told.started.wait()
    told.tally.set(9, 0)
    told.answer.set_result(p.errno_frame(0))
    assert await handle.read(0, 100) == b"\0"


async def test_a_huge_request_is_refused_at_once() -> None:
    handle = opened(Told())
    with pytest.raises(FsError) as refused:
        await handle.write(0, (1004).to_bytes(4, "big") + b"\xff\xff\xff\xff")
    assert refused.value.errno == errno.E2BIG


async def test_unfinished_requests_of_all_handles_are_limited() -> None:
    intake = Intake()
    first, second = (ControlHandle(Told(), Caller(), intake=intake) for _ in range(2))
    await first.write(0, (1004).to_bytes(4, "big") + (64 << 20).to_bytes(4, "big"))
    intake.used += Intake.LIMIT - 20
    with pytest.raises(FsError) as refused:
        await second.write(0, bytes(13))
    assert refused.value.errno == errno.EAGAIN
    await first.release()
    assert intake.used == Intake.LIMIT - 20
