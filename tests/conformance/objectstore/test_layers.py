# SPDX-License-Identifier: Apache-2.0
"""Layers around stores keep the object-store contract, alone and stacked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.object.api import ObjectStore
from core.object.encrypted import EncryptedStore, Envelope
from core.object.faulty import Fault, FaultyStore
from core.object.hedged import HedgedStore
from core.object.memory import MemStore
from core.object.open import open_store
from core.object.prefix import PrefixStore
from core.object.retried import RetriedStore
from core.object.sharded import ShardedStore
from tests.conformance.objectstore.suite import ObjectStoreSuite

KEY = rsa.generate_private_key(65537, 2048)


class TestPrefixAndShards(ObjectStoreSuite):
    @pytest.fixture
    async def store(self) -> ObjectStore:
        shards = [MemStore(str(i)) for i in range(5)]
        for shard in shards:
            await shard.put("vo", b"not ours")
            await shard.put("vom/chunks", b"not ours")
        return PrefixStore(ShardedStore(shards), "vol/")


@pytest.mark.parametrize("algorithm", ["aes256gcm-rsa", "chacha20-rsa"])
class TestEncrypted(ObjectStoreSuite):
    overhead = 287  # spec data-path §3.2, RSA-2048

    @pytest.fixture
    async def store(self, algorithm: str) -> AsyncIterator[ObjectStore]:
        store = EncryptedStore(MemStore(), Envelope(KEY, algorithm))
        yield store
        await store.close()


class TestWholeStack(ObjectStoreSuite):
    """Encryption and limits over a prefix over sharded folders, as a volume has them."""

    overhead = 287

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ObjectStore]:
        pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        store = open_store(
            "file", f"{tmp_path}/%d/", volume="vol", shards=3, encrypt_key_pem=pem,
            upload_limit_mbps=1e6, download_limit_mbps=1e6,
        )  # fmt: skip
        yield store
        await store.close()


class TestHedgedOverASlowTail(ObjectStoreSuite):
    """A tenth of all reads takes ten times as long; whoever answers first, the data is right."""

    @pytest.fixture
    async def store(self) -> ObjectStore:
        usual = Fault("get", "delay", nth=0, chance=1, seconds=0.001)
        slow = [usual, Fault("get", "delay", nth=0, chance=0.1, seconds=0.02)]
        store = HedgedStore(FaultyStore(MemStore(), slow, seed=5), budget=0.5)
        await store.put("warm", b"x")
        for _ in range(48):
            await store.get("warm", 0, 1)
        await store.delete("warm")
        return store


class TestRetriedOverFaults(ObjectStoreSuite):
    """A store that fails a third of all calls, made whole by retries."""

    @pytest.fixture
    async def store(self) -> ObjectStore:
        async def at_once(_: float) -> None: ...

        faults = [Fault("*", "error", nth=0, chance=0.2), Fault("*", "late", nth=0, chance=0.1)]
        faulty = FaultyStore(MemStore(), faults, seed=7)
        return RetriedStore(faulty, attempts=30, sleep=at_once)
