# SPDX-License-Identifier: Apache-2.0
"""Redis (and Valkey, KeyDB …) as a record store, byte-compatible with JuiceFS volumes.

One connection that pipelines by itself (`wire`, `connection`), records mapped to keys (`mapping`, `reading`,
`writing`), commits as one script (`commit_script`). Nothing here knows POSIX rules. Source: format §4.
"""

from core.meta.stores.redis.store import RedisStore
from core.meta.stores.redis.url import RedisURL, parse_url

__all__ = ["RedisStore", "RedisURL", "parse_url"]
