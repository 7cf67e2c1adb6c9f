# SPDX-License-Identifier: Apache-2.0
"""A client that writes known content in every way there is: `python -m tests.faults.data_worker URL FOLDER SEED SECONDS
JOURNAL [CACHE [PAUSE]]`. PAUSE: seconds between two operations of a lane on average, so that a short run leaves room
for others.

Several lanes at once, each with files of its own below FOLDER, so that small files share packs: whole bodies (packed
and in blocks), writes in place through open files with fsync, truncation, copies, renames, removals. An operation that
fails ends its lane's certainty about that file only; the journal says so. Prints one JSON line at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path

from core.errors import FsError
from core.vfs.filesystem import FileSystem, ImplicitDirs, SourceChanged
from core.vfs.vfs import VFS
from core.volume import open_volume
from tests.faults.data_journal import Files, Journal, Op, apply, content

LANES = 8
BLOCK = 64 << 10
#: Files of a lane; above it removals come first.
MOST_FILES = 40


class Lane:
    def __init__(
        self, fs: FileSystem, vfs: VFS, folder: str, journal: Journal, rng: random.Random, pause_s: float
    ) -> None:  # fmt: skip
        self.pause_s = pause_s
        self.fs = fs
        self.vfs = vfs
        self.folder = folder
        self.journal = journal
        self.rng = rng
        self.files: Files = {}
        self.done = 0
        self.failed: list[str] = []

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            op = self.next()
            number = self.journal.begin(op)
            try:
                await self.do(op)
            except FsError as e:
                # Nobody knows what became of it: these files are left alone from now on, and in doubt.
                self.journal.failed(number, e)
                self.failed.append(f"{op['do']}: {e}")
                for name in (op["path"], op.get("target")):
                    self.files.pop(name or "", None)
                continue
            apply(self.files, op)
            self.journal.done(number)
            self.done += 1
            if self.pause_s:
                await asyncio.sleep(self.rng.uniform(0, 2 * self.pause_s))

    def next(self) -> Op:
        rng, names = self.rng, list(self.files)
        step = rng.random()
        seed = rng.randrange(1 << 30)
        if len(names) > MOST_FILES:
            step = 1.0
        if step < 0.45 or len(names) < 3:
            size = rng.choice((1, 100, 4096, 12_000, 16_000, BLOCK, 2 * BLOCK + 777, 5 * BLOCK + 1))
            return {"do": "put", "path": f"{self.folder}/f{seed % 40}-{self.done}", "seed": seed, "size": size}
        path = rng.choice(names)
        length = len(self.files[path])
        if step < 0.65:
            return {"do": "write", "path": path, "at": rng.randrange(length + 5000), "seed": seed,
                    "size": rng.choice((1, 500, 9000, BLOCK, BLOCK + 4097))}  # fmt: skip
        if step < 0.70:
            return {"do": "truncate", "path": path, "length": rng.randrange(length + 3000)}
        if step < 0.80:
            return {"do": "clone", "path": path, "target": f"{self.folder}/c{seed % 40}-{self.done}"}
        if step < 0.85:
            return {"do": "rename", "path": path, "target": f"{self.folder}/r{seed % 40}-{self.done}"}
        return {"do": "unlink", "path": path}

    async def do(self, op: Op) -> None:
        fs, path = self.fs, op["path"].encode()
        match op["do"]:
            case "put":
                data = content(op["seed"], op["size"])
                await fs.publish(path, await fs.content_of(data), parents=ImplicitDirs())
            case "write":
                found = await fs.lookup(path)
                handle = await self.vfs.open(found.ino, os.O_RDWR)
                try:
                    await handle.write(op["at"], content(op["seed"], op["size"]))
                    await handle.fsync()
                finally:
                    await handle.release()
            case "truncate":
                found = await fs.lookup(path)
                await self.vfs.truncate(found.ino, op["length"])
            case "clone":
                await self.clone(path, op["target"].encode())
            case "rename":
                await fs.rename(path, op["target"].encode())
            case "unlink":
                await fs.unlink(path, skip_trash=True)

    async def clone(self, source: bytes, target: bytes) -> None:
        """A compaction of the source between reading and committing means trying again."""
        for attempt in range(10):
            found = await self.fs.lookup(source)
            content = await self.fs.clone_content([(found.ino, 0, found.attr.length)])
            try:
                await self.fs.publish(target, content)
                return
            except SourceChanged:
                if attempt == 9:
                    raise


async def main(url: str, folder: str, seed: int, seconds: float, journal: Path, cache: str, pause_s: float) -> None:
    volume = await open_volume(
        url, mount_point="data-worker", heartbeat_s=2, cache_dir=cache or None, cache_size=64 << 20, io_retries=2
    )
    vfs = VFS(volume.meta, volume.slices)
    written = Journal(journal)
    lanes = [
        Lane(volume.fs, vfs, f"{folder}/l{number}", written, random.Random(f"{seed}:{number}"), pause_s)
        for number in range(LANES)
    ]
    until = time.monotonic() + seconds
    await asyncio.gather(*(lane.run(until) for lane in lanes))
    await vfs.close()
    with contextlib.suppress(asyncio.CancelledError):
        await volume.close()
    failed = [text for lane in lanes for text in lane.failed]
    print(json.dumps({"done": sum(lane.done for lane in lanes), "failed": failed}))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    asyncio.run(
        main(
            arguments[0], arguments[1], int(arguments[2]), float(arguments[3]), Path(arguments[4]),
            arguments[5] if len(arguments) > 5 else "", float(arguments[6]) if len(arguments) > 6 else 0,
        )
    )  # fmt: skip
