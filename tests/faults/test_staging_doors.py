# SPDX-License-Identifier: Apache-2.0
"""`--writeback` at the doors: a mount and a gateway of two processes over one cache directory.

What they acknowledge is on the local disk only; every process of the machine reads it at once; umount leaves it there,
`umount --flush` waits until it is uploaded, and the next client with the directory goes on where the last one ended.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.volume import open_volume
from tests.faults.gateway import GatewayProcess, TestVolume
from tests.gateways.fuse.mounts import fast_folder, require_fuse, umount2
from tests.gateways.fuse.process.test_commands import Place, sluice
from tests.servers.process import wait_for


@pytest.fixture
def place() -> Iterator[Place]:
    require_fuse()
    folder = fast_folder("sluice-staging-")
    place = Place(folder)
    try:
        yield place
    finally:
        if place.type():
            umount2(place.point, 2)
        shutil.rmtree(folder, ignore_errors=True)


def staged_blocks(place: Place) -> int:
    for line in (place.point / ".stats").read_text().splitlines():
        if line.startswith("juicefs_staging_blocks "):
            return int(line.split()[1])
    raise AssertionError("the mount has no such figure")


@pytest.mark.timeout(180)
def test_a_mount_leaves_staged_blocks_to_the_next_one(place: Place, rng: random.Random) -> None:
    cache = ("--cache-dir", place.folder / "cache", "--writeback")
    contents = {f"f{i}": rng.randbytes(rng.choice((100, 5000, 300_000))) for i in range(12)}
    done = place.mount(*cache, "--upload-delay", "1h")
    assert done.returncode == 0, done.stderr
    for name, data in contents.items():
        (place.point / name).write_bytes(data)
    assert staged_blocks(place) > 0

    flushed = sluice("umount", "--flush", "--timeout", "1s", place.point)
    assert flushed.returncode == 1 and "still wait for their upload" in flushed.stderr, flushed.stderr
    assert "--upload-delay" in flushed.stderr and place.type() is not None
    ended = sluice("umount", place.point)
    assert ended.returncode == 0, ended.stderr
    assert "stay staged" in place.log.read_text()
    assert not [p for p in place.folder.rglob("chunks/*/*/*_*_*") if "cache" not in p.parts], "something was uploaded"

    done = place.mount(*cache)
    assert done.returncode == 0, done.stderr
    assert {name: (place.point / name).read_bytes() for name in contents} == contents
    flushed = sluice("umount", "--flush", place.point)
    assert flushed.returncode == 0, flushed.stderr
    assert not list((place.folder / "cache").rglob("rawstaging/chunks/*/*/*_*_*"))

    async def elsewhere() -> dict[str, bytes]:
        volume = await open_volume(place.url, session=False)
        try:
            found = {name: await volume.fs.lookup(b"/" + name.encode()) for name in contents}
            return {n: bytes(await volume.fs.read(f, 0, f.attr.length)) for n, f in found.items()}
        finally:
            await volume.close()

    assert asyncio.run(elsewhere()) == contents


@pytest.mark.timeout(180)
def test_two_workers_of_a_gateway_read_what_each_other_staged(rng: random.Random, tmp_path: Path) -> None:
    volume = TestVolume()
    cache = str(tmp_path / "cache")
    contents = {f"/bkt/k{i}": rng.randbytes(rng.choice((100, 5000, 200_000))) for i in range(24)}
    gateway = GatewayProcess(volume, "--cache-dir", cache, "--writeback", "--upload-delay", "1h")

    async def use() -> None:
        assert (await gateway.request("PUT", "/bkt")).ok
        for path, data in contents.items():
            assert (await gateway.request("PUT", path, data)).ok
        # Connections land on either process; each key is asked for often enough that both have answered.
        for path, data in contents.items():
            answers = await asyncio.gather(*(gateway.request("GET", path) for _ in range(4)))
            assert all(a.status == 200 and a.body == data for a in answers), path

    try:
        with gateway:
            asyncio.run(use())
            assert not [p for p in volume.objects.rglob("*_*_*") if p.is_file()]
        again = GatewayProcess(volume, "--cache-dir", cache, "--writeback")
        with again:
            wait_for(lambda: not list(Path(cache).rglob("rawstaging/chunks/*/*/*_*_*")), 60, "uploads")
    finally:
        volume.remove()
