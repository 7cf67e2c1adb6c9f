# SPDX-License-Identifier: Apache-2.0
"""Temporary files that a put into a local folder leaves behind when its process is killed.

Source: spec data-path §4.3.
"""

from __future__ import annotations

import os

from core.object.api import ObjectStore


def object_folders(objects: ObjectStore, shards: int) -> list[str]:
    """The local folders that hold `chunks/`; none if the store isn't one of files."""
    store: ObjectStore | None = objects
    while store is not None and store.local_path("chunks/0") is None:
        store = getattr(store, "store", None)  # decorators that change bytes, such as encryption
    found: set[str] = set()
    for number in range(1 if shards < 2 else 64 * shards):  # a shard is chosen by hash; so many names meet them all
        path = store.local_path(f"chunks/{number}") if store is not None else None
        if path is not None:
            found.add(os.path.dirname(path))
    return sorted(found)


def sweep(folder: str, edge: float, delete: bool) -> int:
    count = 0
    for base, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(".jfs.") or ".tmp." not in name:
                continue
            path = os.path.join(base, name)
            try:
                if os.stat(path).st_mtime > edge:
                    continue
                if delete:
                    os.unlink(path)
            except FileNotFoundError:
                continue
            count += 1
    return count
