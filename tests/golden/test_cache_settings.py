# SPDX-License-Identifier: Apache-2.0
"""Every golden volume read with every cache setting: cold, then again from what was cached, by a second client.

Two volumes run always, all of them in the heavy run. A cache may lose blocks at any time and is never wrong; the second
reading must give the same bytes, and where blocks are cached on disk it must find them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.chunk.cacheoptions import CacheOptions
from core.volume import Volume, open_volume
from tests.golden.reader import differences
from tests.golden.volumes import GoldenVolume, golden, names

#: Name -> options of `open_volume`; `{0}` is a folder of the test. Blocks lie on disk afterwards: yes or no.
SETTINGS: dict[str, tuple[dict[str, Any], bool]] = {
    "none": ({"cache_dir": None}, False),
    "size 0": ({"cache_dir": "{0}/a", "cache_size": 0}, False),
    "memory": ({"cache_dir": "memory"}, False),
    "small memory": ({"cache_dir": "memory", "cache_size": 1 << 20}, False),
    "disk, unverified": ({"cache_dir": "{0}/a", "cache": {"verify": "none"}}, True),
    "disk, full": ({"cache_dir": "{0}/a", "cache": {"verify": "full"}}, True),
    "disk, shrink": ({"cache_dir": "{0}/a", "cache": {"verify": "shrink"}}, True),
    "disk, extend": ({"cache_dir": "{0}/a", "cache": {"verify": "extend"}}, True),
    "two disks": ({"cache_dir": "{0}/a:{0}/b"}, True),
    "small disk": ({"cache_dir": "{0}/a", "cache_size": 1 << 20, "cache": {"eviction": "lru"}}, True),
    # Whole blocks come through the prefetch all the same (data-path §15, 21).
    "partial only": ({"cache_dir": "{0}/a", "cache": {"partial_only": True}}, True),
    "writeback": ({"cache_dir": "{0}/a", "cache": {"writeback": True, "large_write": True}}, True),
}  # fmt: skip
ALWAYS = ("sqlite-doors", "sqlite-gcm")


async def opened(there: GoldenVolume, setting: str, folder: Path) -> Volume:
    options = dict(SETTINGS[setting][0])
    if options["cache_dir"]:
        options["cache_dir"] = options["cache_dir"].format(folder)
    cache = CacheOptions(**{"free_ratio": 0.01, **options.pop("cache", {})})
    return await open_volume(
        there.meta_url, read_only=True, session=False, bucket=there.bucket, cache=cache, **options
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.heavy) for name in names()]
)
async def test_a_golden_volume_is_read_whatever_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with golden(name, tmp_path) as there:
        if there.passphrase:
            monkeypatch.setenv("JFS_RSA_PASSPHRASE", there.passphrase)
        lines = list(there.manifest())
        for number, (setting, (_, on_disk)) in enumerate(SETTINGS.items()):
            folder = tmp_path / f"cache{number}"
            for _round in range(2 if on_disk else 1):
                volume = await opened(there, setting, folder)
                # Plain blocks in local files are read where they are.
                local = volume.format.compression in ("", "none") and not volume.format.encrypt_key
                try:
                    assert await differences(volume, lines) == [], setting
                finally:
                    await volume.close()
            cached = [path for path in folder.rglob("*_*_*") if path.is_file()]
            assert bool(cached) == on_disk or local, f"{setting}: {len(cached)} files"
            if setting == "two disks" and not local:
                assert all(any((folder / part).rglob("*_*_*")) for part in "ab")
