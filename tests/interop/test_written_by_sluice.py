# SPDX-License-Identifier: Apache-2.0
"""Volumes that SluiceFS wrote, checked and read by a JuiceFS client: nothing lost, nothing leaked, every byte equal.

Not covered for want of a client that can: `--hash-prefix` and `dump` are younger than 0.14.2; `juicefs info` prints
the slices instead.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from core.meta.records import CHUNK_SIZE
from core.vfs.filesystem import FileSystem
from core.volume import Volume, open_volume
from tests.gateways.s3.gateway_process import ACCESS_KEY, REGION, SECRET_KEY, GatewayProcess
from tests.interop.conftest import Place
from tests.interop.content import Tree, digest, mounted_tree, same, some_bytes, store, store_all, tree_of
from tests.interop.juicefs import age
from tests.interop.recount import check_records, slice_uses

KIB, MIB = 1 << 10, 1 << 20


def small_files(rng: random.Random, folders: int, each: int, limit: int) -> Iterator[tuple[bytes, bytes]]:
    for folder in range(folders):
        for number in range(each):
            length = rng.choice((0, 1, 47, 4095, 4096, 4097, limit, rng.randrange(1, limit)))
            yield b"/small/%02d/sub \xc3\xa9/file-%03d" % (folder, number), some_bytes(rng, length)


async def fill(volume: Volume, rng: random.Random) -> Tree:
    """Small files that share objects, big ones over several chunks, copies, replaced and removed ones."""
    fs = volume.fs
    block = volume.format.block_size
    tree = await store_all(fs, small_files(rng, 20, 25, block // 4))
    sizes = {b"block": block, b"block-1": block - 1, b"block+1": block + 1, b"odd": 3 * block + 17}
    sizes[b"chunk"] = CHUNK_SIZE
    sizes[b"two-chunks-and-a-bit"] = CHUNK_SIZE + 5 * block // 2 + 3
    for name, length in sizes.items():
        data = some_bytes(rng, length)
        await store(fs, b"/big/" + name, data)
        tree[b"/big/" + name] = digest(data)

    # Copies share slices; a copy made of many sources is what a multipart upload becomes.
    await clone(fs, [b"/big/two-chunks-and-a-bit"], b"/copies/whole", tree)
    # Four slices: reading a chunk of more makes the mount compact it at once; that is another test's subject.
    parts = [b"/big/odd", b"/big/block-1", b"/small/03/sub \xc3\xa9/file-003"]
    await clone(fs, parts, b"/copies/joined", tree)

    names = sorted(path for path in tree if path.startswith(b"/small/"))
    tree |= await store_all(fs, ((path, some_bytes(rng, rng.randrange(1, block // 4))) for path in names[::7]))
    gone = [*names[3::11], b"/big/odd"]
    async with asyncio.TaskGroup() as group:
        for path in gone:
            del tree[path]
            group.create_task(fs.unlink(path))
    for path in names[1::50]:
        if path in tree:
            await fs.rename(path, b"/moved " + path.rpartition(b"/")[2] + path.split(b"/")[2])
            tree[b"/moved " + path.rpartition(b"/")[2] + path.split(b"/")[2]] = tree.pop(path)
    return tree


async def clone(fs: FileSystem, sources: list[bytes], target: bytes, tree: Tree) -> None:
    parts = [await fs.lookup(path, chunk=True) for path in sources]
    content = await fs.clone_content([(found.ino, 0, found.attr.length) for found in parts])
    data = b"".join([bytes(await fs.read(found, 0, found.attr.length)) for found in parts])
    await store(fs, b"/copies/.keep", b"x")  # makes the folder
    await fs.publish(target, content)
    tree[target] = digest(data)
    tree[b"/copies/.keep"] = digest(b"x")


def check_with_juicefs(place: Place) -> None:
    place.juicefs.fsck()
    assert age(place.objects) > 50
    assert place.juicefs.gc().leaked == 0


@pytest.mark.parametrize(("compression", "block_size"), [("none", 4 * MIB), ("lz4", 64 * KIB), ("zstd", MIB)])
async def test_a_volume_written_by_sluice_is_whole_for_juicefs(
    place: Place, rng: random.Random, compression: str, block_size: int, tmp_path: Path
) -> None:
    await place.format(compression=compression, block_size=block_size)
    volume = await open_volume(place.meta_url)
    try:
        tree = await fill(volume, rng)
        shared = {key: n for key, n in (await slice_uses(volume)).items() if n > 1}
        assert sum(shared.values()) > 200, "small files were not packed, so this test would prove little"
    finally:
        await volume.close()
    await asyncio.to_thread(check_with_juicefs, place)
    with place.juicefs.mount(tmp_path / "mnt") as point:
        same(await asyncio.to_thread(mounted_tree, point), tree)
        await asyncio.to_thread(slices_agree, place, point)
    assert place.juicefs.status()["Setting"]["Name"] == "shared"
    volume = await open_volume(place.meta_url, read_only=True)
    try:
        await check_records(volume)
    finally:
        await volume.close()


def slices_agree(place: Place, point: Path) -> None:
    """`juicefs info` names inode, length and slices of a file; the object of each slice has that size."""
    names = sorted((point / "small/05/sub é").iterdir())[:20]
    for path in [*names, point / "big/two-chunks-and-a-bit", point / "copies/joined"]:
        if not path.stat().st_size:
            continue
        text = place.juicefs.run("info", str(path)).stdout
        assert int(re.search(r"inode: (\d+)", text)[1]) == path.stat().st_ino  # type: ignore[index]
        rows = [tuple(map(int, row)) for row in re.findall(r"^\t+(\d+):\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", text, re.M)]
        assert sum(row[4] for row in rows) == path.stat().st_size, text
        for _, slice_id, size, off, length in rows:
            assert off + length <= size
            assert list(place.objects.glob(f"shared/chunks/{slice_id // 10**6}/{slice_id // 1000}/{slice_id}_0_*"))


async def test_objects_put_through_the_gateway_are_files_of_a_juicefs_mount(
    place: Place, rng: random.Random, tmp_path: Path
) -> None:
    await place.format(compression="lz4")
    tree: Tree = {}
    with GatewayProcess(place.meta_url) as gateway, place.juicefs.mount(tmp_path / "mnt") as point:
        s3 = boto3.client(
            "s3", endpoint_url=gateway.url, region_name=REGION, aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY, config=Config(max_pool_connections=16),
        )  # fmt: skip

        def put(key: str, data: bytes) -> None:
            s3.put_object(Bucket="bucket", Key=key, Body=data)
            tree[f"/bucket/{key}".encode()] = digest(data)

        def upload_parts(key: str, parts: list[bytes]) -> None:
            upload = s3.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"]
            done = []
            for number, part in enumerate(parts, 1):
                answer = s3.upload_part(Bucket="bucket", Key=key, UploadId=upload, PartNumber=number, Body=part)
                done.append({"PartNumber": number, "ETag": answer["ETag"]})
            s3.complete_multipart_upload(Bucket="bucket", Key=key, UploadId=upload, MultipartUpload={"Parts": done})
            tree[f"/bucket/{key}".encode()] = digest(b"".join(parts))

        s3.create_bucket(Bucket="bucket")
        bodies = [(f"a/{n % 7}/ü{n}", some_bytes(rng, rng.randrange(9000))) for n in range(200)]
        async with asyncio.TaskGroup() as group:
            gate = asyncio.Semaphore(12)

            async def one(key: str, data: bytes) -> None:
                async with gate:
                    await asyncio.to_thread(put, key, data)

            for key, data in bodies:
                group.create_task(one(key, data))
        await asyncio.to_thread(upload_parts, "big/multi", [some_bytes(rng, n) for n in (5 * MIB, 6 * MIB + 1, 77)])
        s3.copy_object(Bucket="bucket", Key="big/copy", CopySource={"Bucket": "bucket", "Key": "big/multi"})
        tree[b"/bucket/big/copy"] = tree[b"/bucket/big/multi"]
        s3.delete_object(Bucket="bucket", Key="big/multi")
        del tree[b"/bucket/big/multi"]
        seen = {path: value for path, value in mounted_tree(point).items() if path.startswith(b"/bucket/")}
        same({path: value for path, value in seen.items() if not path.startswith(b"/bucket/.")}, tree)

        # The other way round: what the mount writes, the gateway serves, also into a file it packed itself.
        (point / "bucket/from-mount").write_bytes(b"written by JuiceFS")
        packed = next(key for key, data in bodies if len(data) > 4000)
        with open(point / "bucket" / packed, "r+b") as f:
            f.seek(1000)
            f.write(b"X" * 2000)
            f.flush()
            os.fsync(f.fileno())
        data = dict(bodies)[packed]
        answer = s3.get_object(Bucket="bucket", Key=packed)
        assert answer["Body"].read() == data[:1000] + b"X" * 2000 + data[3000:]
        assert s3.get_object(Bucket="bucket", Key="from-mount")["Body"].read() == b"written by JuiceFS"
    await asyncio.to_thread(check_with_juicefs, place)
    volume = await open_volume(place.meta_url)
    try:
        assert (await tree_of(volume.fs, b"/bucket"))[b"/bucket/big/copy"] == tree[b"/bucket/big/copy"]
        await check_records(volume)
    finally:
        await volume.close()


async def test_the_checks_see_a_lost_and_a_leaked_object(place: Place) -> None:
    """What the other tests rely on: this fsck fails for a lost block, this gc names one that nobody uses."""
    await place.format()
    volume = await open_volume(place.meta_url)
    await store(volume.fs, b"/file", b"some bytes")
    await volume.close()
    (block,) = [p for p in (place.objects / "shared/chunks").rglob("*") if p.is_file()]
    block.rename(block.with_name("999_0_10"))
    age(place.objects)
    with pytest.raises(AssertionError, match="1 object is lost"):
        place.juicefs.fsck()
    assert place.juicefs.gc().leaked == 1
