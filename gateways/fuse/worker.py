# SPDX-License-Identifier: Apache-2.0
"""The life of a worker process: prepare, wait for its turn, serve, and end in one of three ways.

It ends when the kernel has ended the connection (unmounted), when the holder says so (`stop`), or when another worker
stands ready (`hand-over`). Killed at any other moment, the next worker goes on from the shared table.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from core.errors import MetaError, SluiceError
from core.volume import Volume
from gateways.fuse.door import Door, DoorOptions
from gateways.fuse.holder.client import HolderLine
from gateways.fuse.holder.messages import ENDED, HANDED_OVER, HOPELESS
from gateways.fuse.holder.table import SharedTable, peek

log = logging.getLogger("sluice.fuse")

_FIRST_PAUSE_S: Final = 0.2
_LAST_PAUSE_S: Final = 5.0


class Worker:
    """open_volume: without a session. options: known when the volume is open. attend: told of the door when it serves;
    what it returns is closed at the end."""

    def __init__(
        self, line: HolderLine, open_volume: Callable[[], Awaitable[Volume]], options: Callable[[], DoorOptions],
        attend: Callable[[Door], Awaitable[Any]] | None = None, *, patience_s: float = 300,
    ) -> None:  # fmt: skip
        self._line = line
        self._open = open_volume
        self._options = options
        self._attend = attend
        self._patience_s = patience_s
        self._wish: asyncio.Future[str]

    async def run(self) -> int:
        """The exit status. SluiceError and OSError say why it could not begin."""
        stacks_on_signal()
        self._wish = asyncio.get_running_loop().create_future()
        line = self._line
        line.on_hand_over = lambda: self._want("hand-over")
        line.on_stop = lambda: self._want("stop")
        line.start()
        try:
            volume = await self._patiently()
        except (SluiceError, OSError) as e:
            line.tell("failed", text=str(getattr(e, "strerror", None) or e))
            raise
        return await self._serve(volume)

    def _want(self, what: str) -> None:
        if not self._wish.done():
            self._wish.set_result(what)

    async def _patiently(self) -> Volume:
        """A metadata server that is away while we take over is waited for, as requests wait for it."""
        deadline, pause = time.monotonic() + self._patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return await self._open()
            except MetaError as e:
                if not e.retryable or time.monotonic() > deadline or not self._follows():
                    raise
                log.warning("%s; trying again", e.strerror)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter
            pause = min(pause * 2, _LAST_PAUSE_S)

    def _follows(self) -> bool:
        """Is there a mount already that somebody uses? If not, its user wants to hear of an error now."""
        return bool(peek(self._line.table_fd))

    async def _serve(self, volume: Volume) -> int:
        line = self._line
        line.tell("prepared")
        crashed = await line.go()
        began = time.monotonic()
        table = SharedTable(line.table_fd)
        options = self._options()
        door = Door(volume, options, table)
        try:
            await door.start(line.fuse_fd)
        except (SluiceError, OSError) as e:
            line.tell("failed", text=str(getattr(e, "strerror", None) or e))
            raise
        if table.worker > 1:
            log.info(
                "took %s over %s in %.0f ms: %d handles, %d unrecorded bytes", options.mount_point,
                "after a crash" if crashed else "from the worker before", (time.monotonic() - began) * 1000,
                table.open_handles, table.unrecorded_bytes,
            )  # fmt: skip
        line.tell("serving")
        extra = await self._attend(door) if self._attend is not None else None
        ended = asyncio.ensure_future(door.wait())
        try:
            await asyncio.wait((ended, self._wish), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and self._wish.result() == "hand-over":
                await door.hand_over()
                await volume.close()
                return HANDED_OVER
            if door.failure is not None:
                line.tell("failed", text=str(door.failure))
                return HOPELESS
            if ended.done():
                line.tell("unmounted")
            await door.stop()
            await volume.close()
            return ENDED
        finally:
            ended.cancel()
            if extra is not None:
                await extra.close()


def stacks_on_signal() -> None:
    """SIGUSR2 and SIGABRT write the stacks of all threads to standard error, which is the log in the background."""
    faulthandler.enable(sys.stderr)  # SIGABRT, and real crashes
    faulthandler.register(signal.SIGUSR2, sys.stderr, all_threads=True)


def spare_resources() -> None:
    """What a server of files wants of the system, as root, as far as it goes (cli §4.5)."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if os.geteuid() == 0:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 100_000), max(hard, 100_000)))
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
    if os.geteuid() != 0:
        return
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -19)
    except OSError:
        pass
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        pass
    _io_flusher()


def _io_flusher() -> None:
    """Memory for a file system's own work must not wait for that file system (prctl(2), PR_SET_IO_FLUSHER)."""
    import ctypes

    try:
        ctypes.CDLL(None).prctl(57, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def without_huge_pages() -> None:
    """prctl(2), PR_SET_THP_DISABLE; programs that we start inherit it."""
    import ctypes

    ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
