# SPDX-License-Identifier: Apache-2.0
"""/dev/fuse on asyncio: read requests, run the handlers, write the answers.

Requests are read until the device has none, at most BATCH per turn of the loop, so that other work of the loop is not
starved. A handler that answers at once is answered at once, one that returns a coroutine runs in a task of `runners`,
beginning immediately. Nothing here knows what a request means, apart from the messages of the session.
Sources: the kernel's filesystems/fuse documentation (interrupts), fs/fuse of its public header for the errno values of
the device.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import struct
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import Any, Final

from gateways.fuse.api import Call, Reply
from gateways.fuse.operations import Operations
from gateways.fuse.runners import Runner, Runners
from gateways.fuse.wire.constants import UNIQUE_RESEND
from gateways.fuse.wire.requests import OVERHEAD, SMALL_WRITE, Args, ProtocolError, decode

log = logging.getLogger("sluice.fuse")

#: Requests per turn of the loop: about 0.3 ms of it. More than one also where a single process asks: it often runs
#: while we write its answer, and its next request is there before we look again (6.2 instead of 8–10 µs per stat).
BATCH: Final = 32
#: Buffers that are kept when no request uses them.
SPARE_BUFFERS: Final = 16
#: An answer up to this size is copied behind its header, which is cheaper than a vectored write.
SMALL: Final = 4096
#: A signal lets a read that has waited this long fail with EINTR. Shorter waits go on: programs don't expect EINTR of
#: a file, and many install handlers (timers, children) that have nothing to do with the read.
INTERRUPT_GRACE_S: Final = 1.0

# u32 len | i32 error | u64 unique
_OUT: Final = struct.Struct("=IiQ")
_pack_out: Final = _OUT.pack
_HEAD: Final = _OUT.size

#: What may stop halfway because it changes nothing. A process that is being killed need not wait for these.
_HARMLESS: Final = frozenset(
    (
        "lookup", "getattr", "statx", "readlink", "access", "getxattr", "listxattr", "statfs", "readdir", "readdirplus",
        "read", "lseek", "poll", "getlk",
    )
)  # fmt: skip
_NO_ANSWER: Final = frozenset(("forget", "batch_forget"))
_PLAIN: Final = frozenset((bytes, memoryview, bytearray, list, tuple, type(None)))
#: Most parts of a vectored write (IOV_MAX).
_MOST_PARTS: Final = 1024
_METHODS: Final = [name for name in vars(Operations) if not name.startswith("_") and name != "destroy"]

OnRequest = Callable[[Call, str, Args], None]
OnAnswer = Callable[[Call, str, Args, int, float, int], None]


class Channel:
    """One connection to the kernel, after INIT. The descriptor stays the caller's.

    on_request(call, name, args) and on_answer(call, name, args, errno, seconds, size): for logs and metrics; None costs
    nothing. closed: ends when the kernel has ended the connection.
    """

    def __init__(
        self, fd: int, operations: Operations, *, max_write: int = 1 << 20, setxattr_ext: bool = True
    ) -> None:  # fmt: skip
        self.fd = fd
        self.operations = operations
        self.on_request: OnRequest | None = None
        self.on_answer: OnAnswer | None = None
        #: Does this task wait for something while surely nothing of its request has happened?
        self.may_give_up: Callable[[asyncio.Task[None]], bool] | None = None
        self.requests = 0
        self.errors = 0
        self.interrupts = 0
        self.refused = 0
        self._loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._decode = decode if setxattr_ext else partial(decode, setxattr_ext=False)
        self._methods: dict[str, Callable[..., Any]] = {name: getattr(operations, name) for name in _METHODS}
        self._size = max_write + OVERHEAD
        self._spare: list[memoryview] = []
        self._buffer = self._take_buffer()
        self._running: dict[int, Runner] = {}
        self._runners = Runners(self._loop, self._finished, self._failed)
        self._reading = False
        self._abandon = False
        self._destroyed = False
        self._drained: asyncio.Future[None] | None = None
        self._complaints: dict[tuple[str, str], int] = {}

    # -- life ------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Begin, or go on, to read."""
        if not self._reading and not self.closed.done():
            self._reading = True
            self._loop.add_reader(self.fd, self._drain)

    def pause(self) -> None:
        """Read no more; running requests go on."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self.fd)

    @property
    def running(self) -> int:
        """Requests that wait for something."""
        return len(self._running)

    async def stop(self, *, timeout_s: float | None = None, abandon_waits: bool = False) -> int:
        """Read no more, let running requests answer, end the tasks. Returns how many were left without an answer.

        abandon_waits: requests that wait for a lock, which may take forever, are left without one at once. So is what
        runs longer than timeout_s. The next server of this descriptor gets such requests again if it asks
        (FUSE_NOTIFY_RESEND); if nobody serves it any more, closing it fails them.
        """
        self.pause()
        left = 0
        if abandon_waits:
            waits = [runner for runner in self._running.values() if runner.name == "setlk"]
            left = len(waits)
            for runner in waits:
                self._running.pop(runner.call.unique)
                runner.call = runner.call._replace(unique=0)
                runner.task.cancel()
        if self._running:
            self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._drained
            except TimeoutError:
                log.warning(
                    "%d requests did not end in %s s; they are left to the next server", len(self._running), timeout_s
                )
            self._drained = None
        left += len(self._running)
        self._abandon = True
        await self._runners.close()
        self._running.clear()
        return left

    def end(self) -> None:
        """The connection is over: read no more, tell those who wait for that, and the operations."""
        self.pause()
        if not self.closed.done():
            self.closed.set_result(None)
            self._destroy()

    def _gone(self, e: OSError) -> None:
        log.debug("the kernel has ended the connection: %s", e.strerror)
        self.end()

    def _destroy(self) -> None:
        if not self._destroyed:
            self._destroyed = True
            try:
                self.operations.destroy()
            except Exception as e:
                self._complain(_KERNEL, "destroy", e)

    # -- reading ---------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        # All that the common request needs is a local name: this loop is a good part of what a cached answer costs.
        read, write, fd, decode, now = os.readv, os.write, self.fd, self._decode, time.perf_counter
        methods, hear, told = self._methods, self.on_request, self.on_answer
        buffer = self._buffer
        vector = (buffer,)
        for _ in range(BATCH):
            try:
                length = read(fd, vector)
            except BlockingIOError:
                return
            except OSError as e:
                if not self._survives(e):
                    return
                continue
            self.requests += 1
            try:
                call, name, args = decode(buffer, length)
            except ProtocolError as e:
                self._malformed(e)
                continue
            method = methods.get(name)
            if method is None:
                self._session(call, name, args)
                continue
            if hear is not None:
                hear(call, name, args)
            started = now() if told is not None else 0.0
            try:
                answer = method(call, *args)
            except Exception as e:
                self._fail(call, name, args, started, e)
                continue
            kind = type(answer)
            if kind is bytes and len(answer) <= SMALL and not call.resent:
                # `_answer` without its frame.
                size = len(answer)
                try:
                    write(fd, _pack_out(_HEAD + size, 0, call.unique) + answer)
                except OSError as e:
                    self._write_failed(e, call.unique, 0)
                if told is not None:
                    told(call, name, args, 0, now() - started, size)
            elif kind is CoroutineType or (kind not in _PLAIN and isinstance(answer, Awaitable)):
                runner = self._runners.take()
                runner.call, runner.name, runner.args, runner.started = call, name, args, started
                self._running[call.unique] = runner
                runner.start(answer)
                if runner.busy and name == "write" and args[2].nbytes > SMALL_WRITE:
                    # The data of the request is in the buffer until it is answered.
                    runner.buffer = buffer
                    buffer = self._buffer = self._take_buffer()
                    vector = (buffer,)
            else:
                self._answer(call, name, args, started, answer)

    def _survives(self, e: OSError) -> bool:
        """A read failed. Is the connection still there?"""
        if e.errno in (errno.ENOENT, errno.EINTR):  # the request was taken back while we read it
            return True
        if e.errno not in (errno.ENODEV, errno.ECONNABORTED, errno.EBADF):
            log.error("reading %s failed: %s; the mount is given up", "/dev/fuse", e)
        self._gone(e)
        return False

    def _take_buffer(self) -> memoryview:
        return self._spare.pop() if self._spare else memoryview(bytearray(self._size))

    def _malformed(self, e: ProtocolError) -> None:
        self.errors += 1
        if e.errno != errno.ENOSYS:
            log.error("a request of the kernel can't be understood: %s", e)
        if e.unique:
            self._send(e.unique, e.errno, None)

    def _session(self, call: Call, name: str, args: Args) -> None:
        if name == "interrupt":
            self.interrupts += 1
            self._interrupt(args[0])
        elif name == "destroy":
            self._destroy()
            self._send(_unique(call), 0, None)
        elif name == "init":
            log.error("the kernel sent a second INIT")
            self._send(_unique(call), errno.EIO, None)
        # notify_reply: nobody asked for one.

    # -- interrupts ------------------------------------------------------------------------------------------------

    def _interrupt(self, unique: int) -> None:
        """A signal for the process that waits for this request. What may have changed something has to finish."""
        runner = self._running.get(unique & (UNIQUE_RESEND - 1))
        if runner is None:  # answered already
            return
        if runner.name == "setlk":
            self._cancel(runner)
        elif runner.name in _HARMLESS:
            if _is_dying(runner.call.pid):
                self._cancel(runner)
            elif runner.name == "read":
                self._loop.call_later(INTERRUPT_GRACE_S, self._cancel_later, runner, runner.call)
        elif self.may_give_up is not None and _is_dying(runner.call.pid):
            self._cancel_idle(runner, runner.call)

    def _cancel_idle(self, runner: Runner, call: Call) -> None:
        """The caller is being killed: its change need not wait until a server is back that never heard of it."""
        if runner.call is not call or self.may_give_up is None:
            return
        if self.may_give_up(runner.task):
            self._cancel(runner)
        else:
            self._loop.call_later(INTERRUPT_GRACE_S, self._cancel_idle, runner, call)

    def _cancel(self, runner: Runner) -> None:
        if not runner.begun:
            self._loop.call_soon(self._cancel_later, runner, runner.call)
        elif runner.busy and not runner.interrupted:
            runner.interrupted = True
            runner.task.cancel()

    def _cancel_later(self, runner: Runner, call: Call) -> None:
        if runner.busy and runner.call is call:
            self._cancel(runner)

    # -- answering -------------------------------------------------------------------------------------------------

    def _finished(self, runner: Runner, reply: Reply) -> None:
        call = runner.call
        if call.unique:
            self._answer(call, runner.name, runner.args, runner.started, reply)
        self._free(runner)

    def _failed(self, runner: Runner, e: BaseException) -> None:
        call = runner.call
        if call.unique and isinstance(e, asyncio.CancelledError):
            if runner.interrupted:
                e = InterruptedError(errno.EINTR, "interrupted by a signal")
            elif self._abandon:
                call = call._replace(unique=0)
            else:
                e = OSError(errno.EIO, "cancelled")
        if call.unique:
            self._fail(call, runner.name, runner.args, runner.started, e)
        self._free(runner)

    def _free(self, runner: Runner) -> None:
        self._running.pop(runner.call.unique, None)
        runner.args = ()
        if runner.buffer is not None:
            if len(self._spare) < SPARE_BUFFERS:
                self._spare.append(runner.buffer)
            runner.buffer = None
        if self._drained is not None and not self._running and not self._drained.done():
            self._drained.set_result(None)

    def _answer(self, call: Call, name: str, args: Args, started: float, reply: Reply) -> None:
        # The most frequent case first; the rest in `_send`.
        if type(reply) is bytes and (size := len(reply)) <= SMALL and not call.resent:
            try:
                os.write(self.fd, _pack_out(_HEAD + size, 0, call.unique) + reply)
            except OSError as e:
                self._write_failed(e, call.unique, 0)
        else:
            if name in _NO_ANSWER:
                return
            size = self._send(_unique(call), 0, reply)
        if started and (told := self.on_answer) is not None:
            told(call, name, args, 0, time.perf_counter() - started, size)

    def _fail(self, call: Call, name: str, args: Args, started: float, e: BaseException) -> None:
        number = e.errno if isinstance(e, OSError) else None
        if number is None:
            self._complain(call, name, e)
            number = errno.EIO
        elif not 0 < number < 512:  # the kernel refuses others
            number = errno.EIO
        self.errors += 1
        if name in _NO_ANSWER:
            return
        self._send(_unique(call), number, None)
        if started and self.on_answer is not None:
            self.on_answer(call, name, args, number, time.perf_counter() - started, 0)

    def _send(self, unique: int, error: int, reply: Reply) -> int:
        """Write an answer; returns the size of its body."""
        parts: list[Any] = [b""]
        size = 0
        if reply is not None:
            if isinstance(reply, (bytes, bytearray, memoryview)):
                parts.append(reply)
            else:
                parts.extend(reply)
            for part in parts:
                size += part.nbytes if type(part) is memoryview else len(part)
            if len(parts) > _MOST_PARTS:
                parts = [b"", b"".join(parts)]
        parts[0] = _pack_out(_HEAD + size, -error, unique)
        try:
            os.writev(self.fd, parts)
        except OSError as e:
            self._write_failed(e, unique, error)
        return size

    def _write_failed(self, e: OSError, unique: int, error: int) -> None:
        self.refused += 1
        # ENOENT: the request was interrupted or aborted. ENODEV and so on: the reader will hear of it too.
        if e.errno in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED, errno.EBADF, errno.EPERM):
            return
        log.error("the kernel refused the answer to request %d: %s", unique, e)
        if not error:  # a caller must not wait forever
            self._send(unique, errno.EIO, None)

    def _complain(self, call: Call, name: str, e: BaseException) -> None:
        """A bug. Where it happened is logged, not what the error says: that may hold names or data of users."""
        kind = type(e).__name__
        count = self._complaints[name, kind] = self._complaints.get((name, kind), 0) + 1
        if count & (count - 1):  # the 1st, 2nd, 4th …
            return
        frames = "".join(traceback.format_tb(e.__traceback__))
        log.error(
            "%s of inode %d failed with %s (time %d), answered EIO:\n%s",
            name,
            call.nodeid,
            kind,
            count,
            frames.rstrip(),
        )


_KERNEL: Final = Call(0, 0, 0, 0, 0)


def _unique(call: Call) -> int:
    """As the kernel knows the request."""
    return call.unique | UNIQUE_RESEND if call.resent else call.unique


def _is_dying(pid: int) -> bool:
    """Has this thread got SIGKILL, or another signal that ends it (the kernel then adds SIGKILL to every thread)?"""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) & (1 << 8):
                return True
    except (OSError, ValueError):
        return pid != 0 and sys.platform == "linux" and not Path(f"/proc/{pid}").exists()
    return False
