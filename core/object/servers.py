# SPDX-License-Identifier: Apache-2.0
"""Databases, SSH, HDFS and Swift as storages: which module opens which, loaded only when a volume asks for it.

Tables that `core/object/open.py` merges into its own: `OPENERS`, `NORMALISERS`, `LARGEST_BLOCK`, and for the error text
the extra to install (`_EXTRAS`). Source: spec data-path §4.2, §4.5.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from core.errors import ConfigError
from core.object.api import ObjectStore

#: Storage → module and class. Each takes (bucket, access key, secret key) and, if it is in _WITH_TOKEN, a token.
_CLASSES: Final = {
    "redis": ("core.object.redis", "RedisStore"),
    "sqlite3": ("core.object.sql.sqlite", "SQLiteStore"),
    "postgres": ("core.object.sql.postgres", "PostgresStore"),
    "mysql": ("core.object.sql.mysql", "MySQLStore"),
    "sftp": ("core.object.sftp", "SFTPStore"),
    "hdfs": ("core.object.hdfs", "HDFSStore"),
    "swift": ("core.object.swift", "SwiftStore"),
    "etcd": ("core.object.etcd", "EtcdStore"),
}
_WITH_TOKEN: Final = {"swift"}
#: Storages that need a package beyond those always installed → extra of ours that brings it.
_EXTRAS: Final = {
    "redis": "redis", "postgres": "postgres", "mysql": "mysql", "sftp": "sftp", "hdfs": "hdfs-client", "etcd": "etcd",
}  # fmt: skip

#: Bytes of the longest block that fits. MySQL's MEDIUMBLOB holds 2^24 - 1; an etcd request 1.5 MiB.
LARGEST_BLOCK: Final = {"mysql": (1 << 24) - 1, "etcd": (3 << 19) - 4096}


def _load(storage: str) -> Any:
    module, name = _CLASSES[storage]
    try:
        return getattr(import_module(module), name)
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("core", "") or storage not in _EXTRAS:
            raise
        raise ConfigError(
            f"storage {storage} needs the package {error.name}; install it with pip install "
            f"'sluicefs[{_EXTRAS[storage]}]'"
        ) from error


def _open(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    arguments = [bucket, access_key, secret_key]
    if storage in _WITH_TOKEN:
        arguments.append(session_token)
    elif storage == "sqlite3":
        arguments = [bucket]
    store: ObjectStore = _load(storage)(*arguments)
    return store


def _checked(storage: str) -> Callable[[str], str]:
    """The bucket as given, once the store's own parser has understood it."""

    def normalise(bucket: str) -> str:
        _open(storage, bucket.replace("%d", "0"), "", "", "")
        return bucket.strip()

    return normalise


def _path(storage: str, module: str) -> Callable[[str], str]:
    def normalise(bucket: str) -> str:
        _load(storage)
        result: str = import_module(module).normalise(bucket)
        return result

    return normalise


OPENERS: Final = dict.fromkeys(_CLASSES, _open)
NORMALISERS: Final[dict[str, Callable[[str], str]]] = {
    **{storage: _checked(storage) for storage in _CLASSES},
    "sqlite3": _path("sqlite3", "core.object.sql.sqlite"),
    "sftp": _path("sftp", "core.object.sftp.address"),
}


def require_block_fits(storage: str, block_bytes: int) -> None:
    """ConfigError if blocks of this size, as they are, don't fit into the storage."""
    largest = LARGEST_BLOCK.get(storage.lower())
    if largest is not None and block_bytes > largest:
        usable = 1 << (largest.bit_length() - 1)
        raise ConfigError(
            f"storage {storage}: an object has {largest} bytes at most there, so a block of {block_bytes >> 10} KiB "
            f"does not fit; use --block-size {usable >> 10}K or less"
        )
