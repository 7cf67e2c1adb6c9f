# SPDX-License-Identifier: Apache-2.0
"""The WebDAV door in figures: PUT and GET of 1 KiB and 256 MiB, PROPFIND of 10,000 members, beside another server0027s
in the same run (WsgiDAV with its own file provider over the same disk, for example).

    python bench/webdav.py URL USER PASSWORD [OTHER-URL]

URL: a running door. OTHER-URL: another server to compare with. Figures are what one Python client sees; read ratios.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp

MEMBERS = 10_000
SMALL = b"x" * 1024
THREE = b'<propfind xmlns="DAV:"><prop><getlastmodified/><getcontentlength/><resourcetype/></prop></propfind>'


async def rate(count: int, connections: int, work: Callable[[int], Awaitable[None]]) -> float:
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(connections)))
    return count / (time.perf_counter() - started)


async def measure(url: str, login: aiohttp.BasicAuth | None) -> dict[str, float]:
    found: dict[str, float] = {}
    async with aiohttp.ClientSession(auth=login, connector=aiohttp.TCPConnector(limit=64)) as session:

        async def put(number: int) -> None:
            async with session.put(f"{url}/bench/f{number}", data=SMALL) as answer:
                answer.raise_for_status()

        async def get(number: int) -> None:
            async with session.get(f"{url}/bench/f{number}") as answer:
                answer.raise_for_status()
                await answer.read()

        async def member(number: int) -> None:
            async with session.put(f"{url}/bench-many/file-{number:05d}.txt", data=b"x") as answer:
                answer.raise_for_status()

        for folder in ("bench", "bench-many"):
            await session.request("DELETE", f"{url}/{folder}")
            await session.request("MKCOL", f"{url}/{folder}")
        for connections in (1, 8):
            await session.request("DELETE", f"{url}/bench")
            await session.request("MKCOL", f"{url}/bench")
            found[f"PUT 1 KiB, {connections} connections, 1/s"] = await rate(2000, connections, put)
            found[f"GET 1 KiB, {connections} connections, 1/s"] = await rate(2000, connections, get)
        await rate(MEMBERS, 16, member)
        for name, body in (("all properties", None), ("three properties", THREE)):
            started = time.perf_counter()
            async with session.request("PROPFIND", f"{url}/bench-many/", data=body, headers={"Depth": "1"}) as answer:
                await answer.content.readany()
                found[f"PROPFIND {MEMBERS}, {name}, first byte, ms"] = (time.perf_counter() - started) * 1000
                await answer.read()
            found[f"PROPFIND {MEMBERS}, {name}, s"] = time.perf_counter() - started
        large = os.urandom(256 << 20)
        started = time.perf_counter()
        async with session.put(f"{url}/bench/large", data=large) as answer:
            answer.raise_for_status()
        found["PUT 256 MiB, MiB/s"] = 256 / (time.perf_counter() - started)
        started = time.perf_counter()
        async with session.get(f"{url}/bench/large") as answer:
            async for _ in answer.content.iter_any():
                pass
        found["GET 256 MiB, MiB/s (bounded by this client)"] = 256 / (time.perf_counter() - started)
        for folder in ("bench", "bench-many"):
            await session.request("DELETE", f"{url}/{folder}")
    return found


async def main() -> None:
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    login = aiohttp.BasicAuth(sys.argv[2], sys.argv[3])
    ours = await measure(sys.argv[1].rstrip("/"), login)
    other = await measure(sys.argv[4].rstrip("/"), None) if len(sys.argv) > 4 else {}
    for name, value in ours.items():
        beside = f"  other {other[name]:10.2f}  ratio {value / other[name]:6.2f}" if name in other else ""
        print(f"{name:55} {value:10.2f}{beside}")


if __name__ == "__main__":
    asyncio.run(main())
