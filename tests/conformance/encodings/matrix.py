# SPDX-License-Identifier: Apache-2.0
"""The matrix: every combination of a volume's encodings, and what is written into each. Source: spec data-path §1, §3.

Run as a program it reads a volume back and prints the digest of every file: `python -m … META-URL`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding as Form,
    NoEncryption,
    PrivateFormat,
)

from core.chunk.api import FileRange
from core.errors import ConfigError
from core.meta.format import Format, new_format
from core.object.encrypted import Envelope, load_key
from core.vfs.filesystem import ImplicitDirs
from core.vfs.vfs import VFS
from core.volume import Volume, open_volume

BLOCK = 64 << 10
PASSPHRASE = "a pass phrase of tests"

COMPRESSIONS = ("none", "lz4", "zstd")
#: Name of an encryption: algorithm, form of the key's PEM, with a pass phrase.
ENCRYPTIONS: dict[str, tuple[str, PrivateFormat, bool] | None] = {
    "none": None,
    "gcm-pkcs1": ("aes256gcm-rsa", PrivateFormat.TraditionalOpenSSL, False),
    "gcm-pkcs8": ("aes256gcm-rsa", PrivateFormat.PKCS8, False),
    "gcm-pkcs1-phrase": ("aes256gcm-rsa", PrivateFormat.TraditionalOpenSSL, True),
    "gcm-pkcs8-phrase": ("aes256gcm-rsa", PrivateFormat.PKCS8, True),
    "chacha20": ("chacha20-rsa", PrivateFormat.PKCS8, False),
    "sm4gcm": ("sm4gcm", PrivateFormat.PKCS8, False),
}


class Cell(NamedTuple):
    compression: str
    encryption: str
    hash_prefix: bool
    shards: int

    def __str__(self) -> str:
        return "+".join(
            (self.compression, self.encryption, *["hash"] * self.hash_prefix, *["shards"] * bool(self.shards))
        )

    @property
    def passphrase(self) -> str | None:
        how = ENCRYPTIONS[self.encryption]
        return PASSPHRASE if how is not None and how[2] else None


CELLS = [Cell(*cell) for cell in itertools.product(COMPRESSIONS, ENCRYPTIONS, (False, True), (0, 3))]
#: Each value of each column: for runs that have to be quick.
FEW = [
    Cell("none", "none", True, 3),
    Cell("none", "gcm-pkcs8", False, 0),
    Cell("lz4", "gcm-pkcs8-phrase", True, 0),
    Cell("zstd", "chacha20", False, 3),
    Cell("lz4", "sm4gcm", True, 3),
    Cell("zstd", "gcm-pkcs1-phrase", True, 0),
]


@cache
def private_key(form: PrivateFormat, protected: bool) -> str:
    """One key of each form; making one takes a while."""
    key = rsa.generate_private_key(65537, 2048)
    how = BestAvailableEncryption(PASSPHRASE.encode()) if protected else NoEncryption()
    return key.private_bytes(Form.PEM, form, how).decode()


def volume_format(cell: Cell, folder: Path, *, name: str = "matrix", block_size: int = BLOCK) -> Format:
    how = ENCRYPTIONS[cell.encryption]
    bucket = f"{folder}/shard%d/" if cell.shards else f"{folder}/objects/"
    extra = {} if how is None else {"encrypt_key": private_key(how[1], how[2]), "encrypt_algo": how[0]}
    return new_format(
        name, bucket=bucket, block_size=block_size, compression=cell.compression, hash_prefix=cell.hash_prefix,
        shards=cell.shards, trash_days=0, **extra,
    )  # fmt: skip


def unsupported(cell: Cell) -> str:
    """Why this machine's libraries can't do it; "" if they can."""
    how = ENCRYPTIONS[cell.encryption]
    if how is None:
        return ""
    try:
        Envelope(load_key(private_key(how[1], False)), how[0])
    except ConfigError as e:
        return str(e)
    return ""


async def fill(volume: Volume, rng: random.Random) -> dict[str, str]:
    """Small files that share objects, big ones over several chunks' worth of blocks, compressible and not, holes,
    writes in place, appends, copies, cut and removed ones: path -> digest."""
    fs, vfs, known = volume.fs, VFS(volume.meta, volume.slices), dict[str, bytes]()

    async def put(path: str, data: bytes) -> None:
        await fs.publish(path.encode(), await fs.content_of(data), parents=ImplicitDirs())
        known[path] = data

    sizes = (0, 1, 15, 4095, 4096, BLOCK // 4 - 1, BLOCK // 4, BLOCK // 4 + 1)
    await asyncio.gather(*(put(f"/small/{n}", rng.randbytes(sizes[n % len(sizes)])) for n in range(40)))
    await asyncio.gather(*(put(f"/text/{n}", b"word %d " % n * 1500) for n in range(10)))
    for n, size in enumerate((BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 17, 40 * BLOCK)):
        await put(f"/big/{n}", rng.randbytes(size))
    await put("/big/zeros", bytes(3 * BLOCK + 5))
    try:
        made = await fs.publish(b"/holes", await fs.content_of(b"start"))
        known["/holes"] = b"start"
        async with await vfs.open(made.ino, os.O_RDWR) as file:
            data = bytearray(b"start".ljust(6 * BLOCK + 9000, b"\0"))
            for at in (3 * BLOCK - 7, 6 * BLOCK, 100):
                part = rng.randbytes(9000)
                await file.write(at, part)
                data[at : at + 9000] = part
                await file.fsync()
            known["/holes"] = bytes(data)
        found = await fs.lookup(b"/big/3")
        async with await vfs.open(found.ino, os.O_RDWR) as file:
            data = bytearray(known["/big/3"])
            for at, size in ((10, 100), (BLOCK - 5, 10), (2 * BLOCK, 2 * BLOCK)):
                part = rng.randbytes(size)
                await file.write(at, part)
                data[at : at + size] = part
            known["/big/3"] = bytes(data)
        cut = await fs.lookup(b"/big/4")
        await vfs.truncate(cut.ino, 17 * BLOCK + 3)
        known["/big/4"] = known["/big/4"][: 17 * BLOCK + 3]
    finally:
        await vfs.close()
    source = await fs.lookup(b"/big/3")
    await fs.publish(b"/copy", await fs.clone_content([(source.ino, BLOCK // 2, 3 * BLOCK)]))
    known["/copy"] = known["/big/3"][BLOCK // 2 :][: 3 * BLOCK]
    for path in ("/small/3", "/small/11", "/big/0"):
        await fs.unlink(path.encode(), skip_trash=True)
        del known[path]
    while volume.meta._background:
        await asyncio.wait(set(volume.meta._background))
    return {path: hashlib.sha256(data).hexdigest() for path, data in known.items()}


async def digests(volume: Volume) -> dict[str, str]:
    """Every file of a volume, read whole."""
    found: dict[str, str] = {}
    waiting = [(b"", 1)]
    while waiting:
        folder, ino = waiting.pop()
        for entry in await volume.fs.list_dir(ino, limit=100_000):
            path = folder + b"/" + entry.name
            assert entry.attr is not None
            if entry.attr.is_dir:
                waiting.append((path, entry.ino))
                continue
            digest = hashlib.sha256()
            file = await volume.fs.lookup(path)
            async for part in volume.fs.iter_range(file, 0, file.attr.length):
                if isinstance(part, FileRange):
                    with open(part.path, "rb") as local:
                        local.seek(part.offset)
                        digest.update(local.read(part.length))
                else:
                    digest.update(part)
            found[path.decode()] = digest.hexdigest()
    return found


async def _main(url: str) -> None:
    volume = await open_volume(url, read_only=True, session=False)
    try:
        print(json.dumps(await digests(volume)))
    finally:
        await volume.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
