# SPDX-License-Identifier: Apache-2.0
"""RenameObject: one POSIX rename, atomic and without moving data; also of everything below a prefix that ends in "/".

SDKs fill in a client token and retry: the moved inode remembers the last one, so a retry whose source is gone and whose
target carries the token is success. Source: spec s3 §11.7.
"""

from __future__ import annotations

import errno
import hashlib
from typing import Final

import msgspec

from core.errors import FsError
from core.vfs.api import Condition
from core.vfs.etags import X_EXT, Ext, decode_ext, encode_ext, identify
from core.vfs.filesystem import Found
from gateways.http.messages import Response
from gateways.s3.conditions import check_source, parse_write
from gateways.s3.delete_objects import prune
from gateways.s3.errors import Context, S3Error, from_errno
from gateways.s3.keys import percent_decode
from gateways.s3.publish import check_target, find_target
from gateways.s3.service import Call, Service

_NOREPLACE: Final = 1
_TOKEN_TTL_NS: Final = 3600 * 1_000_000_000
_TRIES: Final = 4


async def rename_object(service: Service, call: Call) -> Response:
    headers, bucket, key = call.headers, call.bucket, call.key
    target = service.object_path(bucket, key, any_bytes=False)
    named = headers.get("x-amz-rename-source")
    if not named:
        raise S3Error("InvalidArgument", "Missing required header for this request: x-amz-rename-source")
    service.authorize("s3:DeleteObject", bucket, key, call.auth)
    token = headers.get("x-amz-client-token", "")
    found, source_key = await _source(service, call, percent_decode(named.encode("latin-1")))
    digest = _digest(call, source_key)
    if found is None:
        if token and await _done_before(service, target, token, digest):
            return Response(200)
        raise await service.missing_key(bucket)
    if source_key.endswith(b"/") != key.endswith(b"/"):
        raise S3Error("InvalidRequest", "A prefix can only be renamed to a prefix: both or neither end in a slash.")
    etag, _ = identify(found.ino, found.attr, found.xattrs)
    check_source(headers, etag, found.attr.mtime_ns // 1_000_000_000, service.clock() / 1e9, "x-amz-rename-source-")
    wanted = parse_write(headers)
    condition = await check_target(service, target, key, wanted) if wanted else None
    if token:
        ext = decode_ext(found.xattrs) or Ext(v=1)
        ext = msgspec.structs.replace(ext, rt=[token[:128], digest, service.clock()])
        await service.fs.set_xattrs(found.ino, {X_EXT: encode_ext(ext)})
    await _rename(service, bucket, key, service.path(bucket, source_key), target, condition)
    await prune(service, bucket, [source_key])
    return Response(200)


async def _source(service: Service, call: Call, raw: bytes) -> tuple[Found | None, bytes]:
    """A literal key first; else with the bucket in front, with or without a slash before it."""
    prefix = call.bucket.encode("latin-1") + b"/"
    candidates = [raw, raw.removeprefix(b"/")]
    if candidates[1].startswith(prefix):
        candidates.append(candidates[1][len(prefix) :])
    refused: S3Error | None = None
    for key in dict.fromkeys(candidates):
        try:
            path = service.object_path(call.bucket, key)
        except S3Error as e:
            refused = e
            continue
        found = await find_target(service, path, key) if not key.endswith(b"/") else await _directory(service, path)
        if found is not None:
            return found, key
        refused = None
    if refused is not None:
        raise refused
    return None, candidates[-1]


async def _directory(service: Service, path: bytes) -> Found | None:
    """A prefix may be renamed whether or not it is an object of its own."""
    try:
        found = await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    return found if found.attr.is_dir else None


async def _rename(
    service: Service, bucket: str, key: bytes, source: bytes, target: bytes, condition: Condition | None
) -> None:
    flags = _NOREPLACE if condition is not None and condition.absent else 0
    for tries in range(_TRIES):
        try:
            await service.fs.rename(source, target, service.caller, flags=flags, condition=None if flags else condition)
            return
        except FsError as e:
            if e.errno == errno.ENOENT and tries + 1 < _TRIES:
                await service.find_bucket(bucket)
                parent = key.rstrip(b"/").rpartition(b"/")[0]
                if parent:
                    await _make_parent(service, service.path(bucket, parent))
                continue
            if e.errno in (errno.EEXIST, errno.ESTALE) and condition is not None:
                raise S3Error("PreconditionFailed" if flags else "ConditionalRequestConflict") from e
            if e.errno == errno.EINVAL:
                raise S3Error("InvalidRequest", "A prefix can't be renamed to a place below itself.") from e
            raise from_errno(e, Context.READ if e.errno == errno.ENOENT else Context.WRITE) from e


async def _make_parent(service: Service, path: bytes) -> None:
    parents = service.parents
    try:
        await service.fs.mkdir(
            path, service.caller, mode=parents.mode, xattrs=parents.xattrs, parents=parents
        )  # fmt: skip
    except FsError as e:
        if e.errno not in (errno.EEXIST, errno.EISDIR):
            raise from_errno(e, Context.WRITE) from e


def _digest(call: Call, source: bytes) -> str:
    """Of everything that makes two renames the same one."""
    names = sorted(n for n in call.headers if n.startswith(("if-", "x-amz-rename-source-if-")))
    parts = [call.bucket.encode(), call.key, source, *(f"{n}:{call.headers[n]}".encode() for n in names)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:32]


async def _done_before(service: Service, target: bytes, token: str, digest: str) -> bool:
    found = await _any(service, target)
    ext = decode_ext(found.xattrs) if found is not None else None
    if ext is None or not isinstance(ext.rt, list) or len(ext.rt) != 3 or ext.rt[0] != token[:128]:
        return False
    if not isinstance(ext.rt[2], int) or service.clock() - ext.rt[2] > _TOKEN_TTL_NS:
        return False
    if ext.rt[1] != digest:
        raise S3Error("IdempotencyParameterMismatch")
    return True


async def _any(service: Service, path: bytes) -> Found | None:
    try:
        return await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
