# SPDX-License-Identifier: Apache-2.0
"""Buckets: list, create, head, delete, and the settings that every client asks for.

A bucket is a top-level directory (multi mode) or the whole volume (single mode). Settings that a JuiceFS gateway stored
in the bucket's metadata file are answered from there; everything else has its proper "none".
Source: spec s3 §3.1, §7.6, §9, §13.
"""

from __future__ import annotations

import asyncio
import errno
from typing import Final

from core.errors import FsError
from core.meta.records import DIRECTORY
from gateways.http.messages import Response
from gateways.s3 import bucket_metadata, tags, xml
from gateways.s3.documents import read_document
from gateways.s3.errors import S3Error
from gateways.s3.keys import check_bucket_name, valid_bucket_name
from gateways.s3.listing import Query, list_page
from gateways.s3.service import XML_TYPE, Call, Service, xml_response
from gateways.s3.xml import BucketEntry

MAX_BUCKETS: Final = 10_000
_NS: Final = 1_000_000_000
#: Creation times read at once; each is a lookup and a read of a small file.
_BATCH: Final = 64

#: Canned ACLs that say what is true anyway (§7.6).
CANNED: Final = frozenset({"private", "bucket-owner-full-control"})
_GRANT_HEADERS: Final = (
    "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp", "x-amz-grant-write",
    "x-amz-grant-write-acp",
)  # fmt: skip
_OWNERSHIPS: Final = frozenset({"BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"})


def check_acl(headers: dict[str, str]) -> None:
    """ACLs are off ("bucket owner enforced"): only those that change nothing are taken."""
    canned = headers.get("x-amz-acl")
    if (canned and canned not in CANNED) or any(name in headers for name in _GRANT_HEADERS):
        raise S3Error("AccessControlListNotSupported")


# -- listing -------------------------------------------------------------------------------------------------------


async def list_buckets(service: Service, call: Call) -> Response:
    params, config = call.params, service.config
    owner = service.owner(call.auth.identity)
    if not call.auth.identity.root:
        # The unentitled own nothing; that is no error (§9).
        return xml_response(xml.list_buckets(owner, []))
    prefix = params.get("prefix", "")
    limit = MAX_BUCKETS
    if "max-buckets" in params:
        text = params["max-buckets"]
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_BUCKETS:
            raise S3Error("InvalidArgument", f"max-buckets must be an integer from 1 to {MAX_BUCKETS}.")
        limit = int(text)
    after = params.get("continuation-token", "")
    names = await _names(service, prefix, after, limit + 1)
    truncated = len(names) > limit
    region = params.get("bucket-region", "")
    if region and region != config.location:
        names = []
    names = names[:limit]
    entries: list[BucketEntry] = []
    for at in range(0, len(names), _BATCH):
        batch = names[at : at + _BATCH]
        times = await asyncio.gather(*(_created(service, name, ino, mtime) for name, ino, mtime in batch))
        entries += [
            BucketEntry(name, *divmod(created, _NS), config.location)
            for (name, _, _), created in zip(batch, times, strict=True)
        ]
    return xml_response(
        xml.list_buckets(
            owner, entries, prefix=prefix if "prefix" in params else None,
            continuation_token=names[-1][0] if truncated and names else None,
        )
    )  # fmt: skip


async def _names(service: Service, prefix: str, after: str, limit: int) -> list[tuple[str, int, int]]:
    """(name, inode, mtime) of the buckets, in order."""
    if not service.multi:
        name = service.config.bucket
        if not name.startswith(prefix) or (after and name <= after):
            return []
        found = await service.fs.lookup(b"/", service.caller)
        return [(name, found.ino, found.attr.mtime_ns)]
    root = await service.fs.lookup(b"/", service.caller)
    out: list[tuple[str, int, int]] = []
    seen = after.encode("utf-8", "surrogateescape")
    while len(out) < limit:
        page = await service.fs.list_dir(root.ino, seen, 1000)
        for entry in page:
            if entry.type != DIRECTORY or entry.attr is None:
                continue
            name = entry.name.decode("latin-1")
            if name.startswith(prefix) and valid_bucket_name(name, service.config.relaxed_bucket_names):
                out.append((name, entry.ino, entry.attr.mtime_ns))
        if len(page) < 1000:
            break
        seen = page[-1].name
    return out[:limit]


async def _created(service: Service, bucket: str, ino: int, mtime_ns: int) -> int:
    """When it was created: as stored, else the directory's mtime (§3.1). It never changes, so it is remembered."""
    known = service.created.get((bucket, ino))
    if known is None:
        stored = bucket_metadata.created_ns(await bucket_metadata.load(service, bucket))
        if stored is None:
            return mtime_ns
        if len(service.created) > MAX_BUCKETS:
            service.created.clear()
        known = service.created[bucket, ino] = stored
    return known


# -- life ----------------------------------------------------------------------------------------------------------


async def create_bucket(service: Service, call: Call) -> Response:
    config, headers, bucket = service.config, call.headers, call.bucket
    if service.multi or bucket != config.bucket:
        check_bucket_name(bucket, create=True)
    wanted = xml.parse_create_bucket(await read_document(service, call))
    if wanted.location and config.region and wanted.location != config.region:
        raise S3Error("InvalidLocationConstraint", extra=(("LocationConstraint", wanted.location),))
    check_acl(headers)
    if headers.get("x-amz-bucket-object-lock-enabled", "").lower() == "true":
        raise S3Error("NotImplemented", "Object lock is not implemented by this gateway.")
    ownership = headers.get("x-amz-object-ownership")
    if ownership is not None and ownership not in _OWNERSHIPS:
        raise S3Error("InvalidArgument", "x-amz-object-ownership is not one of " + ", ".join(sorted(_OWNERSHIPS)))
    answer = Response(200, [("Location", f"/{bucket}")])
    if not service.multi:
        if bucket != config.bucket:
            raise S3Error("NoSuchBucket", f"This gateway serves the single bucket {config.bucket}.")
        return answer
    path = service.path(bucket)
    try:
        await service.fs.mkdir(path, service.caller, mode=config.dir_mode)
    except FsError as e:
        if e.errno not in (errno.EEXIST, errno.EISDIR):
            raise
        found = await service.fs.lookup(path, service.caller)
        if not found.attr.is_dir:
            raise S3Error("BucketAlreadyExists") from e
        if config.bucket_exists_conflict:
            raise S3Error("BucketAlreadyOwnedByYou") from e
        return answer
    await bucket_metadata.create(service, bucket)
    return answer


async def head_bucket(service: Service, call: Call) -> Response:
    await service.find_bucket(call.bucket)
    return Response(200, [("x-amz-bucket-region", service.config.location), XML_TYPE])


async def delete_bucket(service: Service, call: Call) -> Response:
    """Without a visible key; implicit empty directories and pending uploads go with it."""
    bucket = call.bucket
    if not service.multi:
        raise S3Error("BucketNotEmpty", "The single bucket of this gateway is the volume; it can't be deleted.")
    service.forget_bucket(bucket)
    path = service.path(bucket)
    try:
        await service.fs.rmdir(path, service.caller)
    except FsError as e:
        if e.errno == errno.ENOENT:
            raise S3Error("NoSuchBucket") from e
        if e.errno != errno.ENOTEMPTY:
            raise
        found = await service.find_bucket(bucket)
        page = await list_page(service.fs, bucket, Query(max_keys=1, xattrs=False), multi=True)
        if page.items:
            raise S3Error("BucketNotEmpty") from e
        await _remove_empty(service, path, found.ino)
    service.forget_bucket(bucket)
    try:
        await service.fs.remove_tree(service.sys_path(bucket), skip_trash=True)
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    await bucket_metadata.remove(service, bucket)
    return Response(204)


async def _remove_empty(service: Service, path: bytes, ino: int) -> None:
    """Remove directories only, from below: whatever was put there meanwhile, or can't be listed, stays."""
    after = b""
    while page := await service.fs.list_dir(ino, after, 1000):
        for entry in page:
            if entry.type != DIRECTORY:
                raise S3Error("BucketNotEmpty", "The bucket holds links or special files that S3 does not show.")
            await _remove_empty(service, path + b"/" + entry.name, entry.ino)
        after = page[-1].name
    try:
        await service.fs.rmdir(path, service.caller)
    except FsError as e:
        if e.errno == errno.ENOTEMPTY:
            raise S3Error("BucketNotEmpty") from e
        if e.errno != errno.ENOENT:
            raise


# -- settings ------------------------------------------------------------------------------------------------------


async def get_location(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    return xml_response(xml.location(service.config.location))


#: Operation -> document of a setting that always has its default value.
_DEFAULTS: Final = {
    "GetBucketVersioning": xml.versioning(),
    "GetBucketRequestPayment": xml.request_payment(),
    "GetBucketLogging": xml.empty("BucketLoggingStatus"),
    "GetBucketAccelerate": xml.empty("AccelerateConfiguration"),
    "GetBucketNotification": xml.empty("NotificationConfiguration"),
}

#: Operation -> error of a setting that was never made and can't be.
_NONE: Final = {
    "GetBucketEncryption": "ServerSideEncryptionConfigurationNotFoundError",
    "GetBucketWebsite": "NoSuchWebsiteConfiguration",
    "GetBucketReplication": "ReplicationConfigurationNotFoundError",
    "GetObjectLockConfiguration": "ObjectLockConfigurationNotFoundError",
    "GetBucketCors": "NoSuchCORSConfiguration",
    "GetBucketOwnershipControls": "OwnershipControlsNotFoundError",
    "GetPublicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
}

#: Operation -> (member of the metadata file, error if unset, content type).
_STORED: Final = {
    "GetBucketPolicy": ("PolicyConfigJSON", "NoSuchBucketPolicy", "application/json"),
    "GetBucketLifecycle": ("LifecycleConfigXML", "NoSuchLifecycleConfiguration", "application/xml"),
    "GetBucketTagging": ("TaggingConfigXML", "NoSuchTagSet", "application/xml"),
}

#: Settings whose removal is success, because there is none.
_NOTHING_TO_DELETE: Final = frozenset({"DeleteBucketCors", "DeleteBucketOwnershipControls", "DeletePublicAccessBlock"})
_DELETE_STORED: Final = {
    "DeleteBucketPolicy": "PolicyConfigJSON",
    "DeleteBucketLifecycle": "LifecycleConfigXML",
    "DeleteBucketTagging": "TaggingConfigXML",
}


async def get_setting(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    operation = call.operation
    document = _DEFAULTS.get(operation)
    if document is not None:
        return xml_response(document)
    code = _NONE.get(operation)
    if code is not None:
        raise S3Error(code)
    member, code, kind = _STORED[operation]
    stored = (await bucket_metadata.load(service, call.bucket)).get(member)
    if not stored:
        raise S3Error(code)
    return Response(200, [("Content-Type", kind)], bytes(stored))


async def delete_setting(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    member = _DELETE_STORED.get(call.operation)
    if member is not None:
        members = await bucket_metadata.load(service, call.bucket)
        if members.get(member):
            await bucket_metadata.save(service, call.bucket, {**members, member: b""})
    return Response(204)


async def put_tagging(service: Service, call: Call) -> Response:
    pairs = xml.parse_tagging(await read_document(service, call, integrity=True))
    tags.check_tags(pairs, limit=tags.MAX_BUCKET_TAGS)
    await service.find_bucket(call.bucket)
    members = await bucket_metadata.load(service, call.bucket)
    if not members:
        members = bucket_metadata.new_members(call.bucket, service.clock())
    await bucket_metadata.save(service, call.bucket, {**members, "TaggingConfigXML": xml.tagging(pairs)})
    return Response(204)


async def preflight(service: Service, call: Call) -> Response:
    """CORS is off: no bucket has a configuration, so no origin is let in (§9)."""
    if "origin" not in call.headers:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    raise S3Error("AccessForbidden")


async def get_policy_status(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    if not (await bucket_metadata.load(service, call.bucket)).get("PolicyConfigJSON"):
        raise S3Error("NoSuchBucketPolicy")
    return xml_response(xml.policy_status(False))  # not enforced yet (§7), so nobody is let in by it


async def put_versioning(service: Service, call: Call) -> Response:
    """Suspended is what it always is; the rest isn't there (§13)."""
    await service.require_bucket(call.bucket)
    wanted = xml.parse_versioning(await read_document(service, call))
    if wanted.mfa_delete or wanted.status != "Suspended":
        raise S3Error("NotImplemented", "Versioning is not implemented by this gateway.")
    return Response(200)


async def get_acl(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    return xml_response(xml.access_control_policy(service.owner(call.auth.identity)))


async def put_acl(service: Service, call: Call) -> Response:
    await service.require_bucket(call.bucket)
    await accept_acl(service, call)
    return Response(200)


async def accept_acl(service: Service, call: Call) -> None:
    """Take an ACL that changes nothing: canned, or a body that grants only the owner."""
    check_acl(call.headers)
    body = await read_document(service, call)
    if not body:
        if "x-amz-acl" not in call.headers:
            raise S3Error("MissingSecurityHeader", "An ACL must be given as header or as body.")
        return
    owner = service.owner(call.auth.identity)
    _, grants = xml.parse_access_control_policy(body)
    if not grants or any(g.grantee != owner.id or g.permission != "FULL_CONTROL" for g in grants):
        raise S3Error("AccessControlListNotSupported")


SETTINGS: Final = (*_DEFAULTS, *_NONE, *_STORED)
REMOVALS: Final = (*_NOTHING_TO_DELETE, *_DELETE_STORED)
