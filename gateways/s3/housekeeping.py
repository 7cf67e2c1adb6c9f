# SPDX-License-Identifier: Apache-2.0
"""Leftovers of interrupted requests: temporary files and abandoned uploads are removed after some days.

Only names that a gateway makes are touched: UUIDs, in 3-character directories or, as before JuiceFS 1.2, beside them.
The age of an upload is that of its youngest part. One gateway cleans at a time; a lost race is harmless.
Source: spec s3 §4.4.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncGenerator
from typing import Final

from core.errors import FsError
from core.meta.records import DIRECTORY
from core.meta.store import DirEntry
from gateways.s3.errors import S3Error
from gateways.s3.keys import check_upload_id
from gateways.s3.service import Service
from gateways.s3.uploads import list_all, remove_upload

log = logging.getLogger("sluice.s3")

_NS: Final = 1_000_000_000


async def clean(service: Service) -> int:
    """Remove everything that is old enough; returns how many temporary files and uploads went."""
    before = service.clock() - service.config.stale_after_s * _NS
    removed = 0
    for bucket in await _buckets(service):
        removed += await _clean_folder(service, bucket + b"/tmp", before, uploads=False)
        removed += await _clean_folder(service, bucket + b"/uploads", before, uploads=True)
    if removed:
        log.info("removed %d stale temporary files and uploads", removed)
    return removed


async def run(service: Service) -> None:
    """Clean now and then, until cancelled. Failures are logged; the next round tries again."""
    while True:
        try:
            await clean(service)
        except (OSError, S3Error) as e:
            log.warning("cleaning of temporary files failed, next try in %d s: %s", service.config.clean_interval_s, e)
        await asyncio.sleep(service.config.clean_interval_s)


async def _buckets(service: Service) -> list[bytes]:
    """Folders that hold `tmp` and `uploads`: one per bucket, and in single mode the top itself."""
    found = [b"/.sys"]
    ino = await _directory(service, b"/.sys")
    if ino is not None:
        names = [e.name for e in await list_all(service, ino, attrs=False) if e.type == DIRECTORY]
        found += [b"/.sys/" + name for name in names if name not in (b"tmp", b"uploads")]
    return found


async def _clean_folder(service: Service, path: bytes, before: int, *, uploads: bool) -> int:
    removed = 0
    async for where, entry in _ours(service, path):
        if entry.attr is None or entry.attr.mtime_ns >= before:
            continue
        if uploads and await _youngest(service, entry.ino) >= before:
            continue
        await remove_upload(service, where)
        removed += 1
    return removed


async def _ours(service: Service, path: bytes) -> AsyncGenerator[tuple[bytes, DirEntry], None]:
    """Entries with names that a gateway makes."""
    ino = await _directory(service, path)
    if ino is None:
        return
    for entry in await list_all(service, ino):
        if _is_id(entry.name):
            yield path + b"/" + entry.name, entry
        elif entry.type == DIRECTORY and len(entry.name) == 3:
            inner = path + b"/" + entry.name
            for below in await list_all(service, entry.ino):
                if _is_id(below.name):
                    yield inner + b"/" + below.name, below


async def _youngest(service: Service, ino: int) -> int:
    """Newest mtime of the parts."""
    return max((e.attr.mtime_ns for e in await list_all(service, ino) if e.attr is not None), default=0)


async def _directory(service: Service, path: bytes) -> int | None:
    try:
        found = await service.fs.lookup(path, service.caller, follow=False)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    return found.ino if found.attr.is_dir else None


def _is_id(name: bytes) -> bool:
    try:
        check_upload_id(name.decode("ascii"))
    except (S3Error, UnicodeDecodeError):
        return False
    return True
