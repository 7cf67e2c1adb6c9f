# SPDX-License-Identifier: Apache-2.0
"""Objects as string values of Redis or Valkey (storage `redis`).

`servers` reads the bucket and finds the server of a key, `store` is the object store. Source: spec data-path §4.2.
"""

from core.object.redis.store import RedisStore

__all__ = ["RedisStore"]
