# SPDX-License-Identifier: Apache-2.0
"""What OpenDAL costs beside our own client, and what our adapters cost on the emulators that run here.

    python -m bench.clouds [own opendal wasb gs webdav]

`own` and `opendal` are clients of one versitygw: the difference is the client's. The others are another server each,
so compare only their CPU seconds, which are this process's. 4 MiB and 16 KiB objects, 8 at a time; then a listing of
2000 keys.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.object.api import ObjectStore
from core.object.clouds.opendal_store import OpendalStore
from core.object.open import STORAGES
from core.object.s3 import S3Store
from tests.servers import apache, azurite, fake_gcs, versitygw

MIB = 1 << 20
KEYS = 2000


@contextmanager
def opened(name: str) -> Iterator[ObjectStore]:
    if name in ("own", "opendal"):
        with versitygw.versitygw("--keep-alive") as server:
            (server.folder / "data" / "bench").mkdir()
            url = versitygw.endpoint(server)
            if name == "own":
                yield S3Store.open("s3", f"{url}/bench", versitygw.ACCESS_KEY, versitygw.SECRET_KEY)
            else:
                yield OpendalStore("opendal", "s3", {
                    "bucket": "bench", "endpoint": url, "region": "us-east-1",
                    "access_key_id": versitygw.ACCESS_KEY, "secret_access_key": versitygw.SECRET_KEY,
                })  # fmt: skip
    elif name == "wasb":
        with azurite.azurite() as server:
            os.environ["AZURE_STORAGE_CONNECTION_STRING"] = azurite.connection_string(server)
            yield STORAGES["wasb"]("wasb", "https://bench", "", "", "")
    elif name == "gs":
        with fake_gcs.fake_gcs() as server:
            os.environ["STORAGE_EMULATOR_HOST"] = fake_gcs.endpoint(server)
            yield STORAGES["gs"]("gs", "gs://bench", "", "", "")
    elif name == "webdav":
        with apache.apache() as server:
            yield STORAGES["webdav"]("webdav", f"{apache.endpoint(server)}/bench", apache.USER, apache.PASSWORD, "")
    else:
        raise SystemExit(f"no client {name!r}; known: own opendal wasb gs webdav")


async def timed(call: Callable[[int], Awaitable[Any]], count: int) -> tuple[float, float]:
    numbers = iter(range(count))

    async def work() -> None:
        for i in numbers:
            await call(i)

    cpu, begin = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(8)))
    return time.perf_counter() - begin, time.process_time() - cpu


async def measure(name: str, store: ObjectStore) -> None:
    await store.create()
    for size, count in ((4 * MIB, 32), (16 << 10, 400)):
        data = os.urandom(size)
        await timed(lambda i, data=data: store.put(f"w/{i}", data), 8)
        up, up_cpu = await timed(lambda i, data=data: store.put(f"d/{i % 16}/{i}", data), count)
        down, down_cpu = await timed(lambda i: store.get(f"d/{i % 16}/{i}"), count)
        shown = [f"{count / s:7.0f}/s {cpu / count * 1e3:6.2f} ms CPU" for s, cpu in ((up, up_cpu), (down, down_cpu))]
        print(f"{name:8} {size >> 10:5} KiB put {shown[0]} | get {shown[1]}", flush=True)
    await timed(lambda i: store.put(f"l/{i % 20}/{i}", b"x"), KEYS)
    begin, cpu = time.perf_counter(), time.process_time()
    found = [info async for info in store.list("l/")]
    assert len(found) == KEYS
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(f"{name:8} list {KEYS / seconds:7.0f} keys/s {cpu / KEYS * 1e6:6.0f} µs CPU per key", flush=True)
    await store.close()


async def main(names: list[str]) -> None:
    for name in names:
        with opened(name) as store:
            await measure(name, store)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1:] or ["own", "opendal", "wasb", "gs", "webdav"]))
