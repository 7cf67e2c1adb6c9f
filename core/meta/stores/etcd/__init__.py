# SPDX-License-Identifier: Apache-2.0
"""Metadata in etcd: `etcd://[user:password@]host[:2379][,host…]/prefix`. One class is public."""

from core.meta.stores.etcd.store import EtcdStore

__all__ = ["EtcdStore"]
