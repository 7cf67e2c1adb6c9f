# SPDX-License-Identifier: Apache-2.0
"""A mount of the file system in memory, served by the test's own loop.

System calls on the mount must not run in the loop's thread, which has to answer them: use `in_thread` or a program.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateways.fuse import mount as mounting
from gateways.fuse.server import FuseServer
from gateways.fuse.session import Options
from tests.gateways.fuse.channel.memory_fs import MemoryFs
from tests.gateways.fuse.mounts import require_fuse


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.wait_for(asyncio.to_thread(function, *args, **kwargs), 20)


async def shell(script: str, cwd: Path) -> str:
    """Run in the folder, which must not be looked at by ourselves; output and errors."""
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", f'cd "{cwd}" && {script}', stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    return out.decode()


class Mounted:
    def __init__(self, point: Path, options: Options, fs: MemoryFs) -> None:
        self.point = point
        self.options = options
        self.fs = fs
        self.server = FuseServer(fs, options)

    async def start(self) -> Mounted:
        self.point.mkdir(exist_ok=True)
        fd = mounting.mount(str(self.point), "SluiceFS:memory", options=self.options.mount_options())
        await self.server.start(fd)
        return self

    async def close(self) -> None:
        # Abort first: a thread that still waits in a system call is let go.
        await asyncio.to_thread(mounting.abort, str(self.point))
        with contextlib.suppress(OSError):
            await asyncio.to_thread(mounting.unmount, str(self.point), lazy=True)
        await self.server.stop(timeout_s=1)


Mounter = Callable[..., Any]


@pytest.fixture
async def mounter(tmp_path: Path) -> AsyncIterator[Mounter]:
    """Mount with `await mounter(option=…)`; several if wanted."""
    require_fuse()
    found: list[Mounted] = []

    async def mount(*, fs: MemoryFs | None = None, **options: Any) -> Mounted:
        mounted = Mounted(tmp_path / f"mnt{len(found)}", Options(allow_other=True, **options), fs or MemoryFs())
        found.append(mounted)
        return await mounted.start()

    yield mount
    for mounted in found:
        await mounted.close()


@pytest.fixture
async def mounted(mounter: Mounter) -> Mounted:
    one: Mounted = await mounter()
    return one
