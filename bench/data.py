# SPDX-License-Identifier: Apache-2.0
"""The data path against an S3 server behind a link: streams, random reads, small files, CPU per GiB.

    python -m bench.data                                     # everything, about 5 minutes
    python -m bench.data --only stream --latency 50 --bandwidth 400 --size 512

versitygw runs on this machine behind `LinkProxy`, a process that adds latency per round trip and limits the bandwidth
of all connections together. Each figure stands beside the bare S3 client's (no volume, enough requests at once) over
the same link in the same run; the ratio is what counts. Metadata is SQLite in a local file. CPU is that of this
process alone. See bench/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core.meta.format import new_format
from core.meta.records import ROOT
from core.object.api import Buffer
from core.object.s3 import S3Store
from core.vfs.vfs import VFS
from core.volume import Volume, format_volume, open_volume
from tests.servers.process import Server
from tests.servers.proxy import LinkProxy
from tests.servers.versitygw import ACCESS_KEY, SECRET_KEY, endpoint, versitygw

MIB = 1 << 20
BLOCK = 4 * MIB
STEP = 256 << 10
RANDOM_READ = 128 << 10
SMALL_FILE = 16 << 10
FOLDER = "folder"  # a bucket of the gateway
PARTS = ("stream", "gateway", "random", "small", "cpu")


class Result(NamedTuple):
    """ratio: ours to the floor of the same run. aim: a text such as "≥ 0.8" and whether it is met, or empty."""

    what: str
    ours: str
    floor: str
    ratio: float
    aim: str = ""
    met: bool | None = None


class Bench:
    """A server, a formatted volume and a big file in it; `results` grows."""

    def __init__(self, server: Server, folder: Path, size: int) -> None:
        self.server = server
        self.folder = folder
        self.size = size
        self.meta_url = f"sqlite3://{folder}/meta.db"
        self.results: list[Result] = []
        self.ino = 0

    def bucket(self, port: int) -> str:
        return f"http://127.0.0.1:{port}/bench"

    async def prepare(self) -> None:
        fmt = new_format(
            "bench", storage="s3", bucket=self.bucket(self.server.port), access_key=ACCESS_KEY, secret_key=SECRET_KEY,
            trash_days=0,
        )  # fmt: skip
        await format_volume(self.meta_url, fmt)
        async with self.volume(self.server.port) as (_, vfs):
            folder, _ = await vfs.meta.mkdir(ROOT, FOLDER.encode(), 0o755)
            self.ino = await write_file(vfs, b"big", self.size, folder)

    @asynccontextmanager
    async def volume(self, port: int, **options: Any) -> AsyncIterator[tuple[Volume, VFS]]:
        volume = await open_volume(self.meta_url, bucket=self.bucket(port), jobs=False, **options)
        vfs = VFS(volume.meta, volume.slices)
        try:
            yield volume, vfs
        finally:
            await vfs.close()
            await volume.close()

    @asynccontextmanager
    async def bare(self, port: int) -> AsyncIterator[S3Store]:
        store = S3Store.open("s3", self.bucket(port), ACCESS_KEY, SECRET_KEY)
        try:
            yield store
        finally:
            await store.close()

    def add(self, result: Result) -> None:
        self.results.append(result)
        mark = "" if result.met is None else f"  aim {result.aim}: {'met' if result.met else 'MISSED'}"
        print(f"{result.what:<52} {result.ours:>18} {result.floor:>18}  ratio {result.ratio:5.2f}{mark}", flush=True)


async def write_file(vfs: VFS, name: bytes, size: int, parent: int = ROOT) -> int:
    handle = await vfs.create(parent, name)
    source = memoryview(random.Random(size).randbytes(8 * MIB))
    for at in range(0, size, MIB):
        begin = at // MIB * 4099 % (7 * MIB)  # no two blocks alike
        await handle.write(at, source[begin : begin + min(MIB, size - at)])
    await handle.flush()
    await handle.release()
    return handle.ino


async def workers(count: int, calls: int, call: Callable[[int], Awaitable[object]]) -> float:
    """Seconds that `calls` calls take, `count` at once."""
    numbers = iter(range(calls))

    async def work() -> None:
        for i in numbers:
            await call(i)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(count)))
    return time.perf_counter() - began


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Calls and bytes of all S3 stores of this process."""
    counts: Counter[str] = Counter()
    get, put = S3Store.get, S3Store.put

    async def counting_get(self: S3Store, key: str, start: int = 0, length: int | None = None) -> Buffer:
        data = await get(self, key, start, length)
        counts["get"] += 1
        counts["got"] += len(data)
        return data

    async def counting_put(self: S3Store, key: str, data: Any) -> None:
        counts["put"] += 1
        await put(self, key, data)

    S3Store.get, S3Store.put = counting_get, counting_put  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        S3Store.get, S3Store.put = get, put  # type: ignore[method-assign]


# -- the parts ----------------------------------------------------------------------------------------------------


async def link_rate(bench: Bench, port: int) -> float:
    """MiB/s of the bare client with 16 requests at once."""
    async with bench.bare(port) as store:
        keys = [info.key async for info in store.list("bench/chunks/") if info.size == BLOCK][: bench.size // BLOCK]
        await workers(16, 16, lambda i: store.get(keys[i], 0, 1))  # connections
        seconds = await workers(16, len(keys), lambda i: store.get(keys[i]))
    return len(keys) * BLOCK / MIB / seconds


async def stream(bench: Bench, latency: float, bandwidth: float) -> None:
    """One cold sequential stream through the vfs, and how long its first byte takes."""
    with LinkProxy(bench.server.port, latency, bandwidth) as proxy:
        floor = await link_rate(bench, proxy.port)
        async with bench.volume(proxy.port) as (_, vfs):
            handle = await vfs.open(bench.ino)
            at, first = 0, 0.0
            began = time.perf_counter()
            while part := await handle.read(at, STEP):
                first = first or time.perf_counter() - began
                at += len(part)
            seconds = time.perf_counter() - began
            assert at == bench.size, at
            # The connections are there: another place of the file, not read ahead.
            other = await vfs.open(bench.ino)
            began = time.perf_counter()
            await other.read(bench.size // 2 + 5 * STEP, RANDOM_READ)
            warm = time.perf_counter() - began
            await handle.release()
            await other.release()
    ours = at / MIB / seconds
    where = f"{latency:g} ms, {bandwidth:g} MiB/s"
    bench.add(
        Result(
            f"one cold stream, {where}", f"{ours:.0f} MiB/s", f"{floor:.0f} MiB/s", ours / floor, "≥ 0.8",
            ours / floor >= 0.8,
        )
    )  # fmt: skip
    if latency:
        trip = latency / 1000
        bench.add(
            Result(
                f"  first 128 KiB, kept connection, {where}", f"{warm * 1e3:.0f} ms", f"{latency:g} ms", warm / trip,
                "≤ 1.5 round trips", warm / trip <= 1.5,
            )
        )  # fmt: skip
        bench.add(
            Result(f"  first 256 KiB of a new connection, {where}", f"{first * 1e3:.0f} ms", f"{2 * latency:g} ms",
                   first / trip / 2)
        )  # fmt: skip


async def gateway(bench: Bench, latency: float, bandwidth: float) -> None:
    """One GET of the big file through the S3 gateway, a process of its own, without and with an empty disk cache."""
    import boto3
    from botocore.config import Config

    from tests.gateways.s3.gateway_process import ACCESS_KEY as ID, REGION, SECRET_KEY as SECRET, GatewayProcess

    where = f"{latency:g} ms, {bandwidth:g} MiB/s"
    with LinkProxy(bench.server.port, latency, bandwidth) as proxy, tempfile.TemporaryDirectory() as cache:
        floor = await link_rate(bench, proxy.port)
        for name, options in (
            ("", ["--cache-size", "0"]),
            (" and a disk cache", ["--cache-dir", cache, "--cache-size", "10G"]),
        ):
            door = GatewayProcess(bench.meta_url, "--bucket", bench.bucket(proxy.port), *options, workers=1)
            with door:
                client = boto3.client(
                    "s3", endpoint_url=door.url, aws_access_key_id=ID, aws_secret_access_key=SECRET, region_name=REGION,
                    config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
                )  # fmt: skip
                url = client.generate_presigned_url("get_object", Params={"Bucket": FOLDER, "Key": "big"})
                before = cpu_seconds([p.pid for p in door.processes()])
                ours = bench.size / MIB / await asyncio.to_thread(download, url, bench.size)
                spent = (cpu_seconds([p.pid for p in door.processes()]) - before) * 1024 * MIB / bench.size
            ratio = ours / floor
            aim: tuple[Any, ...] = () if name else ("≥ 0.8", ratio >= 0.8)
            what = f"one GET through the gateway{name}, {where}"
            bench.add(Result(what, f"{ours:.0f} MiB/s", f"{floor:.0f} MiB/s", ratio, *aim))
            bench.add(Result("  CPU seconds of the gateway per GiB", f"{spent:.2f} s", "", 0.0))


def cpu_seconds(pids: list[int]) -> float:
    """What processes have used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def download(url: str, size: int) -> float:
    """Seconds to fetch a URL; the body goes nowhere."""
    import http.client
    import urllib.parse

    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80)
    buffer, left = bytearray(MIB), size
    began = time.perf_counter()
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    while n := answer.readinto(buffer):
        left -= n
    connection.close()
    assert not left
    return time.perf_counter() - began


async def random_reads(bench: Bench, latency: float, bandwidth: float) -> None:
    """128 KiB at random places: cold, cold with a disk cache, and from that cache."""
    reads, at_once = 1500, 16
    rng = random.Random(4)
    places = [rng.randrange(bench.size // RANDOM_READ) * RANDOM_READ for _ in range(reads)]
    with LinkProxy(bench.server.port, latency, bandwidth) as proxy:
        async with bench.bare(proxy.port) as store:
            keys = [info.key async for info in store.list("bench/chunks/") if info.size == BLOCK]
            await workers(at_once, at_once, lambda i: store.get(keys[i], 0, 1))
            floor = reads / await workers(
                at_once, reads, lambda i: store.get(keys[i % len(keys)], places[i] % BLOCK, RANDOM_READ)
            )
        for cached in (False, True):
            options: dict[str, Any] = {}
            if cached:
                options = {"cache_dir": str(bench.folder / f"cache-{latency:g}"), "cache_size": 4 * bench.size}
            async with bench.volume(proxy.port, **options) as (volume, vfs):
                handles = [await vfs.open(bench.ino) for _ in range(at_once)]

                async def read(i: int) -> None:
                    assert len(await handles[i % at_once].read(places[i], RANDOM_READ)) == RANDOM_READ  # noqa: B023

                with counted() as counts:
                    rate = reads / await workers(at_once, reads, read)
                    ratio = counts["got"] / (reads * RANDOM_READ)
                name = "with an empty disk cache" if cached else "without a cache"
                bench.add(
                    Result(f"random 128 KiB × {at_once}, {name}, {latency:g} ms", f"{rate:.0f}/s", f"{floor:.0f}/s",
                           rate / floor)
                )  # fmt: skip
                bench.add(
                    Result("  bytes fetched per byte asked for", f"{ratio:.2f}", "1", ratio, "≤ 1.3", ratio <= 1.3)
                )
                if cached:
                    for index in range(-(-bench.size // (64 * MIB))):
                        for s in await volume.meta.read_chunk(bench.ino, index):
                            await volume.slices.prefetch(s.id, s.size, 0, s.size)
                    with counted() as counts:
                        rate = reads / await workers(at_once, reads, read)
                    bench.add(
                        Result(f"random 128 KiB × {at_once}, cached on disk", f"{rate:.0f}/s", f"{floor:.0f}/s",
                               rate / floor)
                    )  # fmt: skip
                    assert not counts["got"], counts
                for handle in handles:
                    await handle.release()


async def small_files(bench: Bench, latency: float, count: int = 10_000, writers: int = 32) -> None:
    """Files of 16 KiB: create, write, flush, close; each is in the object store when its close returns."""
    data = os.urandom(SMALL_FILE)
    with LinkProxy(bench.server.port, latency) as proxy:
        async with bench.bare(proxy.port) as store:
            some = min(count, 2000)
            floor = some / await workers(writers, some, lambda i: store.put(f"bare/{latency:g}/{i}", data))
        async with bench.volume(proxy.port) as (_, vfs):

            async def write(i: int) -> None:
                handle = await vfs.create(ROOT, b"small-%d-%d" % (int(latency), i))
                await handle.write(0, data)
                await handle.flush()
                await handle.release()

            with counted() as counts:
                rate = count / await workers(writers, count, write)
            puts = counts["put"] / count
    bench.add(
        Result(f"{count} files of 16 KiB × {writers}, {latency:g} ms", f"{rate:.0f} files/s", f"{floor:.0f} puts/s",
               rate / floor)
    )  # fmt: skip
    bench.add(Result("  objects PUT per file", f"{puts:.3f}", "1", puts, "≤ 0.05", puts <= 0.05))


async def cpu(bench: Bench) -> None:
    """CPU seconds of this process per GiB, no link in between."""
    gib = bench.size / (1 << 30)
    data = random.Random(1).randbytes(BLOCK)
    blocks = bench.size // BLOCK
    async with bench.bare(bench.server.port) as store:
        for _ in range(2):  # once to warm up
            began = time.process_time()
            await workers(8, blocks, lambda i: store.put(f"bare/cpu/{i}", data))
            up = (time.process_time() - began) / gib
            began = time.process_time()
            await workers(8, blocks, lambda i: store.get(f"bare/cpu/{i}"))
            down = (time.process_time() - began) / gib
    async with bench.volume(bench.server.port) as (_, vfs):
        await write_file(vfs, b"warm", bench.size // 4)
        began = time.process_time()
        ino = await write_file(vfs, b"cpu", bench.size)
        own_up = (time.process_time() - began) / gib
        began = time.process_time()
        handle = await vfs.open(ino)
        at = 0
        while part := await handle.read(at, STEP):
            at += len(part)
        own_down = (time.process_time() - began) / gib
        await handle.release()
    for name, ours, floor in (("up", own_up, up), ("down", own_down, down)):
        bench.add(Result(f"CPU seconds per GiB {name}", f"{ours:.2f} s", f"{floor:.2f} s", ours / floor))


async def run(options: argparse.Namespace) -> list[Result]:
    with versitygw("--keep-alive") as server, tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        (server.folder / "data" / "bench").mkdir()
        bench = Bench(server, Path(folder), options.size * MIB)
        print(f"versitygw at {endpoint(server)}; a file of {options.size} MiB; {'ours':>48} {'bare client':>19}")
        await bench.prepare()
        for part, call in (("stream", stream), ("gateway", gateway)):
            if part in options.only:
                for bandwidth in options.bandwidth:
                    for latency in options.latency:
                        await call(bench, latency, bandwidth)
        if "random" in options.only:
            for latency in options.latency:
                await random_reads(bench, latency, max(options.bandwidth))
        if "small" in options.only:
            for latency in options.latency:
                await small_files(bench, latency, options.files)
        if "cpu" in options.only:
            await cpu(bench)
        return bench.results


def main() -> int:
    def numbers(text: str) -> list[float]:
        return [float(n) for n in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--latency", type=numbers, default=[0, 10, 50], help="milliseconds per round trip")
    parser.add_argument("--bandwidth", type=numbers, default=[100, 400], help="MiB/s of the link")
    parser.add_argument("--size", type=int, default=1024, help="MiB of the big file")
    parser.add_argument("--files", type=int, default=10_000, help="number of small files")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args()
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    try:
        import uvloop

        runner: Any = uvloop.run
    except ImportError:
        runner = asyncio.run
    began = time.perf_counter()
    results = runner(run(options))
    missed = [r for r in results if r.met is False]
    print(f"{len(results)} figures in {time.perf_counter() - began:.0f} s; {len(missed)} aims missed")
    for r in missed:
        print(f"  missed: {r.what}: {r.ours} beside {r.floor} (aim {r.aim})")
    if options.json:
        options.json.write_text(json.dumps([r._asdict() for r in results], indent=1, ensure_ascii=False))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
