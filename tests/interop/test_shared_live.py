# SPDX-License-Identifier: Apache-2.0
"""One volume, written by SluiceFS and by a JuiceFS mount at the same time: no file is lost, mixed up or taken along.

Every actor keeps to names of its own and knows what they must hold; the directories are shared, and so are the objects
that files were packed into. Some files change hands: packed here, then extended, overwritten, renamed or removed there,
and the other way round. In the end both clients must see what the model says, and the records must add up.

JuiceFS 0.14.2 compacts a chunk of five slices or more when it is read or written, and its compaction then does `DECR`
on a key of its own instead of the count in `sliceRef`: it takes every replaced slice for unused and deletes its
objects, whoever shares them. `test_this_old_client_loses_shared_data_by_its_own_compaction` shows that without
any packed file.
So the tests here keep shared slices out of chunks that it may compact.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

from core.meta import keys as k
from core.volume import Volume, open_volume
from tests.interop.conftest import Place
from tests.interop.content import Tree, digest, mounted_tree, same, some_bytes, store, store_all, tree_of
from tests.interop.juicefs import age
from tests.interop.recount import check_records, slice_uses

FOLDERS = 6
ROUNDS = 300
Model = dict[bytes, bytes]
Given = asyncio.Queue[tuple[bytes, bytes]]


def a_path(rng: random.Random, owner: str, number: int) -> bytes:
    return b"/d%d/%s-%d" % (rng.randrange(FOLDERS), owner.encode(), number)


class SluiceActor:
    """Creates in bursts (so that files are packed), replaces, renames, removes, copies; hands files over."""

    def __init__(self, volume: Volume, name: str, rng: random.Random, given: Given) -> None:
        self.fs, self.name, self.rng, self.given = volume.fs, name, rng, given
        self.model: Model = {}

    async def run(self) -> None:
        for number in range(ROUNDS):
            await self._step(number)

    async def _step(self, number: int) -> None:
        rng, fs, model = self.rng, self.fs, self.model
        action = rng.random()
        names = sorted(model)
        if action < 0.4 or len(names) < 4:
            burst = {
                a_path(rng, f"{self.name}-{number}", i): some_bytes(rng, rng.randrange(1, 20000)) for i in range(8)
            }
            await asyncio.gather(*(store(fs, path, data) for path, data in burst.items()))
            (first, data), *rest = burst.items()
            model.update(rest)
            self.given.put_nowait((first, data))
        elif action < 0.55:
            path = rng.choice(names)
            model[path] = some_bytes(rng, rng.choice((0, 10, 5000, 300_000)))
            await store(fs, path, model[path])
        elif action < 0.7:
            old, new = rng.choice(names), a_path(rng, self.name, number)
            await fs.rename(old, new)
            model[new] = model.pop(old)
        elif action < 0.85:
            path = rng.choice(names)
            await fs.unlink(path)
            del model[path]
        else:
            path, copy = rng.choice(names), a_path(rng, f"{self.name}-copy", number)
            found = await fs.lookup(path, chunk=True)
            await fs.publish(copy, await fs.clone_content([(found.ino, 0, found.attr.length)]))
            model[copy] = model[path]


class MountActor:
    """The same by system calls; takes over files that the other side packed, and changes them in place."""

    def __init__(self, point: Path, name: str, rng: random.Random) -> None:
        self.point, self.name, self.rng = os.fsencode(point), name, rng
        self.model: Model = {}
        self.packed: set[bytes] = set()  # taken over and not changed in place yet: once is safe, see above
        self.fixed: set[bytes] = set()  # taken over and changed

    def create(self, number: int) -> None:
        path = a_path(self.rng, self.name, number)
        self.model[path] = some_bytes(self.rng, self.rng.choice((1, 4000, 70_000)))
        self._write(path, self.model[path])

    def step(self, number: int) -> None:
        rng, model = self.rng, self.model
        names = sorted(model)
        action = rng.random()
        if action < 0.2 or len(names) < 3:
            self.create(number)
            return
        path = rng.choice(names)
        if action < 0.7:
            if path in self.fixed:
                action = 0.9
            elif path in self.packed:
                self.packed.remove(path)
                self.fixed.add(path)
        if action < 0.4:
            extra = some_bytes(rng, rng.randrange(1, 3000))
            with open(self.point + path, "ab") as f:
                f.write(extra)
            model[path] += extra
        elif action < 0.6:
            data = bytearray(model[path])
            at = rng.randrange(len(data) + 1)
            patch = rng.randbytes(rng.randrange(1, 2000))
            with open(self.point + path, "r+b") as f:
                f.seek(at)
                f.write(patch)
            data[at : at + len(patch)] = patch
            model[path] = bytes(data)
        elif action < 0.7:
            length = rng.randrange(len(model[path]) + 5000)
            os.truncate(self.point + path, length)
            model[path] = model[path][:length].ljust(length, b"\0")
        elif action < 0.85:
            new = a_path(rng, self.name, number)
            os.rename(self.point + path, self.point + new)
            model[new] = model.pop(path)
            for names_of in (self.packed, self.fixed):
                if path in names_of:
                    names_of.remove(path)
                    names_of.add(new)
        else:
            os.unlink(self.point + path)
            del model[path]

    def _write(self, path: bytes, data: bytes) -> None:
        with open(self.point + path, "wb") as f:
            f.write(data)

    def check(self, path: bytes, wanted: bytes) -> None:
        with open(self.point + path, "rb") as f:
            assert f.read() == wanted, path


async def run_mount_actor(actor: MountActor, given: Given) -> None:
    for number in range(ROUNDS):
        while not given.empty():
            path, data = given.get_nowait()
            await asyncio.to_thread(actor.check, path, data)  # close-to-open: what was acknowledged is visible
            actor.model[path] = data
            actor.packed.add(path)
        await asyncio.to_thread(actor.step, number)


def hashes(*models: Model) -> Tree:
    return {path: digest(data) for model in models for path, data in model.items()}


async def finish(place: Place, volume: Volume, point: Path, wanted: Tree) -> None:
    """Both clients see the model."""
    same(await tree_of(volume.fs), wanted)
    same(await asyncio.to_thread(mounted_tree, point), wanted)


async def check_afterwards(place: Place) -> None:
    """With everybody gone: counters, references and objects add up for both."""
    await asyncio.to_thread(place.juicefs.fsck)
    volume = await open_volume(place.meta_url)
    try:
        await volume.meta.clean_deleted_files()
        await volume.meta.clean_unused_slices()
        await check_records(volume, objects=False)
        age(place.objects)
        assert (await asyncio.to_thread(place.juicefs.gc, "--delete")).slices > 0
        await check_records(volume)
    finally:
        await volume.close()
    await asyncio.to_thread(place.juicefs.fsck)


async def test_both_clients_at_work_in_the_same_directories(place: Place, rng: random.Random, tmp_path: Path) -> None:
    await place.format(compression="lz4", block_size=256 << 10)
    volume = await open_volume(place.meta_url)
    try:
        for folder in range(FOLDERS):
            await volume.fs.mkdir(b"/d%d" % folder)
        with place.juicefs.mount(tmp_path / "mnt") as point:
            given: Given = asyncio.Queue()
            ours = [SluiceActor(volume, f"sluice{n}", random.Random(rng.random()), given) for n in range(2)]
            theirs = [MountActor(point, f"mount{n}", random.Random(rng.random())) for n in range(2)]
            async with asyncio.TaskGroup() as group:
                for actor in ours:
                    group.create_task(actor.run())
                for other in theirs:
                    group.create_task(run_mount_actor(other, given))
            models = [a.model for a in ours] + [a.model for a in theirs]
            left: Model = {}
            while not given.empty():
                left.update([given.get_nowait()])
            await finish(place, volume, point, hashes(*models, left))
    finally:
        await volume.close()
    await check_afterwards(place)


async def test_removing_packed_files_through_the_mount_leaves_their_neighbours(
    place: Place, rng: random.Random, tmp_path: Path
) -> None:
    await place.format()
    volume = await open_volume(place.meta_url)
    try:
        files = [(b"/p/%03d" % n, some_bytes(rng, rng.randrange(100, 9000))) for n in range(200)]
        tree = await store_all(volume.fs, files)
        before = await slice_uses(volume)
        assert max(before.values()) > 3
        with place.juicefs.mount(tmp_path / "mnt") as point:
            gone = rng.sample(sorted(tree), 120)
            for path in gone:
                (point / os.fsdecode(path[1:])).unlink()
                del tree[path]
            same(await tree_of(volume.fs), tree)
        uses = await slice_uses(volume)
        assert sum(uses.values()) == len(tree)
        assert set(uses) < set(before) or len(uses) == len(before)
    finally:
        await volume.close()
    await check_afterwards(place)


async def test_juicefs_compacts_files_that_begin_with_our_slices(
    place: Place, rng: random.Random, tmp_path: Path
) -> None:
    """Slices that nobody else uses: see above for the others."""
    await place.format(compression="zstd")
    volume = await open_volume(place.meta_url)
    try:
        files = {b"/c/%02d" % n: some_bytes(rng, rng.randrange(3000, 9000)) for n in range(12)}
        for path, data in files.items():
            await store(volume.fs, path, data)  # one after another: each has an object to itself
        assert set((await slice_uses(volume)).values()) == {1}
        with place.juicefs.mount(tmp_path / "mnt") as point:
            for path in sorted(files)[::2]:
                data = bytearray(files[path])
                for turn in range(9):
                    patch = rng.randbytes(500)
                    at = len(data) if turn % 2 else rng.randrange(len(data))
                    data[at : at + 500] = patch
                    with open(point / os.fsdecode(path[1:]), "r+b") as f:
                        f.seek(at)
                        f.write(patch)
                files[path] = bytes(data)
            same(await tree_of(volume.fs), hashes(files))
            await asyncio.to_thread(place.juicefs.gc, "--compact")
            for path in files:
                wanted = files[path]
                assert await asyncio.to_thread((point / os.fsdecode(path[1:])).read_bytes) == wanted  # compacts too
            longest = [len(raw) // 24 async for raw in chunk_values(volume)]
            assert max(longest) < 10, f"nothing was compacted: {longest}"
            await finish(place, volume, point, hashes(files))
    finally:
        await volume.close()
    await check_afterwards(place)


async def test_this_old_client_loses_shared_data_by_its_own_compaction(place: Place, tmp_path: Path) -> None:
    """Nothing of ours in it: a volume that JuiceFS 0.14.2 formatted, a copy that it made. If this ever fails, the
    client got better, and the care that the other tests take can go."""
    place.juicefs.format("shared", "--bucket", str(place.objects))
    with place.juicefs.mount(tmp_path / "mnt") as point:
        (point / "a").write_bytes(bytes(range(256)) * 64)
        with open(point / "a", "rb") as source, open(point / "b", "wb") as copy:
            os.copy_file_range(source.fileno(), copy.fileno(), 1 << 14)
        for number in range(8):
            with open(point / "a", "ab") as f:
                f.write(b"%d" % number)
        volume = await open_volume(place.meta_url, read_only=True)
        try:
            assert (await slice_uses(volume)).most_common(1)[0][1] == 2, "the copy shares no slice"
            await asyncio.to_thread((point / "a").read_bytes)
            await asyncio.to_thread(place.juicefs.gc, "--compact")
        finally:
            await volume.close()
    assert "lost" in place.juicefs.run("fsck", place.meta_url, check=False).stderr


async def chunk_values(volume: Volume) -> AsyncIterator[bytes]:
    async for _, raw in volume.meta.store.scan(k.CHUNK):
        yield raw
