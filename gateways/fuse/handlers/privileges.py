# SPDX-License-Identifier: Apache-2.0
"""Changing a file's content takes set-user-id and set-group-id from it, unless the caller may keep them.

The kernel leaves that to us (HANDLE_KILLPRIV_V2). With writes it says so, for every single write of anybody but root,
so that the usual file, which has no such bits, must not pay for it. With fallocate and copy_file_range it says nothing;
there everybody but root loses them. Source: linux/fuse.h (7.33); inode(7), "the set-user-ID bit is cleared".
"""

from __future__ import annotations

import inspect
from typing import Any

from gateways.fuse.api import Answer, Call, Reply
from gateways.fuse.handlers.translate import Translate
from gateways.fuse.wire.constants import WRITE_KILL_SUIDGID


class PrivilegeHandlers(Translate):
    """Mixin of `PosixOperations`, before `FileHandlers`."""

    def write(
        self, call: Call, fh: int, offset: int, data: memoryview, write_flags: int, lock_owner: int, flags: int
    ) -> Answer:  # fmt: skip
        if write_flags & WRITE_KILL_SUIDGID and not self.posix.has_privileges(call.nodeid):
            write_flags &= ~WRITE_KILL_SUIDGID
        return super().write(call, fh, offset, data, write_flags, lock_owner, flags)

    async def fallocate(self, call: Call, fh: int, offset: int, length: int, mode: int) -> Reply:
        reply = await _answered(super().fallocate(call, fh, offset, length, mode))
        if call.uid:
            await self.posix.kill_privileges(call.nodeid)
        return reply

    async def copy_file_range(
        self, call: Call, fh_in: int, off_in: int, nodeid_out: int, fh_out: int, off_out: int, length: int, flags: int
    ) -> Reply:
        reply = await _answered(
            super().copy_file_range(call, fh_in, off_in, nodeid_out, fh_out, off_out, length, flags)
        )
        if call.uid:
            await self.posix.kill_privileges(nodeid_out)
        return reply


async def _answered(answer: Any) -> Reply:
    reply: Reply = await answer if inspect.isawaitable(answer) else answer
    return reply
