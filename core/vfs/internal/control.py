# SPDX-License-Identifier: Apache-2.0
"""One opened control file: requests go in, replies come out, the work runs as a task of its own in between.

A request may arrive in several writes (the kernel cuts large ones); it runs once it is complete, as whoever wrote it.
Replies form a stream, offsets mean nothing, and one read never brings more than one frame, so that clients that read
frame by frame and clients that read a few bytes at a time both get on. Closing a descriptor cancels what runs.
Source: metadata-semantics §12.2, cli §10.3.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from core.errors import FsError, SluiceError
from core.meta.caller import Caller
from core.object.api import Buffer
from core.vfs.internal import protocol
from core.vfs.internal.api import InternalHandle
from core.vfs.internal.inodes import CONTROL
from core.vfs.internal.progress import Tally

log = logging.getLogger("sluice.control")


class Performer(Protocol):
    """Does what a request asks for and returns the final reply; `tally` is told how far it is."""

    async def perform(self, command: int, request: protocol.Request, caller: Caller, tally: Tally) -> bytes: ...


class Intake:
    """Bytes of unfinished requests of all opened control files: anybody may open many."""

    LIMIT: Final = 2 * protocol.MAX_PAYLOAD

    def __init__(self) -> None:
        self.used = 0


class ControlHandle(InternalHandle):
    """caller: who opened it; None if that isn't known any more, then every write has to say who writes."""

    ino = CONTROL

    def __init__(
        self, performer: Performer, caller: Caller | None, *, intake: Intake | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._performer = performer
        self._intake = intake or Intake()
        self._caller = caller
        self._sleep = sleep
        self._incoming = bytearray()
        self._replies: deque[bytes] = deque()
        self._progress_at = False  # the last reply is a progress frame that nobody has begun to read
        self._task: asyncio.Task[None] | None = None
        self._told = (0, 0)  # the progress that was reported last
        self._news = asyncio.Event()

    async def write(self, offset: int, data: Buffer, caller: Caller | None = None) -> int:
        """EBUSY while a request runs. What else is wrong with a request is told in its reply."""
        if self._task is not None and not self._task.done():
            raise FsError(errno.EBUSY, "control file: a request is running; read its reply, or open the file once more")
        caller = caller or self._caller
        if caller is None:
            raise FsError(
                errno.EACCES, "control file: it was opened before this process took over; open it again for a request"
            )
        if self._intake.used + len(data) > Intake.LIMIT:
            raise FsError(errno.EAGAIN, "control file: too many unfinished requests at the same time; try again")
        if not self._incoming:
            self._replies.clear()  # of a request before, that nobody wants any more
            self._progress_at = False
        self._incoming += data
        self._intake.used += len(data)
        head = protocol.split_head(self._incoming)
        if head is None:
            return len(data)
        command, size = head
        if size > protocol.MAX_PAYLOAD:
            # Told by the write itself: what follows would be taken for another request.
            self._forget()
            raise FsError(
                errno.E2BIG, f"control file: a request of {size} bytes; at most {protocol.MAX_PAYLOAD} are taken"
            )
        if len(self._incoming) < protocol.HEAD_BYTES + size:
            return len(data)
        message = bytes(self._incoming)
        self._forget()
        try:
            request = protocol.decode(command, memoryview(message)[protocol.HEAD_BYTES :])
        except FsError as e:
            log.warning("%s", e.strerror)
            self._say(protocol.errno_frame(e.errno or errno.EINVAL))
            return len(data)
        self._task = asyncio.get_running_loop().create_task(self._run(command, request, caller))
        return len(data)

    async def read(self, offset: int, size: int) -> bytes:
        """The next piece of the reply. b"" while nothing is asked for, or nothing new came in a third of a second."""
        if not self._replies and self._task is not None and not self._task.done():
            self._news.clear()
            try:
                async with asyncio.timeout(protocol.PROGRESS_EVERY_S * 1.5):
                    await self._news.wait()
            except TimeoutError:
                return b""
        if not self._replies or size <= 0:
            return b""
        first = self._replies.popleft()
        if len(first) > size:
            self._replies.appendleft(first[size:])
        if len(self._replies) < 2:
            self._progress_at = False
        return first[:size]

    async def flush(self) -> None:
        """A descriptor of this file was closed: whoever asked doesn't wait for the answer any more."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def release(self) -> None:
        await self.flush()
        self._replies.clear()
        self._forget()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _forget(self) -> None:
        self._intake.used -= len(self._incoming)
        self._incoming.clear()

    async def _run(self, command: int, request: protocol.Request, caller: Caller) -> None:
        tally = Tally()
        self._told = (0, 0)
        loop = asyncio.get_running_loop()
        work = loop.create_task(self._performer.perform(command, request, caller, tally))
        quiet = command == protocol.INFO_LEGACY or (isinstance(request, protocol.RemoveTree) and request.plain)
        ticking = loop.create_task(self._tick(tally)) if not quiet else None
        try:
            final = await work
        except FsError as e:
            log.info("control command %d: %s", command, e.strerror)
            final = protocol.errno_frame(e.errno or errno.EIO)
        except (SluiceError, OSError) as e:
            log.warning("control command %d failed: %s", command, e)
            final = protocol.errno_frame(getattr(e, "errno", None) or errno.EIO)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            self._say(protocol.errno_frame(errno.EINTR))
            raise
        except Exception:
            log.exception("control command %d failed", command)
            final = protocol.errno_frame(errno.EIO)
        finally:
            if ticking is not None:
                ticking.cancel()
                await asyncio.gather(ticking, return_exceptions=True)
        if len(final) == 1 and not quiet and self._told != (tally.first, tally.second):
            self._report(tally)  # what was done in the end, for commands whose answer tells nothing else
        self._say(final)

    async def _tick(self, tally: Tally) -> None:
        while True:
            await self._sleep(protocol.PROGRESS_EVERY_S)
            self._report(tally)

    def _report(self, tally: Tally) -> None:
        self._told = tally.first, tally.second
        frame = protocol.progress_frame(tally.first, tally.second)
        if self._progress_at:
            # Nobody read the last one: the newest is enough, and a reader that went away takes no memory.
            self._replies[-1] = frame
        else:
            self._say(frame)
            self._progress_at = True

    def _say(self, frame: bytes) -> None:
        self._replies.append(frame)
        self._progress_at = False
        self._news.set()
