# SPDX-License-Identifier: Apache-2.0
"""The record store on etcd: the key-value layer with etcd's driver and limits.

Source: format §6.1 (URL, prefix), §9 (no change log), §10. A write is only as durable as etcd makes it (fsync on a
majority of the members before it answers).
"""

from __future__ import annotations

from core.meta.store import Capabilities
from core.meta.stores.etcd.driver import EtcdDriver
from core.meta.stores.etcd.url import EtcdURL, parse_url
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.kv.store import KVStore


class EtcdStore(KVStore):
    """A volume under a prefix of an etcd cluster; many volumes may share one cluster."""

    name = "etcd"
    # Empty values can't be told from missing ones by other clients of the volume (format §6.3).
    caps = Capabilities(empty_xattr=False, change_log=False, max_writes=100)

    def __init__(self, url: EtcdURL) -> None:
        super().__init__(EtcdDriver(url), KeyCodec(url.prefix))

    @classmethod
    def from_url(cls, url: str) -> EtcdStore:
        return cls(parse_url(url))
