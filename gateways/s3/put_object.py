# SPDX-License-Identifier: Apache-2.0
"""PutObject: headers judged, body stored and proven, then one transaction makes it visible.

A plain small PUT costs the publish and nothing else on the metadata side. Source: spec s3 §3.5, §4.1, §8, §11.1, §11.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from core.vfs.api import Condition
from core.vfs.etags import EMPTY_MD5, X_ETAG, X_EXT, X_META, X_TAGS, Ext, encode_ext, plain_ext
from gateways.http.messages import Response
from gateways.s3 import tags
from gateways.s3.buckets import check_acl
from gateways.s3.conditions import parse_write
from gateways.s3.errors import S3Error
from gateways.s3.intake import SMALL_BYTES, plan_body, receive
from gateways.s3.metadata import DEFAULT_TYPE, PLAIN_META, encode_meta, meta_from_headers, text_of
from gateways.s3.publish import check_target, publish, publish_directory
from gateways.s3.service import Call, Service

#: Names that AWS knows; all are kept as STANDARD (§8).
STORAGE_CLASSES: Final = frozenset(
    {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "DEEP_ARCHIVE",
     "OUTPOSTS", "GLACIER_IR", "SNOW", "EXPRESS_ONEZONE", "FSX_OPENZFS", "FSX_ONTAP"}
)  # fmt: skip

#: Headers of every signed PUT that need no look.
_USUAL: Final = frozenset(
    {"x-amz-date", "x-amz-content-sha256", "x-amz-security-token", "x-amz-sdk-checksum-algorithm", "x-amz-trailer",
     "x-amz-decoded-content-length", "x-amz-tagging", "x-amz-expected-bucket-owner", "x-amz-user-agent"}
)  # fmt: skip
_LOCK: Final = "x-amz-object-lock-"


def check_upload_headers(service: Service, headers: Mapping[str, str]) -> None:
    """Refuse what would be a promise that can't be kept: encryption, locks, ACLs, unknown storage classes."""
    for name in headers:
        if name[:6] != "x-amz-" or name in _USUAL or name.startswith(("x-amz-meta-", "x-amz-checksum-")):
            continue
        if name.startswith("x-amz-server-side-encryption"):
            if name == "x-amz-server-side-encryption" and headers[name] == "AES256" and service.config.encrypted_volume:
                continue
            raise S3Error("NotImplemented", "Server-side encryption by request is not implemented; encrypt the volume.")
        if name.startswith(_LOCK):
            raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
        if name == "x-amz-storage-class" and headers[name] not in STORAGE_CLASSES:
            raise S3Error("InvalidStorageClass")
        if name == "x-amz-write-offset-bytes":
            raise S3Error("NotImplemented", "Appending to objects is not implemented.")
        if name == "x-amz-acl" or name.startswith("x-amz-grant-"):
            check_acl(dict(headers))


def tags_from_header(headers: Mapping[str, str]) -> bytes | None:
    """x-amz-tagging as it is stored, None if there are no tags."""
    value = headers.get("x-amz-tagging")
    if not value:
        return None
    try:
        pairs = tags.parse_tag_query(value)
        tags.check_tags(pairs)
    except S3Error as e:
        if e.code == "BadRequest":
            raise
        raise S3Error("InvalidArgument" if not value.strip() else "InvalidTag", e.message, extra=e.extra) from e
    return encode_tags(pairs)


def encode_tags(pairs: list[tuple[str, str]]) -> bytes | None:
    """As JuiceFS writes them: spaces as %20."""
    return tags.format_tag_query(pairs).replace("+", "%20").encode() if pairs else None


def described(service: Service, headers: Mapping[str, str]) -> dict[bytes, bytes]:
    """s3-meta and s3-tags of a new object."""
    xattrs: dict[bytes, bytes] = {}
    config = service.config
    if config.object_meta:
        meta = meta_from_headers(headers)
        if len(meta) == 1 and meta["content-type"] == DEFAULT_TYPE:
            xattrs[X_META] = PLAIN_META
        else:
            xattrs[X_META] = encode_meta(meta)
    if config.object_tag and "x-amz-tagging" in headers:
        stored = tags_from_header(headers)
        if stored:
            xattrs[X_TAGS] = stored
    return xattrs


def chosen_mtime(service: Service, headers: Mapping[str, str]) -> int:
    """Now; or what rclone keeps in its metadata, with --apply-mtime."""
    now = service.clock()
    if not service.config.apply_mtime:
        return now
    text = text_of(headers.get("x-amz-meta-mtime", "")).strip()
    seconds, _, fraction = text.partition(".")
    digits = seconds.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 11 and (fraction.isdigit() or not fraction)):
        return now
    nanos = int((fraction[:9] or "0").ljust(9, "0"))
    whole = int(digits) * 1_000_000_000 + nanos
    return -whole if seconds.startswith("-") else whole


async def put_object(service: Service, call: Call) -> Response:
    headers, key, bucket = call.headers, call.key, call.bucket
    config = service.config
    path = service.object_path(bucket, key, any_bytes=False)
    check_upload_headers(service, headers)
    xattrs = described(service, headers)
    wanted = parse_write(headers)
    plan = plan_body(service, call, config.max_put_bytes)
    if key.endswith(b"/"):
        return await _put_directory(service, call, path, xattrs)
    big = plan.length is None or plan.length > SMALL_BYTES
    condition: Condition | None = None
    checked = True
    if wanted:
        if wanted.must_be_absent and wanted.if_match is None and not big:
            condition, checked = Condition(absent=True), False  # the publish alone can tell
        else:
            condition = await check_target(service, path, key, wanted)
    if big:
        await service.require_bucket(bucket)  # not after gigabytes have been sent
    receipt = await receive(service, call, plan, config.max_put_bytes)
    mtime_ns = chosen_mtime(service, headers)
    if config.keep_etag:
        xattrs[X_ETAG] = receipt.etag.encode()
    xattrs[X_EXT] = plain_ext(receipt.length, mtime_ns, receipt.checksum)
    await publish(
        service, bucket, key, path, receipt.content, xattrs=xattrs, mtime_ns=mtime_ns, condition=condition,
        wanted=wanted, checked=checked,
    )  # fmt: skip
    answer = [("ETag", f'"{receipt.etag}"')]
    if receipt.checksum is not None:
        name, value = receipt.checksum
        answer.append((f"x-amz-checksum-{name}", value))
        answer.append(("x-amz-checksum-type", "FULL_OBJECT"))
    return Response(200, answer)


async def _put_directory(service: Service, call: Call, path: bytes, xattrs: dict[bytes, bytes]) -> Response:
    plan = plan_body(service, call, service.config.max_put_bytes)
    if plan.length:
        raise S3Error("DirectoryObjectContainsData")
    receipt = await receive(service, call, plan._replace(length=0), 0)
    assert receipt.length == 0
    stored: dict[bytes, bytes | None] = {X_TAGS: None, **xattrs, X_EXT: encode_ext(Ext(v=1, dir=True))}
    if xattrs.get(X_META) == PLAIN_META:
        stored[X_META] = None  # then it is answered as application/x-directory, which file-system clients look for
    await publish_directory(service, call.bucket, call.key, path, xattrs=stored, wanted=parse_write(call.headers))
    return Response(200, [("ETag", f'"{EMPTY_MD5}"')])
