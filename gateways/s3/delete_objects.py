# SPDX-License-Identifier: Apache-2.0
"""DeleteObject and DeleteObjects, and which directories go with the last key in them.

Deleting what isn't there is success. Parents are pruned only if this family of gateways made them because a key needed
them (`--empty-dirs auto`), so that nobody's mkdir is undone. Source: spec s3 §3.6, §11.4.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable
from typing import Final

import msgspec

from core.errors import FsError
from core.vfs.api import Condition
from core.vfs.etags import X_EXT, decode_ext, encode_ext, identify
from core.vfs.filesystem import Found
from gateways.http.messages import Response
from gateways.s3 import xml
from gateways.s3.conditions import DeleteConditions, delete_conditions, parse_delete
from gateways.s3.documents import read_document
from gateways.s3.errors import Context, S3Error, from_exception
from gateways.s3.metadata import explicit_dir
from gateways.s3.objects import check_version, opened
from gateways.s3.service import Call, Service, xml_response
from gateways.s3.xml import DeletedObject, ObjectToDelete

#: Unlinks of one request that run at once: enough to fill a pipeline, too few to starve others.
_WIDTH: Final = 32


async def delete_object(service: Service, call: Call) -> Response:
    check_version(call.params)
    wanted = parse_delete(call.headers)
    if await _delete(service, call.bucket, call.key, wanted):
        await prune(service, call.bucket, [call.key])
    else:
        await service.require_bucket(call.bucket)
    return Response(204)


async def delete_objects(service: Service, call: Call) -> Response:
    body = await read_document(service, call, limit=2 << 20, integrity=True)
    request = xml.parse_delete(body)
    await service.require_bucket(call.bucket)
    gate = asyncio.Semaphore(_WIDTH)
    gone: list[bytes] = []

    async def one(item: ObjectToDelete) -> DeletedObject:
        async with gate:
            try:
                service.authorize("s3:DeleteObject", call.bucket, item.key, call.auth)
                check_version({"versionId": item.version_id} if item.version_id else {})
                if await _delete(service, call.bucket, item.key, _item_conditions(item)):
                    gone.append(item.key)
            except Exception as e:
                error = from_exception(e, Context.DELETE)
                return DeletedObject(item.key, item.version_id, error.code, error.message)
        return DeletedObject(item.key, item.version_id)

    # Directory objects last and the deepest first, so that a tree named in one request goes completely.
    files = [i for i, item in enumerate(request.objects) if not item.key.endswith(b"/")]
    dirs = sorted(
        (i for i, item in enumerate(request.objects) if item.key.endswith(b"/")),
        key=lambda i: -request.objects[i].key.count(b"/"),
    )
    results: list[DeletedObject | None] = [None] * len(request.objects)
    done = await asyncio.gather(*(one(request.objects[i]) for i in files))
    for i, result in zip(files, done, strict=True):
        results[i] = result
    for i in dirs:
        results[i] = await one(request.objects[i])
    await prune(service, call.bucket, gone)
    return xml_response(xml.delete_result([r for r in results if r is not None], quiet=request.quiet))


def _item_conditions(item: ObjectToDelete) -> DeleteConditions:
    return delete_conditions(item.etag, item.size, item.last_modified)


async def _delete(service: Service, bucket: str, key: bytes, wanted: DeleteConditions) -> bool:
    """Remove one key; False if it wasn't there."""
    path = service.object_path(bucket, key)
    condition: Condition | None = None
    if wanted:
        found = await _find(service, path, key)
        if found is None:
            return False
        etag, _ = identify(found.ino, found.attr, found.xattrs)
        wanted.check(etag, 0 if found.attr.is_dir else found.attr.length, found.attr.mtime_ns // 1_000_000_000)
        condition = Condition(ino=found.ino, mtime_ns=found.attr.mtime_ns, ctime_ns=found.attr.ctime_ns)
    if key.endswith(b"/"):
        return await _delete_directory(service, path)
    try:
        await service.fs.unlink(path, service.caller, condition=condition)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP):
            return False
        if e.errno == errno.ESTALE:
            raise S3Error("ConditionalRequestConflict") from e
        raise
    return True


async def _find(service: Service, path: bytes, key: bytes) -> Found | None:
    try:
        found = await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return found if opened(service, key, found) else None


async def _delete_directory(service: Service, path: bytes) -> bool:
    """An empty directory goes; one that isn't stays as an implicit prefix, without its marker."""
    fs = service.fs
    try:
        await fs.rmdir(path, service.caller)
        return True
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        if e.errno != errno.ENOTEMPTY:
            raise
    found = await fs.lookup(path, service.caller, xattrs=True)
    if not explicit_dir(found.attr, found.xattrs):
        return False
    ext = decode_ext(found.xattrs)
    if ext is not None and ext.dir:
        # What it was made for is gone, what lies in it is not ours: it becomes a directory like any other.
        await fs.set_xattrs(found.ino, {X_EXT: encode_ext(msgspec.structs.replace(ext, dir=False, mk=1))})
    if found.attr.atime_ns == 0:
        await fs.set_times(found.ino, atime_ns=service.clock())
    return False


async def prune(service: Service, bucket: str, keys: Iterable[bytes]) -> None:
    """Remove the directories that the deleted keys leave empty, as far as the policy allows. Never fails a request."""
    policy = service.config.empty_dirs
    if policy == "keep":
        return
    parents = {key.rstrip(b"/").rpartition(b"/")[0] for key in keys}
    parents.discard(b"")
    seen: set[bytes] = set()
    for parent in sorted(parents, key=lambda p: -p.count(b"/")):
        while parent and parent not in seen:
            seen.add(parent)
            if not await _prune_one(service, service.path(bucket, parent), every=policy == "prune"):
                break
            parent = parent.rpartition(b"/")[0]


async def _prune_one(service: Service, path: bytes, *, every: bool) -> bool:
    """True if the directory is gone. Two cheap looks save a failing rmdir for each key of a full directory."""
    fs = service.fs
    try:
        found = await fs.lookup(path, service.caller, xattrs=True, follow=False)
        if not found.attr.is_dir or explicit_dir(found.attr, found.xattrs):
            return False
        if not every:
            ext = decode_ext(found.xattrs)
            if ext is None or not ext.mk:
                return False
        if await fs.list_dir(found.ino, b"", 1, attrs=False):
            return False
        await fs.rmdir(path, service.caller, skip_trash=True)
        return True
    except FsError as e:
        return e.errno == errno.ENOENT
