# SPDX-License-Identifier: Apache-2.0
"""Many files written, then read, at once by one process: `python -m tests.perf.streams META write|read|both …`.

Each MiB says which file and place it belongs to, so that a reader proves what it got. Prints one line of JSON with the
rate, the CPU seconds and the peak of resident memory (VmHWM) at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

from core.meta.records import ROOT
from core.vfs.vfs import VFS
from core.volume import open_volume
from sluicefs.volume import run as run_on_loop

MIB = 1 << 20
STAMP = struct.Struct("<QQ")


def pattern(compressible: bool) -> bytes:
    rng = random.Random(1)
    if not compressible:
        return rng.randbytes(MIB)
    return b"".join(rng.randbytes(4096) + b"text that is easy to compress " * 137 for _ in range(129))[:MIB]


async def write(vfs: VFS, number: int, size: int, data: bytes) -> None:
    handle = await vfs.create(ROOT, b"stream-%d" % number)
    rest = memoryview(data)[STAMP.size :]  # one buffer for all: what is measured is not ours to fill
    for at in range(0, size, MIB):
        await handle.write(at, STAMP.pack(number, at))
        await handle.write(at + STAMP.size, rest)
    await handle.flush()
    await handle.release()


async def read(vfs: VFS, number: int, size: int, data: bytes, step: int) -> None:
    ino, _ = await vfs.meta.lookup(ROOT, b"stream-%d" % number)
    handle = await vfs.open(ino)
    expected = memoryview(data)
    for at in range(0, size, step):
        found = await handle.read(at, step)
        assert len(found) == step, (number, at, len(found))
        skip = at % MIB
        begin = 0
        if not skip:
            assert STAMP.unpack_from(found) == (number, at), (number, at, STAMP.unpack_from(found))
            begin = STAMP.size
        assert memoryview(found)[begin:] == expected[skip + begin : skip + step], (number, at)
        del found  # what a caller keeps is the caller's
    await handle.release()


async def run(options: argparse.Namespace) -> None:
    keywords: dict[str, Any] = {"bucket": options.bucket} if options.bucket else {}
    volume = await open_volume(options.meta_url, jobs=False, buffer_size=options.budget * MIB, **keywords)
    vfs = VFS(volume.meta, volume.slices)
    data = pattern(options.compressible)
    size = options.mib * MIB // options.streams // MIB * MIB
    began = time.perf_counter()
    if options.what != "read":
        await asyncio.gather(*(write(vfs, i, size, data) for i in range(options.streams)))
    if options.what != "write":
        await asyncio.gather(*(read(vfs, i, size, data, options.step << 10) for i in range(options.streams)))
    seconds = time.perf_counter() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    await vfs.close()
    await volume.close()
    print(
        json.dumps(
            {
                "mib_per_s": round(size * options.streams / MIB / seconds),
                "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
                "peak_mib": peak_mib(),
                "budget_left_used": volume.slices.budget.used,
            }
        )
    )


def peak_mib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("meta_url")
    parser.add_argument("what", choices=["write", "read", "both"])
    parser.add_argument("--bucket", help="another address of the volume's bucket")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--mib", type=int, default=1024, help="of all files together")
    parser.add_argument("--budget", type=int, default=300, help="MiB")
    parser.add_argument("--step", type=int, default=1024, help="KiB per read")
    parser.add_argument("--compressible", action="store_true")
    run_on_loop(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
