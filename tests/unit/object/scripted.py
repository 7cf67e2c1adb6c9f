# SPDX-License-Identifier: Apache-2.0
"""A TCP server that answers HTTP requests with given bytes, for what no real server does on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

#: Takes the head of a request, returns the bytes to answer. None closes without one, a trailing CLOSE after it.
Script = Callable[[bytes], bytes | None]
CLOSE = b"\0CLOSE"


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def in_turn(*answers: bytes | None) -> Script:
    waiting = iter(answers)
    return lambda head: next(waiting)


@asynccontextmanager
async def serving(script: Script, heads: list[bytes] | None = None) -> AsyncIterator[int]:
    """Yields the port. heads: collects what was asked. Bodies are read by Content-Length and dropped."""
    seen: Sequence[bytes] | None = heads
    tasks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if seen is not None and heads is not None:
                    heads.append(head)
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line[15:]))
                data = script(head)
                if data is None:
                    return
                writer.write(data.removesuffix(CLOSE))
                await writer.drain()
                if data.endswith(CLOSE):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
