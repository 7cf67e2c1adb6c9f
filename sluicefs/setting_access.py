# SPDX-License-Identifier: Apache-2.0
"""Reading and writing a volume's setting without opening its object store, which may be what has to be repaired."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.config import mask_url
from core.meta.format import Format
from core.meta.meta import Meta, init_format, load_format, require_format
from core.meta.store import RecordStore
from core.volume import format_volume, open_record_store

#: Changing one of these means another object store, which is proven before it is saved (cli §2.2).
STORE_FIELDS = ("storage", "bucket", "access_key", "secret_key", "session_token")


@asynccontextmanager
async def record_store(meta_url: str) -> AsyncIterator[RecordStore]:
    store = open_record_store(meta_url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def load_setting(meta_url: str) -> Format | None:
    """None if there is no volume (an empty database)."""
    async with record_store(meta_url) as store:
        return await load_format(store)


@asynccontextmanager
async def metadata(meta_url: str) -> AsyncIterator[Meta]:
    """Metadata of an existing volume, without a session and without its objects."""
    async with record_store(meta_url) as store:
        yield Meta(store, await require_format(store, mask_url(meta_url)), read_only=True)


async def save_setting(meta_url: str, old: Format, new: Format, *, proven: bool = False) -> None:
    """Store `new`. An object store that changed is proven first, unless the caller vouches for it."""
    if not proven and any(getattr(old, name) != getattr(new, name) for name in STORE_FIELDS):
        await format_volume(meta_url, new)
        return
    async with record_store(meta_url) as store:
        await init_format(store, new, time.time_ns())
