# SPDX-License-Identifier: Apache-2.0
"""All XML bodies of the gateway: this module writes answers about single things and bucket settings, `xml_lists`
writes listings, `xml_parse` reads request bodies; all names are available here.

Source: spec s3 §7.4 (STS), §7.6 (ACL), §9 (buckets), §11 (objects), §12 (multipart), §8 (escapes and times).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateways.s3.xml_lists import (
    BucketEntry,
    ObjectEntry,
    Owner,
    PartEntry,
    UploadEntry,
    checksum_xml,
    list_buckets,
    list_multipart_uploads,
    list_objects_v1,
    list_objects_v2,
    list_parts,
    list_versions,
    owner_xml,
)
from gateways.s3.xml_parse import (
    CompletedPart,
    CreateBucket,
    DeleteRequest,
    Grant,
    ObjectToDelete,
    parse,
    parse_access_control_policy,
    parse_complete,
    parse_create_bucket,
    parse_delete,
    parse_ownership_controls,
    parse_public_access_block,
    parse_tagging,
    parse_versioning,
)
from gateways.s3.xml_text import DECLARATION, NAMESPACE, escape, http_time, iso_time, url_encode

__all__ = [
    "BucketEntry",
    "CompletedPart",
    "CreateBucket",
    "DeleteRequest",
    "DeletedObject",
    "Grant",
    "ObjectEntry",
    "ObjectToDelete",
    "Owner",
    "PartEntry",
    "UploadEntry",
    "access_control_policy",
    "assume_role_result",
    "complete_result",
    "copy_object_result",
    "copy_part_result",
    "delete_result",
    "document",
    "empty",
    "escape",
    "http_time",
    "initiate_result",
    "iso_time",
    "list_buckets",
    "list_multipart_uploads",
    "list_objects_v1",
    "list_objects_v2",
    "list_parts",
    "list_versions",
    "location",
    "object_attributes",
    "ownership_controls",
    "parse",
    "parse_access_control_policy",
    "parse_complete",
    "parse_create_bucket",
    "parse_delete",
    "parse_ownership_controls",
    "parse_public_access_block",
    "parse_tagging",
    "parse_versioning",
    "policy_status",
    "post_result",
    "public_access_block",
    "request_payment",
    "tagging",
    "url_encode",
    "versioning",
]


def document(root: str, inner: str = "") -> bytes:
    """A document in the S3 namespace. inner: XML that is already escaped."""
    return f'{DECLARATION}<{root} xmlns="{NAMESPACE}">{inner}</{root}>'.encode()


def empty(root: str) -> bytes:
    """A setting that was never made: `BucketLoggingStatus`, `AccelerateConfiguration`, …"""
    return document(root)


def _text(tag: str, value: str) -> str:
    return f"<{tag}>{escape(value)}</{tag}>"


def _key_text(key: bytes) -> str:
    return escape(key.decode("utf-8", "surrogateescape"))


def _flag(value: bool) -> str:
    return "true" if value else "false"


# Buckets


def location(region: str) -> bytes:
    """The region as text of the root; us-east-1 is empty, as in AWS."""
    return document("LocationConstraint", "" if region == "us-east-1" else escape(region))


def versioning(status: str = "") -> bytes:
    """status: "" (never set), Enabled or Suspended."""
    return document("VersioningConfiguration", _text("Status", status) if status else "")


def tagging(tags: Iterable[tuple[str, str]]) -> bytes:
    inner = "".join([f"<Tag>{_text('Key', k)}{_text('Value', v)}</Tag>" for k, v in tags])
    return document("Tagging", f"<TagSet>{inner}</TagSet>")


def request_payment() -> bytes:
    return document("RequestPaymentConfiguration", "<Payer>BucketOwner</Payer>")


def ownership_controls(ownership: str = "BucketOwnerEnforced") -> bytes:
    return document("OwnershipControls", f"<Rule>{_text('ObjectOwnership', ownership)}</Rule>")


def public_access_block(
    *, block_public_acls: bool, ignore_public_acls: bool, block_public_policy: bool, restrict_public_buckets: bool
) -> bytes:
    return document(
        "PublicAccessBlockConfiguration",
        f"<BlockPublicAcls>{_flag(block_public_acls)}</BlockPublicAcls>"
        f"<IgnorePublicAcls>{_flag(ignore_public_acls)}</IgnorePublicAcls>"
        f"<BlockPublicPolicy>{_flag(block_public_policy)}</BlockPublicPolicy>"
        f"<RestrictPublicBuckets>{_flag(restrict_public_buckets)}</RestrictPublicBuckets>",
    )


def policy_status(is_public: bool) -> bytes:
    return document("PolicyStatus", f"<IsPublic>{_flag(is_public)}</IsPublic>")


def access_control_policy(owner: Owner, grants: Iterable[Grant] | None = None) -> bytes:
    """grants None: the owner with FULL_CONTROL."""
    if grants is None:
        grants = (Grant("CanonicalUser", owner.id, "FULL_CONTROL", owner.display_name),)
    out = [owner_xml(owner), "<AccessControlList>"]
    for g in grants:
        who = (
            _text("URI", g.grantee)
            if g.kind == "Group"
            else _text("ID", g.grantee) + (_text("DisplayName", g.display_name) if g.display_name else "")
        )
        out.append(
            '<Grant><Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            f'xsi:type="{escape(g.kind)}">{who}</Grantee>{_text("Permission", g.permission)}</Grant>'
        )
    out.append("</AccessControlList>")
    return document("AccessControlPolicy", "".join(out))


# Objects


class DeletedObject(NamedTuple):
    """One result of DeleteObjects: deleted, or refused with code and message."""

    key: bytes
    version_id: str = ""
    code: str = ""
    message: str = ""


def delete_result(results: Iterable[DeletedObject], *, quiet: bool = False) -> bytes:
    out = []
    for r in results:
        version = _text("VersionId", r.version_id) if r.version_id else ""
        if r.code:
            out.append(
                f"<Error><Key>{_key_text(r.key)}</Key>{version}<Code>{escape(r.code)}</Code>"
                f"{_text('Message', r.message)}</Error>"
            )
        elif not quiet:
            out.append(f"<Deleted><Key>{_key_text(r.key)}</Key>{version}</Deleted>")
    return document("DeleteResult", "".join(out))


def _copy_inner(
    etag: str, mtime_s: int, mtime_ns: int, checksums: Iterable[tuple[str, str]], checksum_type: str
) -> str:
    kind = _text("ChecksumType", checksum_type) if checksum_type else ""
    return (
        f"<ETag>&quot;{escape(etag)}&quot;</ETag><LastModified>{iso_time(mtime_s, mtime_ns)}</LastModified>"
        f"{checksum_xml(checksums)}{kind}"
    )


def copy_object_result(
    etag: str, mtime_s: int, mtime_ns: int = 0, checksums: Iterable[tuple[str, str]] = (), checksum_type: str = ""
) -> bytes:
    return document("CopyObjectResult", _copy_inner(etag, mtime_s, mtime_ns, checksums, checksum_type))


def copy_part_result(etag: str, mtime_s: int, mtime_ns: int = 0, checksums: Iterable[tuple[str, str]] = ()) -> bytes:
    return document("CopyPartResult", _copy_inner(etag, mtime_s, mtime_ns, checksums, ""))


def object_attributes(
    *, etag: str | None = None, checksums: Sequence[tuple[str, str]] = (), checksum_type: str = "",
    parts: ObjectParts | None = None, storage_class: str | None = None, size: int | None = None,
) -> bytes:  # fmt: skip
    """Only what was asked for: leave the rest None or empty. The ETag has no quotes here."""
    out = []
    if etag is not None:
        out.append(_text("ETag", etag))
    if checksums:
        kind = _text("ChecksumType", checksum_type) if checksum_type else ""
        out.append(f"<Checksum>{checksum_xml(checksums)}{kind}</Checksum>")
    if parts is not None:
        out.append(
            f"<ObjectParts><PartsCount>{parts.total}</PartsCount><PartNumberMarker>{parts.marker}</PartNumberMarker>"
            f"<NextPartNumberMarker>{parts.next_marker}</NextPartNumberMarker><MaxParts>{parts.max_parts}</MaxParts>"
            f"<IsTruncated>{_flag(parts.truncated)}</IsTruncated>"
        )
        for number, part_size, part_checksums in parts.parts:
            out.append(
                f"<Part><PartNumber>{number}</PartNumber><Size>{part_size}</Size>{checksum_xml(part_checksums)}</Part>"
            )
        out.append("</ObjectParts>")
    if storage_class is not None:
        out.append(_text("StorageClass", storage_class))
    if size is not None:
        out.append(f"<ObjectSize>{size}</ObjectSize>")
    return document("GetObjectAttributesResponse", "".join(out))


class ObjectParts(NamedTuple):
    """total: parts of the object. parts: (number, size, checksums); empty if the upload had no extra checksum."""

    total: int
    marker: int = 0
    next_marker: int = 0
    max_parts: int = 1000
    truncated: bool = False
    parts: tuple[tuple[int, int, tuple[tuple[str, str], ...]], ...] = ()


def post_result(location: str, bucket: str, key: bytes, etag: str) -> bytes:
    """Answer of a form upload with success_action_status 201."""
    return document(
        "PostResponse",
        f"{_text('Location', location)}{_text('Bucket', bucket)}<Key>{_key_text(key)}</Key>"
        f"<ETag>&quot;{escape(etag)}&quot;</ETag>",
    )


# Multipart


def initiate_result(bucket: str, key: bytes, upload_id: str) -> bytes:
    return document(
        "InitiateMultipartUploadResult",
        f"{_text('Bucket', bucket)}<Key>{_key_text(key)}</Key>{_text('UploadId', upload_id)}",
    )


def complete_result(
    location: str, bucket: str, key: bytes, etag: str, checksums: Iterable[tuple[str, str]] = (),
    checksum_type: str = "", *, declaration: bool = True,
) -> bytes:  # fmt: skip
    """declaration False: it was already sent, before the spaces that keep the connection alive."""
    kind = _text("ChecksumType", checksum_type) if checksum_type else ""
    body = document(
        "CompleteMultipartUploadResult",
        f"{_text('Location', location)}{_text('Bucket', bucket)}<Key>{_key_text(key)}</Key>"
        f"<ETag>&quot;{escape(etag)}&quot;</ETag>{checksum_xml(checksums)}{kind}",
    )
    return body if declaration else body[len(DECLARATION) :]


# STS


def assume_role_result(
    *, arn: str, role_id: str, access_key: str, secret_key: str, session_token: str, expires_s: int, request_id: str
) -> bytes:
    return (
        f'{DECLARATION}<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<AssumedRoleUser>{_text('Arn', arn)}{_text('AssumeRoleId', role_id)}</AssumedRoleUser>"
        f"<Credentials>{_text('AccessKeyId', access_key)}{_text('SecretAccessKey', secret_key)}"
        f"{_text('SessionToken', session_token)}<Expiration>{iso_time(expires_s)[:19]}Z</Expiration></Credentials>"
        f"</AssumeRoleResult><ResponseMetadata>{_text('RequestId', request_id)}</ResponseMetadata></AssumeRoleResponse>"
    ).encode()
