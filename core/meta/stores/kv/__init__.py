# SPDX-License-Identifier: Apache-2.0
"""Records in a transactional key-value store: what etcd, TiKV and a dictionary for tests have in common.

`keys` and `values` know the bytes (format §6), `driver` says what a database must offer, `store` makes a record store
of any driver: grouped commits, checks, walks and listings. Nothing in here opens a connection.
"""

from core.meta.stores.kv.driver import KVDriver, Limits, Range, Reading, SnapshotGone, TooLarge, Transaction
from core.meta.stores.kv.store import KVStore

__all__ = ["KVDriver", "KVStore", "Limits", "Range", "Reading", "SnapshotGone", "TooLarge", "Transaction"]
