# SPDX-License-Identifier: Apache-2.0
"""A server that takes over where the kernel can't hand out requests again: what the dead one had read fails."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import struct
import subprocess
import sys
from pathlib import Path

import msgspec

from gateways.fuse import mount as mounting
from gateways.fuse.abandoned import Abandoned
from gateways.fuse.api import Answer, Call
from gateways.fuse.operations import Operations
from gateways.fuse.server import FuseServer
from gateways.fuse.session import Options
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import Init, Opcode
from tests.gateways.fuse.mounts import require_fuse


class Root(Operations):
    """A folder where every name is the same file."""

    def getattr(self, call: Call, fh: int | None) -> Answer:
        return replies.attr(_attr(call.nodeid), 0)

    def lookup(self, call: Call, name: bytes) -> Answer:
        return replies.entry(2, _attr(2), 0, 0)


def _attr(ino: int) -> bytes:
    mode = 0o040755 if ino == 1 else 0o100644
    return replies.pack_attr(ino, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0)


def stat(point: Path, name: str) -> subprocess.Popen[str]:
    script = "import os, sys; print(os.stat(sys.argv[1]).st_ino)"
    return subprocess.Popen(
        [sys.executable, "-c", script, str(point / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


async def test_requests_of_a_dead_server_fail_and_new_ones_are_served(tmp_path: Path) -> None:
    require_fuse()
    fd = mounting.mount(str(tmp_path), "test:abandoned", "sluicetest", ["default_permissions"])
    loop = asyncio.get_running_loop()
    try:
        first = FuseServer(Root(), Options())
        agreed = await first.start(os.dup(fd))
        for n in range(5):  # some traffic
            process = stat(tmp_path, f"n{n}")
            assert (await loop.run_in_executor(None, process.communicate))[0] == "2\n"
        await first.stop()
        # It dies with requests in its hands: read, and never answered.
        victims = [stat(tmp_path, f"victim{n}") for n in range(3)]
        read = 0
        while read < len(victims):
            await loop.run_in_executor(None, select.select, [fd], [], [], 10)
            (opcode,) = struct.unpack_from("=4xI", os.read(fd, 1 << 21))
            read += opcode not in (Opcode.FORGET, Opcode.BATCH_FORGET)  # the kernel forgets when memory gets short
        second = FuseServer(Root(), Options())
        abandoned = Abandoned()
        second.observe(abandoned)
        old_kernel = msgspec.structs.replace(agreed, flags=agreed.flags & ~Init.HAS_RESEND)
        await second.start(os.dup(fd), old_kernel)
        assert not second.notify.resend()
        process = stat(tmp_path, "later")
        assert (await loop.run_in_executor(None, process.communicate))[0] == "2\n"
        assert abandoned.done is not None
        assert await abandoned.done >= 3
        for victim in victims:
            _, err = await loop.run_in_executor(None, victim.communicate)
            assert victim.returncode == 1
            assert f"[Errno {errno.EIO}]" in err
        await second.stop()
    finally:
        os.close(fd)
        mounting.unmount(str(tmp_path), lazy=True)
