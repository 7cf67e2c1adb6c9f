# SPDX-License-Identifier: Apache-2.0
"""TiKV as a record store, byte-compatible with JuiceFS volumes.

`url` understands the address, `connection` keeps the client library's habits away from the rest, `failures` reads its
errors, `driver` is what the key-value layer asks of a database, `store` puts it together. Nothing here knows POSIX
rules. Needs the package tikv-client. Source: format §6.
"""

from core.meta.stores.tikv.store import TiKVStore
from core.meta.stores.tikv.url import TiKVURL, parse_url

__all__ = ["TiKVStore", "TiKVURL", "parse_url"]
