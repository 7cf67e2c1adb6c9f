# SPDX-License-Identifier: Apache-2.0
"""A client with --writeback that writes until somebody kills it: `python -m tests.faults.staging_worker …`.

Each acknowledged file is one line on stdout, written before the next thing happens: its name and the SHA-256 of its
bytes. Small files share packs, large ones have several blocks; some are removed again, some overwritten in part.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random

from core.chunk.cacheoptions import CacheOptions
from core.vfs.vfs import VFS
from core.volume import Volume, open_volume


def say(*words: str) -> None:
    os.write(1, (" ".join(words) + "\n").encode())


async def lane(volume: Volume, vfs: VFS, number: int, rng: random.Random, files: int) -> None:
    mine: list[tuple[bytes, bytes]] = []
    for i in range(files):
        name, roll = f"f{os.getpid()}-{number}-{i}".encode(), rng.random()
        size = rng.randint(1, 60_000) if roll < 0.8 else rng.randint(200_000, 1_000_000)
        data = rng.randbytes(size)
        if roll < 0.5:
            content = await volume.fs.content_of(data)
            await volume.fs.publish(b"/" + name, content)
        else:
            handle = await vfs.create(1, name, os.O_RDWR | (os.O_DSYNC if 0.5 < roll < 0.55 else 0))
            try:
                await handle.write(0, data)
                await handle.fsync()
            finally:
                await handle.release()
        say("has", name.decode(), hashlib.sha256(data).hexdigest())
        mine.append((name, data))
        if rng.random() < 0.1:
            gone, _ = mine.pop(rng.randrange(len(mine)))
            say("removing", gone.decode())
            await volume.fs.unlink(b"/" + gone, skip_trash=True)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("meta_url")
    parser.add_argument("cache_dir")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--lanes", type=int, default=6)
    parser.add_argument("--delay", type=float, default=0)
    args = parser.parse_args()
    volume = await open_volume(
        args.meta_url, cache_dir=args.cache_dir, cache_size=1 << 30, backup_meta=0,
        cache=CacheOptions(writeback=True, upload_delay_s=args.delay, free_ratio=0.0001),
    )  # fmt: skip
    vfs = VFS(volume.meta, volume.slices)
    say("ready")
    rng = random.Random(args.seed)
    try:
        await asyncio.gather(
            *(lane(volume, vfs, n, random.Random(rng.random()), args.files) for n in range(args.lanes))
        )
        await vfs.close()
    finally:
        await volume.close()
    say("done")


if __name__ == "__main__":
    asyncio.run(main())
