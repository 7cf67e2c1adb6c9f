# SPDX-License-Identifier: Apache-2.0
"""One client of a volume that does whatever comes to mind on shared directories: `python -m … URL SECONDS SEED`.

Several tasks at once, all metadata, no objects: slices are numbers only. Prints one JSON line: how often each operation
succeeded, and every error that isn't an ordinary answer to a race.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import sys
import time
from collections import Counter

from core.errors import FsError, MetaError
from core.meta.meta import Meta, load_format
from core.meta.records import DIRECTORY, Slice
from core.volume import open_record_store

TASKS = 6
NAMES = [b"n%d" % i for i in range(12)]
#: What losing a race looks like.
ORDINARY = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EINVAL, errno.EDQUOT,
}  # fmt: skip


class Worker:
    def __init__(self, meta: Meta, seed: int) -> None:
        self.meta = meta
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.dirs: list[int] = []

    async def run(self, seconds: float) -> None:
        await self.look()
        until = time.monotonic() + seconds
        await asyncio.gather(*(self.loop(until) for _ in range(TASKS)))

    async def look(self) -> None:
        """Directories that are there now: the shared ones and what everybody has made below them."""
        shared = await self.meta.readdir(1, b"", 100)
        found = [e.ino for e in shared if e.type == DIRECTORY]
        for top in list(found):
            found += [e.ino for e in await self.meta.readdir(top, b"", 100) if e.type == DIRECTORY]
        self.dirs = found

    async def loop(self, until: float) -> None:
        names = [name for name in dir(self) if name.startswith("do_")]
        while time.monotonic() < until:
            name = self.random.choice(names)
            try:
                await getattr(self, name)()
                self.done[name[3:]] += 1
            except MetaError as e:
                self.wrong.append(f"{name[3:]}: {e}")
            except FsError as e:
                if e.errno in ORDINARY:
                    self.refused[name[3:]] += 1
                else:
                    self.wrong.append(f"{name[3:]}: {e}")
            except Exception as e:
                self.wrong.append(f"{name[3:]}: {type(e).__name__}: {e}")
            if self.random.random() < 0.02:
                await self.look()

    def a_dir(self) -> int:
        return self.random.choice(self.dirs)

    def a_name(self) -> bytes:
        return self.random.choice(NAMES)

    async def a_file(self) -> int:
        directory = self.a_dir()
        page = await self.meta.readdir(directory, b"", 100)
        files = [e.ino for e in page if e.type != DIRECTORY]
        if not files:
            raise FsError(errno.ENOENT)
        return self.random.choice(files)

    async def do_create(self) -> None:
        await self.meta.create(self.a_dir(), self.a_name(), exclusive=True)

    async def do_mkdir(self) -> None:
        await self.meta.mkdir(self.a_dir(), b"d" + self.a_name())

    async def do_unlink(self) -> None:
        await self.meta.unlink(self.a_dir(), self.a_name(), skip_trash=self.random.random() < 0.5)

    async def do_rmdir(self) -> None:
        await self.meta.rmdir(self.a_dir(), b"d" + self.a_name(), skip_trash=self.random.random() < 0.5)

    async def do_rename(self) -> None:
        flags = self.random.choice((0, 0, 0, 1, 2))
        prefix = b"d" if self.random.random() < 0.2 else b""
        await self.meta.rename(self.a_dir(), prefix + self.a_name(), self.a_dir(), prefix + self.a_name(), flags)

    async def do_link(self) -> None:
        await self.meta.link(await self.a_file(), self.a_dir(), self.a_name())

    async def do_write(self) -> None:
        ino = await self.a_file()
        ident = self.meta.slice_ids.take_nowait() or await self.meta.slice_ids.take()
        size = self.random.choice((1, 4096, 70_000))
        at = self.random.randrange(1 << 20)
        index = self.random.choice((0, 0, 1))
        await self.meta.write_slices(ino, index, [Slice(at, ident, size, 0, size)], time.time_ns())

    async def do_truncate(self) -> None:
        length = self.random.choice((0, self.random.randrange(1 << 20)))
        await self.meta.truncate(await self.a_file(), length)

    async def do_copy(self) -> None:
        source, target = await self.a_file(), await self.a_file()
        if source != target:
            await self.meta.copy_file_range(source, 0, target, self.random.randrange(1 << 20), 1 << 20)

    async def do_chmod(self) -> None:
        await self.meta.setattr(await self.a_file(), {"mode": self.random.choice((0o600, 0o644, 0o755))})

    async def do_chown(self) -> None:
        await self.meta.setattr(await self.a_file(), {"uid": self.random.randrange(4), "gid": self.random.randrange(4)})

    async def do_xattr(self) -> None:
        await self.meta.setxattr(await self.a_file(), b"user.k%d" % self.random.randrange(3), b"v")


async def main(url: str, seconds: float, seed: int) -> None:
    store = open_record_store(url)
    await store.open()
    fmt = await load_format(store)
    assert fmt is not None
    meta = Meta(store, fmt)

    async def forget(slice_id: int, size: int) -> None:
        """There are no objects."""

    meta.remove_slice = forget
    meta.on_deleted = meta.delete_data_soon
    meta.on_freed = meta.delete_slices_soon
    await meta.new_session("campaign")
    worker = Worker(meta, seed)
    await worker.run(seconds)
    await meta.close()
    print(json.dumps({"done": worker.done, "refused": worker.refused, "wrong": worker.wrong}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
