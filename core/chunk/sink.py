# SPDX-License-Identifier: Apache-2.0
"""Where blocks of a slice go: what a writer and a packer need to know of it, and no more.

`Transfer` sends them to the object store, `StagedSink` to a local disk first. A type, no code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from core.chunk.naming import BlockId
from core.object.api import Buffer


class BlockSink(Protocol):
    #: `put` makes a copy of what it is given, which lives until it returns.
    copies: bool
    #: Hold it during a `put` whose copy finds no room in the budget.
    copying: asyncio.Semaphore
    #: How many blocks are worth being handed over at once.
    sending: asyncio.Semaphore
    #: Hold it from `encode` until the plain bytes are returned or the coded ones charged.
    coding: asyncio.Semaphore

    async def encode(self, data: Buffer) -> Buffer:
        """The bytes that `put` wants for a block; `data` itself if they are the same."""
        ...

    async def put(self, block: BlockId, payload: Buffer, give_up: Callable[[], bool] | None = None) -> bool:
        """The block is as durable as this sink makes it when this returns; else BlockError. False (or an exception):
        somebody may still be reading `payload`, so its memory must never be written again."""
        ...

    async def delete(self, block: BlockId) -> None:
        """Remove a block, wherever it got to; a missing one is fine. Raises ObjectError."""
        ...
