# SPDX-License-Identifier: Apache-2.0
"""Every record of an etcd volume of JuiceFS 1.4.1, read and written elsewhere by us, keeps its bytes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from core.meta import keys as k
from core.meta.store import PUT
from core.meta.stores.etcd import EtcdStore
from tests.golden import engine_etcd
from tests.golden.volumes import unpack
from tests.servers.etcd import EtcdServer

#: Everything that `scan` gives, and the records that it doesn't.
_KINDS = (
    k.NODE, k.ENTRY, k.CHUNK, k.XATTR, k.SYMLINK, k.SLICEREF, k.DELFILE, k.DELSLICES, k.SESSION, k.SUSTAINED,
    k.DETACHED, k.DIRSTAT, k.QUOTA, k.FLOCKS, k.PLOCKS, k.ACL, k.PARENT,
)  # fmt: skip
_COUNTERS = (
    "nextInode", "nextChunk", "nextSession", "nextTrash", "usedSpace", "totalInodes", "aclMaxId", "lastCleanupSessions",
    "lastCleanupFiles", "lastCleanupTrash", "nextCleanupSlices",
)  # fmt: skip


async def test_every_record_is_written_as_juicefs_wrote_it(tmp_path: Path) -> None:
    """Read all records through the store, write them elsewhere: the same keys hold the same bytes."""
    home = unpack("etcd-lz4", tmp_path)
    lines = (home / "meta.kv.jsonl").read_text().splitlines()
    original = {base64.b64decode(r["key"]): base64.b64decode(r["value"]) for r in map(json.loads, lines)}
    prefix = next(iter(original)).partition(b"\xfd")[0]
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        engine_etcd.load(server, home / "meta.kv.jsonl")
        old = EtcdStore.from_url(server.url(prefix.decode()))
        new = EtcdStore.from_url(server.url("/other"))
        for store in (old, new):
            await store.open()
        records = [record for kind in _KINDS async for record in old.scan(kind)]
        singles = [
            k.setting(),
            *map(k.counter, _COUNTERS),
            *(k.sessioninfo(r[0][1]) for r in records if r[0][0] == "SE"),
        ]
        values = zip(singles, await old.read(*singles), strict=True)
        records += [(key, value) for key, value in values if old.codec.encode(key) in original]
        for at in range(0, len(records), 50):
            await new.commit([], [(PUT, key, value) for key, value in records[at : at + 50]])
        pairs = [pair async for pair in new._pages_of(*new.codec.everything)]
        for store in (old, new):
            await store.close()
    written = {prefix + key.removeprefix(b"/other"): value for key, value in pairs}
    assert len(original) > 3000
    assert written == original
