# SPDX-License-Identifier: Apache-2.0
"""Several doors over one volume in the same processes: one session, one cache, one set of workers for all of them.

A `Door` is what a protocol brings: where it listens, and its application over an opened volume. Workers are forked
before any loop or thread exists, so whatever is opened is opened inside `build`, on the worker's own loop.
Source: design §6, §7.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

from core.errors import VolumeError
from core.vfs.temporary import Cleaner
from core.volume import DEFAULT_BUFFER, Volume
from gateways.http.messages import Application
from gateways.http.workers import Listener, Worker, serve_all
from sluicefs.volume import opened

#: Of one process; below it transfers wait for each other.
_LEAST_BUFFER = 64 << 20


class Door(Protocol):
    """One protocol over a volume. Made, and its options proven, before anything is forked."""

    listener: Listener

    def application(self, volume: Volume, worker: Worker) -> AbstractAsyncContextManager[Application]:
        """What answers requests in one worker, as long as the block runs."""


def run_doors(
    meta_url: str, doors: Sequence[Door], *, workers: int | None, label: str, client: dict[str, Any],
    on_ready: Callable[[list[int]], None],
) -> int:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C; the exit status. Call it before anything has started a loop or a thread.

    label: name of this client in `status`. client: options of `open_volume`. on_ready: gets the doors' ports.
    """
    count = workers or len(os.sched_getaffinity(0))
    # The budget is for all processes together, as in JuiceFS; each gets its share.
    client["buffer_size"] = max(_LEAST_BUFFER, (client.get("buffer_size") or DEFAULT_BUFFER) // count)

    @asynccontextmanager
    async def build(each: Sequence[Worker]) -> AsyncIterator[Sequence[Application]]:
        async with opened(meta_url, mount_point=label, **client) as volume, AsyncExitStack() as stack:
            volume.meta.on_fatal = _end_process
            if each[0].number == 0 and not client.get("read_only"):
                cleaning = asyncio.create_task(Cleaner(volume.fs).run())
                stack.push_async_callback(ended, cleaning)
            yield [
                await stack.enter_async_context(door.application(volume, worker))
                for door, worker in zip(doors, each, strict=True)
            ]

    return serve_all(build, [door.listener for door in doors], count, on_ready=on_ready)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancel it, and wait until it is over."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _end_process(error: VolumeError) -> None:
    """The volume vanished or was replaced (the log says so): serving on would mix two volumes. 11: don't restart."""
    os._exit(11)
