# SPDX-License-Identifier: Apache-2.0
"""What object stores cost: CPU seconds per GiB in 4 MiB blocks, and 1 KiB requests per second at 32 at a time.

    python -m bench.object [file own aioboto3 opendal obstore]

S3 clients run against versitygw on this machine (with --keep-alive; without it versitygw closes after each answer), so
both share the cores: read the rates as ratios within one run. CPU counts this process only. opendal and obstore are
not dependencies; they are here because they are what our own client has to beat.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from core.object.file import FileStore
from core.object.s3 import S3Store
from tests.servers.versitygw import ACCESS_KEY, SECRET_KEY, endpoint, versitygw

Put = Callable[[str, bytes], Awaitable[Any]]
Get = Callable[[str], Awaitable[Any]]
MIB = 1 << 20


async def _run(call: Callable[[int], Awaitable[Any]], count: int, at_once: int) -> tuple[float, float]:
    """(seconds, CPU seconds)"""
    numbers = iter(range(count))

    async def work() -> None:
        for i in numbers:
            await call(i)

    cpu, begin = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return time.perf_counter() - begin, time.process_time() - cpu


async def measure(name: str, put: Put, get: Get, blocks: int = 48, small: int = 2000) -> None:
    block, bit = os.urandom(4 * MIB), os.urandom(1024)
    await _run(lambda i: put(f"b/{i}", block), 4, 4)
    up, up_cpu = await _run(lambda i: put(f"b/{i}", block), blocks, 4)
    down, down_cpu = await _run(lambda i: get(f"b/{i}"), blocks, 4)
    assert bytes(await get("b/0")) == block
    await _run(lambda i: put(f"s/{i}", bit), 64, 32)
    puts, puts_cpu = await _run(lambda i: put(f"s/{i}", bit), small, 32)
    gets, gets_cpu = await _run(lambda i: get(f"s/{i}"), small, 32)
    gib = blocks / 256
    print(
        f"{name:10} up {up_cpu / gib:5.2f} s/GiB {blocks * 4 / up:6.0f} MiB/s | "
        f"down {down_cpu / gib:5.2f} s/GiB {blocks * 4 / down:6.0f} MiB/s | "
        f"put 1 KiB {small / puts:6.0f}/s {puts_cpu / small * 1e6:5.0f} µs CPU | "
        f"get 1 KiB {small / gets:6.0f}/s {gets_cpu / small * 1e6:5.0f} µs CPU",
        flush=True,
    )


@asynccontextmanager
async def client(name: str, url: str, folder: Path) -> AsyncIterator[tuple[Put, Get]]:
    if name == "file":
        store = FileStore(str(folder))
        yield store.put, store.get
        await store.close()
    elif name == "own":
        own = S3Store.open("s3", f"{url}/bench", ACCESS_KEY, SECRET_KEY)
        yield own.put, own.get
        await own.close()
    elif name == "aioboto3":
        from core.object.s3.boto import BotoStore

        boto = BotoStore.open("s3", f"{url}/bench", ACCESS_KEY, SECRET_KEY)
        yield boto.put, boto.get
        await boto.close()
    elif name == "opendal":
        import opendal

        operator = opendal.AsyncOperator(
            "s3", bucket="bench", endpoint=url, region="us-east-1", access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
        )  # fmt: skip
        yield operator.write, operator.read
    elif name == "obstore":
        from obstore.store import S3Store as Obstore

        remote = Obstore(
            "bench", endpoint=url, region="us-east-1", access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )  # fmt: skip

        async def get(key: str) -> memoryview:
            return memoryview(await (await remote.get_async(key)).bytes_async())

        yield lambda key, data: remote.put_async(key, data, use_multipart=False), get
    else:
        raise SystemExit(f"no client {name!r}; known: file own aioboto3 opendal obstore")


async def main(names: list[str]) -> None:
    with versitygw("--keep-alive") as server, tempfile.TemporaryDirectory() as folder:
        (server.folder / "data" / "bench").mkdir()
        for name in names:
            try:
                async with client(name, endpoint(server), Path(folder)) as (put, get):
                    await measure(name, put, get)
            except ImportError as error:
                print(f"{name:10} skipped: {error}")


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1:] or ["file", "own", "aioboto3", "opendal", "obstore"]))
