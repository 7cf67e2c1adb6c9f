# SPDX-License-Identifier: Apache-2.0
"""Binding stored content to a key: conditions, parents, names that are taken. One transaction makes it visible.

Parents are optimistic: the first try assumes they exist; only ENOENT asks whether the bucket is the reason. That keeps
a plain PUT at the cost of the publish itself. Content is discarded only when it certainly wasn't bound: after a lost
connection or a cancelled commit nobody knows, and gc will. Source: spec s3 §3.4, §4.5, §11.6.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

from core.errors import FsError, MetaError
from core.vfs.api import Condition
from core.vfs.etags import identify
from core.vfs.filesystem import Content, Found, Published, SourceChanged
from gateways.s3.conditions import WriteConditions
from gateways.s3.errors import Context, S3Error, from_errno
from gateways.s3.metadata import explicit_dir
from gateways.s3.objects import opened
from gateways.s3.service import Service

#: Parents may be pruned by a concurrent delete between two tries.
_TRIES: Final = 4


async def find_target(service: Service, path: bytes, key: bytes) -> Found | None:
    """The object that a write would replace (1 trip)."""
    try:
        found = await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return found if opened(service, key, found) else None


async def check_target(service: Service, path: bytes, key: bytes, wanted: WriteConditions) -> Condition:
    """Test the conditions now; the result lets the publish test them again, atomically. 412, 404."""
    found = await find_target(service, path, key)
    if found is None:
        wanted.check(None)
        return Condition(absent=True)
    etag, _ = identify(found.ino, found.attr, found.xattrs)
    wanted.check(etag)
    return Condition(ino=found.ino, mtime_ns=found.attr.mtime_ns, ctime_ns=found.attr.ctime_ns)


async def publish(
    service: Service, bucket: str, key: bytes, path: bytes, content: Content, *, xattrs: Mapping[bytes, bytes],
    mtime_ns: int, condition: Condition | None = None, wanted: WriteConditions | None = None,
    checked: bool = True,
) -> Published:  # fmt: skip
    """Bind content to a key, or discard it and raise the S3 answer.

    checked: the conditions were tested before the body was read, so failing now means a lost race.
    Raises `SourceChanged` if content was cloned and its source changed; the caller clones again.
    """
    fs = service.fs
    nested = b"/" in key
    parents = service.parents if nested and service.bucket_is_known(bucket) else None
    replace_dir = False
    tries = 0
    while True:
        tries += 1
        try:
            return await fs.publish(
                path, content, service.caller, mode=service.config.file_mode, xattrs=xattrs, mtime_ns=mtime_ns,
                condition=condition, parents=parents, replace_empty_dir=replace_dir,
            )  # fmt: skip
        except FsError as e:
            if isinstance(e, MetaError):
                raise
            try:
                if e.errno == errno.ENOENT and tries < _TRIES:
                    await service.find_bucket(bucket)
                    parents = service.parents if nested else None
                    continue
                if e.errno == errno.EISDIR and not replace_dir and not (condition and condition.absent):
                    await _require_implicit(service, path)
                    replace_dir = True
                    continue
                if isinstance(e, SourceChanged):
                    raise
                if e.errno in (errno.EEXIST, errno.ESTALE) and wanted is not None:
                    raise wanted.lost_race(before_body=not checked) from e
                raise from_errno(e, Context.WRITE) from e
            except (S3Error, FsError):
                await fs.discard(content)
                raise


async def _require_implicit(service: Service, path: bytes) -> None:
    """An empty implicit directory may give way to a file, an explicit one may not (§3.4)."""
    found = await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
    if found.attr.is_dir and explicit_dir(found.attr, found.xattrs):
        raise S3Error("ExistingObjectIsDirectory")


async def publish_directory(
    service: Service, bucket: str, key: bytes, path: bytes, *, xattrs: Mapping[bytes, bytes | None],
    wanted: WriteConditions,
) -> None:  # fmt: skip
    """Make `key` (which ends in a slash) a directory object, or refresh the one that is there (§3.5)."""
    fs = service.fs
    if wanted:
        await check_target(service, path, key, wanted)
    nested = b"/" in key[:-1]
    parents = service.parents if nested and service.bucket_is_known(bucket) else None
    fresh = {name: value for name, value in xattrs.items() if value is not None}
    for tries in range(_TRIES):
        try:
            await fs.mkdir(
                path, service.caller, mode=service.config.dir_mode, xattrs=fresh, atime_ns=0, parents=parents
            )
            return
        except FsError as e:
            if e.errno == errno.ENOENT and tries + 1 < _TRIES:
                await service.find_bucket(bucket)
                parents = service.parents if nested else None
                continue
            if e.errno not in (errno.EEXIST, errno.EISDIR):
                raise from_errno(e, Context.WRITE) from e
            found = await fs.lookup(path, service.caller)
            if not found.attr.is_dir:
                raise S3Error("ExistingObjectIsDirectory", "An object of this name without the slash exists.") from e
            await fs.set_xattrs(found.ino, xattrs)
            if found.attr.atime_ns != 0:
                await fs.set_times(found.ino, atime_ns=0)
            return
