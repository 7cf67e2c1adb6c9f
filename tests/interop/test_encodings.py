# SPDX-License-Identifier: Apache-2.0
"""Volumes of each encoding that JuiceFS 0.14.2 knows, formatted by it, filled by SluiceFS, read back by it; and files
that it writes, read by SluiceFS. (Hash prefixes, ChaCha20, SM4 and secrets that are encrypted in the setting are
younger; the golden volumes of 1.4.1 cover reading them.)
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from core.check import ObjectCheck, check
from core.gc import collect
from core.scrub import BlockProof, Scrub
from core.volume import open_volume
from tests.conformance.encodings.matrix import PASSPHRASE, digests, fill, private_key
from tests.interop.conftest import Place
from tests.interop.content import mounted_tree, tree_of
from tests.interop.juicefs import age

#: Form of the key, protected by a pass phrase.
KEYS = {"plain": None, "rsa": False, "rsa-phrase": True}


@pytest.mark.heavy
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_juicefs_reads_what_was_written_here(
    compression: str, key: str, place: Place, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--bucket", str(place.objects), "--block-size", "64", "--compress", compression]
    protected = KEYS[key]
    if protected is not None:
        pem = tmp_path / "key.pem"
        pem.write_text(private_key(PrivateFormat.TraditionalOpenSSL, protected))
        options += ["--encrypt-rsa-key", str(pem)]
        environment = {**place.juicefs.environment(), **({"JFS_RSA_PASSPHRASE": PASSPHRASE} if protected else {})}
        monkeypatch.setattr(place.juicefs, "environment", lambda: environment)
        monkeypatch.setenv("JFS_RSA_PASSPHRASE", PASSPHRASE if protected else "")
    place.juicefs.format("shared", *options)
    volume = await open_volume(place.meta_url)
    try:
        known = await fill(volume, rng)
        # This client compacts what it reads in five pieces, and then deletes slices that a copy uses as well.
        await collect(volume, delete=True, compact=True, min_age_s=0)
        with place.juicefs.mount(tmp_path / "mount") as point:

            def read() -> dict[str, str]:
                return {
                    "/" + path.relative_to(point).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                    for folder in ("small", "text", "big")
                    for path in (point / folder).iterdir()
                } | {f"/{name}": hashlib.sha256((point / name).read_bytes()).hexdigest() for name in ("holes", "copy")}

            assert await asyncio.to_thread(read) == known
            theirs = rng.randbytes(300_000) + b"compressible" * 20_000
            await asyncio.to_thread((point / "theirs").write_bytes, theirs)
            assert await tree_of(volume.fs) == await asyncio.to_thread(mounted_tree, point)
        assert (await digests(volume))["/theirs"] == hashlib.sha256(theirs).hexdigest()
        looking = ObjectCheck(volume.objects, BlockProof(volume.objects, volume.format))
        kinds = {finding.kind for finding in await check(volume.meta, objects=looking)}
        assert not kinds & {"object", "object-size", "object-data", "references"}, kinds
        # What is kept beside the blocks disturbs nobody.
        await collect(volume, delete=True)
        scrubbed = await Scrub(volume).run()
        assert not scrubbed.faults and scrubbed.new_sums
    finally:
        await volume.close()
    place.juicefs.fsck()
    age(place.objects)
    assert place.juicefs.gc().leaked == 0
