# SPDX-License-Identifier: Apache-2.0
"""Every key of a TiKV volume of JuiceFS 1.4.1 is understood, and encoded to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tikv_client", reason="pip install tikv-client==0.0.4")

from core.meta import keys as k
from tests.golden.engine_tikv import start
from tests.golden.volumes import names, unpack


@pytest.mark.parametrize("name", names("tikv"))
async def test_every_key_is_understood_and_written_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    """Scans find a record for every key (but counters and session documents); encoded again it has the same bytes."""
    from core.meta.stores.kv import values
    from core.meta.stores.tikv import TiKVStore

    home = unpack(name, tmp_path)
    info = json.loads((home / "volume.json").read_text())
    kinds = (
        k.NODE, k.ENTRY, k.CHUNK, k.XATTR, k.SYMLINK, k.SLICEREF, k.DELFILE, k.DELSLICES, k.SESSION, k.SUSTAINED,
        k.DETACHED, k.DIRSTAT, k.QUOTA, k.FLOCKS, k.PLOCKS, k.ACL, k.PARENT,
    )  # fmt: skip
    with start(home, info) as meta_url:
        store = TiKVStore.from_url(meta_url)
        await store.open()
        (everything,) = (await store.driver.get((), [_all(store)])).ranges
        stored = dict(everything)
        known = {}
        for kind in kinds:
            async for key, value in store.scan(kind):
                known[store.codec.encode(key)] = values.encode(key, value)
        await store.close()
    assert len(known) > 2000
    assert {key: stored[key] for key in known} == known
    head = len(store.codec.prefix)
    rest = {key[head:] for key in stored if key not in known}
    assert {key for key in rest if not key.startswith((b"C", b"SI"))} == {b"setting"}


def _all(store):  # type: ignore[no-untyped-def]
    from core.meta.stores.kv import Range

    return Range(*store.codec.everything)
