# SPDX-License-Identifier: Apache-2.0
"""Volumes made by JuiceFS 1.4.1, on every engine, are read exactly as it wrote them: every attribute, every byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.volume import open_volume
from tests.golden.reader import differences
from tests.golden.volumes import golden, names

#: One volume per engine that holds files of gigabytes, mostly holes.
_LARGE = ("sqlite-plain", "redis-lz4", "postgres-zstd", "mariadb-none", "etcd-lz4")


async def read_all(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> None:
    with golden(name, folder) as there:
        if there.passphrase:
            monkeypatch.setenv("JFS_RSA_PASSPHRASE", there.passphrase)
        volume = await open_volume(
            there.meta_url, read_only=True, session=False, bucket=there.bucket, cache_dir="memory"
        )
        try:
            assert await differences(volume, there.manifest(), large=large) == []
            trash = list(there.manifest("trash.jsonl"))
            if trash:  # volumes without one have no such list
                assert await differences(volume, trash, trash=True, large=large) == []
        finally:
            await volume.close()


@pytest.mark.parametrize("name", names())
async def test_every_file_is_read_as_juicefs_wrote_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read_all(name, tmp_path, monkeypatch, large=False)


@pytest.mark.heavy
@pytest.mark.parametrize("name", _LARGE)
async def test_gigabytes_of_holes_are_read_to_the_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await read_all(name, tmp_path, monkeypatch, large=True)
