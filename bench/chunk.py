# SPDX-License-Identifier: Apache-2.0
"""Costs of the data path alone: packing, cached reads, streaming, codecs, cache files.

    python -m bench.chunk [pack|jitter|cached|write|read|codec|cache|staged …]

Each line prints what the floor of the same run is (the bare object store, a memory copy, a bare file read), so that
results are ratios. Needs no server; files go to a temporary folder (TMPDIR).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from core.chunk import cachefile
from core.chunk.cachedir import CacheLimits
from core.chunk.diskcache import DiskCache
from core.chunk.encoding import codec_for
from core.chunk.readahead import ReadStream
from core.chunk.staging import StagingOptions
from core.chunk.store import BlockSliceStore
from core.meta.records import Slice
from core.meta.slices import flatten, pieces_for
from core.object.api import Buffer, ObjectStore
from core.object.file import FileStore
from core.object.memory import MemStore

MIB = 1 << 20
BLOCK = 4 * MIB
LEVELS: tuple[cachefile.Level, ...] = ("none", "full", "shrink", "extend")


class Far(MemStore):
    """Objects behind a network: each call takes a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.puts = 0

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        self.puts += 1
        await asyncio.sleep(self.seconds)
        await super().put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        await asyncio.sleep(self.seconds)
        return await super().get(key, start, length)


@asynccontextmanager
async def opened(objects: ObjectStore, **options: Any) -> AsyncIterator[BlockSliceStore]:
    counter = itertools.count(1)

    async def new_slice_id() -> int:
        return next(counter)

    settings = {"block_size": BLOCK, "compression": "none", "hash_prefix": False, **options}
    store = BlockSliceStore(objects, new_slice_id=new_slice_id, **settings)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def measured(callers: int, calls: int, call: Callable[[], Awaitable[object]], think_s: float = 0) -> str:
    waits: list[float] = []

    async def caller() -> None:
        for _ in range(calls):
            if think_s:
                await asyncio.sleep(random.random() * 2 * think_s)
            begin = time.perf_counter()
            await call()
            waits.append(time.perf_counter() - begin)

    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    waits.sort()
    n = len(waits)
    return (
        f"{n / wall:8.0f}/s  cpu {cpu / n * 1e6:6.1f} µs/call  p50 {waits[n // 2] * 1e3:6.2f} ms"
        f"  p99 {waits[n * 99 // 100] * 1e3:6.2f} ms"
    )


async def pack() -> None:
    data = os.urandom(1024)
    with tempfile.TemporaryDirectory() as folder:
        files = FileStore(folder)
        names = itertools.count()
        print("bare 1 KiB put, file   1 caller  ", await measured(1, 2000, lambda: files.put(f"x/{next(names)}", data)))
        for callers in (1, 8, 32):
            async with opened(files, hash_prefix=True) as store:
                line = await measured(callers, 8000 // callers, lambda: store.pack(data))
            print(f"pack 1 KiB, file    {callers:4d} callers ", line)
            files = FileStore(folder)
    for callers in (1, 32):
        async with opened(MemStore()) as store:
            print(f"pack 1 KiB, memory  {callers:4d} callers ", await measured(callers, 500, lambda: store.pack(data)))


async def jitter() -> None:
    """How many packs should be under way? Callers that think for 0-6 ms between calls."""
    data = os.urandom(1024)
    for seconds in (0.003, 0.02, 0.05):
        for packs in (1, 2, 4, 8, 16):
            far = Far(seconds)
            async with opened(far, max_packs=packs) as store:
                line = await measured(32, 30, lambda: store.pack(data), 0.003)
            print(f"put {seconds * 1e3:3.0f} ms, {packs:2d} packs: {line}  {far.puts / 960:.2f} puts/call")
    for packs in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as folder:
            async with opened(FileStore(folder, fsync=True), max_packs=packs) as store:
                line = await measured(32, 60, lambda: store.pack(data), 0.001)
            print(f"file with fsync, {packs} packs: {line}")


async def cached() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with opened(FileStore(folder)) as store:
            alone = await store.pack(os.urandom(1024))
            shared = (await asyncio.gather(*(store.pack(os.urandom(1024)) for _ in range(32))))[7]
            for name, p in (("its own object", alone), ("part of a pack", shared)):
                seconds = timeit.timeit(lambda p=p: store.read_cached(p.id, p.size, p.off, p.length), number=200_000)
                print(f"read_cached 1 KiB, {name}: {seconds * 5:.2f} µs")
                print(f"read 1 KiB, {name}, in memory:", await measured(1, 20_000, lambda p=p: store.read(*p[:4])))
            pieces = [await store.pack(os.urandom(1024)) for _ in range(3000)]
            store.reader._hot._shrink(1 << 40)
            order = iter(pieces)
            line = await measured(1, 3000, lambda: store.read(*next(order)[:4]))
            print("read 1 KiB, local file, first time:", line)


async def write() -> None:
    """Best of three: the first run of a process pays for memory that nobody touched before."""
    source = memoryview(os.urandom(BLOCK))
    target = bytearray(BLOCK)
    seconds = timeit.timeit(lambda: target.__setitem__(slice(None), source), number=64)
    print(f"floor, memory copy: {256 / seconds:.0f} MiB/s")

    async def bare(files: FileStore) -> None:
        for i in range(64):
            await files.put(f"bare/{i}", source)

    async def slices(store: BlockSliceStore) -> None:
        for _ in range(4):
            writer = await store.writer()
            for i in range(1024):
                view = writer.buffer()[: 64 << 10]
                at = i % 64 << 16  # walk through the block: 64 KiB again and again would be easy to compress
                view[:] = source[at : at + len(view)]
                await writer.advance(len(view))
            await store.remove((piece := await writer.finish()).id, piece.size)

    async def best(work: Callable[[], Awaitable[None]]) -> str:
        results = []
        for _ in range(3):
            begin, cpu = time.perf_counter(), time.process_time()
            await work()
            results.append((time.perf_counter() - begin, (time.process_time() - cpu) * 4))
        return f"{256 / min(results)[0]:.0f} MiB/s, {min(results)[1]:.2f} CPU s/GiB"

    with tempfile.TemporaryDirectory() as folder:
        print("bare puts of 4 MiB, one after another:", await best(lambda: bare(FileStore(folder))))
        for compression in ("none", "lz4", "zstd"):
            async with opened(FileStore(folder), compression=compression) as store:
                print(f"4 slices of 64 MiB, {compression}:", await best(lambda: slices(store)))


async def read() -> None:
    async def run(objects: ObjectStore, step: int, **options: Any) -> tuple[float, float]:
        async with opened(objects, **options) as store:
            writer = await store.writer()
            for _ in range(16):
                await writer.write(os.urandom(BLOCK))
            p = await writer.finish()

            async def pieces_of(index: int, start: int, end: int) -> list[Slice]:
                return pieces_for([Slice(0, p.id, p.size, 0, p.size)], start, end)

            begin, cpu = time.perf_counter(), time.process_time()
            for _ in range(4):
                stream = ReadStream(store, pieces_of, p.size)
                at = 0
                while part := await stream.read_some(at, step):
                    at += len(part)
                stream.close()
            return 256 / (time.perf_counter() - begin), (time.process_time() - cpu) * 4

    for step in (BLOCK, 128 << 10):
        for compression in ("none", "lz4"):
            with tempfile.TemporaryDirectory() as folder:
                rate, cpu = await run(FileStore(folder), step, compression=compression)
            print(f"read stream, file, {compression}, steps of {step >> 10} KiB: {rate:.0f} MiB/s, {cpu:.2f} CPU s/GiB")
        rate, cpu = await run(Far(0.02), step)
        print(f"read stream, 20 ms away, steps of {step >> 10} KiB: {rate:.0f} MiB/s (one at a time: 200)")


async def codec() -> None:
    loop = asyncio.get_running_loop()
    print("hop to a thread and back:", await measured(1, 2000, lambda: loop.run_in_executor(None, int)))
    text = (b"some compressible text, and %d numbers; " * 4000)[: 128 << 10]
    for name in ("lz4", "zstd"):
        c = codec_for(name)
        for n in (4 << 10, 16 << 10, 64 << 10, 128 << 10):
            raw = c.encode(text[:n])
            there = timeit.timeit(lambda c=c, n=n: c.encode(text[:n]), number=300) / 300
            back = timeit.timeit(lambda c=c, n=n, raw=raw: c.decode(raw, n), number=300) / 300
            print(f"{name} {n >> 10:4d} KiB: encode {there * 1e6:.0f} µs, decode {back * 1e6:.0f} µs")
    many = [Slice(i * 7919 % 60_000_000, i + 1, 4096, 0, 4096) for i in range(1000)]
    print(f"flatten 1000 records: {timeit.timeit(lambda: flatten(many), number=20) / 20 * 1e3:.2f} ms")


async def cache() -> None:
    data = os.urandom(BLOCK)
    print(f"checksums of 4 MiB: {timeit.timeit(lambda: cachefile.checksums(data), number=20) / 20 * 1e3:.2f} ms")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "block")
        cachefile.write(path, data, "extend", 0o600, 0o700)
        for n in (1 << 10, 64 << 10, BLOCK):
            number = 20 if n == BLOCK else 1000
            floor = 0.0
            for level in LEVELS:
                s = timeit.timeit(lambda n=n, level=level: cachefile.read(path, BLOCK, 0, n, level), number=number)
                floor = floor or s
                print(f"cache file, {n >> 10} KiB, {level}: {s / number * 1e6:.0f} µs, {s / floor:.2f} of none")
        for level in LEVELS:
            disk = DiskCache([folder], level, CacheLimits(size=1 << 30, verify=level, free_ratio=0.0001))
            await disk.start()
            await disk.put_wait((1, 0, BLOCK), data)
            while disk.directories[0].pending:
                await asyncio.sleep(0.01)
            for n in (4 << 10, 64 << 10, 128 << 10):
                line = await measured(1, 1000, partial(_read_next, disk, itertools.cycle(range(0, BLOCK - n, n)), n))
                print(f"read of {n >> 10:3d} KiB from the disk cache, {level:6}: {line}")
            await disk.close()


async def staged() -> None:
    """Writes that are acknowledged on the local disk beside those that go to a store 20 ms away, and beside what the
    disk itself can do: a file and its folder synced for each of them."""
    small, size = os.urandom(16 << 10), 16 << 10
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        names = itertools.count()

        def alone() -> None:
            path = f"{folder}/{next(names)}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT)
            os.write(fd, small)
            os.fsync(fd)
            os.close(fd)
            fd = os.open(folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

        with ThreadPoolExecutor(32) as threads:
            for callers in (1, 32):
                line = await measured(callers, 256 // callers, lambda: loop.run_in_executor(threads, alone))
                print(f"file and folder synced, {callers:2d} at once:       {line}")
    for share in (True, False):
        for callers in (1, 32):
            for where in ("direct", "staged"):
                with tempfile.TemporaryDirectory() as folder:
                    far = Far(0.02)
                    async with opened(far, share_slices=share, **_staging(folder, where)) as store:
                        number = 1024 // callers if where == "staged" else 8
                        line = await measured(callers, number, partial(store.pack, small))
                    kind = "packed" if share else "single"
                print(f"{size >> 10} KiB {kind}, {where}, {callers:2d} callers: {line}")
    source = os.urandom(BLOCK)
    for where in ("direct", "staged"):
        with tempfile.TemporaryDirectory() as folder:
            async with opened(Far(0.02), **_staging(folder, where)) as store:
                begin, cpu = time.perf_counter(), time.process_time()
                for _ in range(4):
                    writer = await store.writer()
                    for _ in range(16):
                        await writer.write(source)
                    await writer.finish()
                seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(f"4 slices of 64 MiB, {where}: {256 / seconds:.0f} MiB/s, {cpu * 4:.2f} CPU s/GiB")
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        for i in range(64):
            fd = os.open(f"{folder}/{i}", os.O_WRONLY | os.O_CREAT)
            os.write(fd, source)
            os.fsync(fd)
            os.close(fd)
        print(f"floor, 64 files of 4 MiB synced one by one: {256 / (time.perf_counter() - begin):.0f} MiB/s")


async def _read_next(disk: DiskCache, offsets: Iterator[int], n: int) -> object:
    return await disk.get((1, 0, BLOCK), next(offsets), n)


def _staging(folder: str, where: str) -> dict[str, Any]:
    if where == "direct":
        return {}
    limits = CacheLimits(size=1 << 40, free_ratio=0.0001, writeback=True)
    return {"cache": DiskCache([folder], "bench", limits), "staging": StagingOptions(delay_s=1e6)}


def main() -> None:
    parts = {f.__name__: f for f in (pack, jitter, cached, write, read, codec, cache, staged)}
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    for name in sys.argv[1:] or [p for p in parts if p != "jitter"]:
        print(f"# {name}")
        run(parts[name]())


if __name__ == "__main__":
    main()
