# SPDX-License-Identifier: Apache-2.0
"""TiKV as a record store: the key-value layer over `TiKVDriver`, with this volume's prefix and a change log in shards.

Source: format §6 (keys, values), §9 (change log: key `XLOG` shard version, 64 shards unless JFS_TKV_CHANGELOG_SHARDS
says otherwise; all clients of a volume have to agree on it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from core.errors import ConfigError
from core.meta.store import LOG, Capabilities, Check, Outcome, Write
from core.meta.stores.kv import KVStore
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.tikv.driver import TiKVDriver
from core.meta.stores.tikv.url import TiKVURL, parse_url

SHARDS_ENV: Final = "JFS_TKV_CHANGELOG_SHARDS"
DEFAULT_SHARDS: Final = 64


class TiKVStore(KVStore):
    """One volume in a TiKV cluster."""

    name = "tikv"
    caps = Capabilities(empty_xattr=False)
    driver: TiKVDriver

    def __init__(self, url: TiKVURL, *, log_shards: int = DEFAULT_SHARDS) -> None:
        super().__init__(TiKVDriver(url), KeyCodec(url.prefix, log_shards))

    @classmethod
    def from_url(cls, url: str) -> TiKVStore:
        return cls(parse_url(url), log_shards=shards_from(os.environ))

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        if not self.driver.logs and any(op == LOG for op, _, _ in writes):
            self.driver.logs = True  # from here on every transaction brings a timestamp for its lines
        return await super().commit(checks, writes)


def shards_from(env: Mapping[str, str]) -> int:
    """Shards of the change log. A wrong number would hide lines from their readers, so it is an error."""
    text = env.get(SHARDS_ENV, "").strip()
    if not text:
        return DEFAULT_SHARDS
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 256):
        raise ConfigError(f"{SHARDS_ENV}={text}: must be a number from 1 to 256, the same for all clients of a volume")
    return int(text)
