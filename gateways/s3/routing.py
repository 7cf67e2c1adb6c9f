# SPDX-License-Identifier: Apache-2.0
"""Which operation a request asks for: tables of method and subresource, first match wins.

Pure; no IO. A subresource that S3 knows but this gateway doesn't is `NotImplemented`, never a plain GET, PUT or DELETE
of the object. Source: spec s3 §2.3 (order), §15 (not implemented), §7.2 (actions).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from gateways.s3.errors import S3Error

NI: Final = "NotImplemented"

Table = tuple[tuple[str, str], ...]

_CONFIGURATION: Final[tuple[tuple[str, str], ...]] = (
    # subresource, name of the operation after Get/Put/Delete
    ("policyStatus", "BucketPolicyStatus"), ("policy", "BucketPolicy"), ("lifecycle", "BucketLifecycle"),
    ("encryption", "BucketEncryption"), ("object-lock", "ObjectLockConfiguration"),
    ("replication", "BucketReplication"), ("versioning", "BucketVersioning"),
    ("notification", "BucketNotification"), ("events", "events"), ("acl", "BucketAcl"), ("cors", "BucketCors"),
    ("website", "BucketWebsite"), ("accelerate", "BucketAccelerate"), ("requestPayment", "BucketRequestPayment"),
    ("logging", "BucketLogging"), ("tagging", "BucketTagging"), ("ownershipControls", "BucketOwnershipControls"),
    ("publicAccessBlock", "PublicAccessBlock"),
)  # fmt: skip

#: Never offered (§15), at bucket level and for every method.
_NEVER_BUCKET: Final = (
    "inventory", "analytics", "metrics", "intelligent-tiering", "abac", "metadataConfiguration", "metadataTable",
    "metadataInventoryTable", "metadataJournalTable", "metadataAnnotationTable", "session", "events",
)  # fmt: skip
_NEVER_OBJECT: Final = ("torrent", "restore", "select", "annotation", "annotations", "encryption", "website", "policy")


def _configuration(verb: str) -> Table:
    return tuple((sub, NI if sub in _NEVER_BUCKET else verb + name) for sub, name in _CONFIGURATION)


BUCKET: Final[Mapping[str, Table]] = {
    "GET": (
        ("location", "GetBucketLocation"), *_configuration("Get"), ("uploads", "ListMultipartUploads"),
        ("versions", "ListObjectVersions"),
    ),
    "PUT": _configuration("Put"),
    "DELETE": _configuration("Delete"),
    "POST": (("delete", "DeleteObjects"),),
    "OPTIONS": (),
}  # fmt: skip

OBJECT: Final[Mapping[str, Table]] = {
    "GET": (
        ("uploadId", "ListParts"), ("acl", "GetObjectAcl"), ("tagging", "GetObjectTagging"),
        ("retention", "GetObjectRetention"), ("legal-hold", "GetObjectLegalHold"),
        ("attributes", "GetObjectAttributes"),
    ),
    "PUT": (
        ("acl", "PutObjectAcl"), ("tagging", "PutObjectTagging"), ("retention", "PutObjectRetention"),
        ("legal-hold", "PutObjectLegalHold"), ("renameObject", "RenameObject"),
    ),
    "POST": (("uploads", "CreateMultipartUpload"), ("uploadId", "CompleteMultipartUpload")),
    "DELETE": (("uploadId", "AbortMultipartUpload"), ("tagging", "DeleteObjectTagging")),
    "OPTIONS": (),
}  # fmt: skip

_BUCKET_NAMES: Final = frozenset(
    [name for table in BUCKET.values() for name, _ in table] + list(_NEVER_BUCKET)
)  # fmt: skip
_OBJECT_NAMES: Final = frozenset(
    [name for table in OBJECT.values() for name, _ in table if name != "uploadId"] + list(_NEVER_OBJECT)
)  # fmt: skip

#: Query names that are parameters, not subresources; others with a value are ignored as AWS does (`x-id`, cache
#: busters), others without one look like a subresource of the future and are refused.
_PARAMETERS: Final = frozenset(
    {
        "list-type", "prefix", "delimiter", "max-keys", "encoding-type", "marker", "continuation-token", "start-after",
        "fetch-owner", "key-marker", "version-id-marker", "upload-id-marker", "max-uploads", "max-parts",
        "part-number-marker", "partNumber", "uploadId", "versionId", "x-id", "max-buckets", "bucket-region",
        "response-content-type", "response-content-language", "response-content-encoding",
        "response-content-disposition", "response-cache-control", "response-expires", "id", "metadata",
        "allow-unordered", "Expires", "Signature", "AWSAccessKeyId", "select-type",
    }
)  # fmt: skip
_SUBRESOURCE: Final = re.compile(r"[A-Za-z][A-Za-z-]*", re.ASCII)

#: Operations whose IAM action isn't "s3:" + name (§7.2).
_ACTIONS: Final[Mapping[str, str]] = {
    "ListBuckets": "s3:ListAllMyBuckets", "HeadBucket": "s3:ListBucket", "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket", "ListObjectVersions": "s3:ListBucketVersions",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads", "ListParts": "s3:ListMultipartUploadParts",
    "HeadObject": "s3:GetObject", "CopyObject": "s3:PutObject", "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject", "UploadPartCopy": "s3:PutObject", "CompleteMultipartUpload": "s3:PutObject",
    "DeleteObjects": "s3:DeleteObject", "RenameObject": "s3:PutObject", "GetBucketCors": "s3:GetBucketCORS",
    "PutBucketCors": "s3:PutBucketCORS", "DeleteBucketCors": "s3:PutBucketCORS",
    "GetBucketLifecycle": "s3:GetLifecycleConfiguration", "PutBucketLifecycle": "s3:PutLifecycleConfiguration",
    "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration", "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "GetBucketReplication": "s3:GetReplicationConfiguration", "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration", "DeleteBucketTagging": "s3:PutBucketTagging",
    "GetBucketAccelerate": "s3:GetAccelerateConfiguration",
}  # fmt: skip


def action_of(operation: str) -> str:
    return _ACTIONS.get(operation) or "s3:" + operation


def parse_query(query: str) -> dict[str, str]:
    """Query parameters, the first of each name. Bytes that aren't UTF-8 become lone surrogates."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape", max_num_fields=1000)
    except ValueError:
        raise S3Error("InvalidArgument", "The query string has too many parameters.") from None
    out: dict[str, str] = {}
    for name, value in pairs:
        out.setdefault(name, value)
    return out


def operation_of(method: str, bucket: str, key: bytes, params: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """Name of the operation, such as "GetObject". Raises NotImplemented, MethodNotAllowed, InvalidArgument."""
    if method == "OPTIONS":
        return "Preflight"
    if key:
        return _object_operation(method, params, headers)
    if bucket:
        return _bucket_operation(method, params, headers)
    if method in ("GET", "HEAD"):
        return "ListBuckets"
    if method == "POST":
        raise S3Error(NI, "STS requests are not implemented.")
    raise S3Error("MethodNotAllowed")


def _object_operation(method: str, params: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if params:
        table = OBJECT.get("GET" if method == "HEAD" else method)
        if table is None:
            raise S3Error("MethodNotAllowed")
        if method == "PUT":
            if "uploadId" in params:
                if "partNumber" not in params:
                    raise S3Error("InvalidArgument", "A part needs the parameter partNumber.")
                return "UploadPartCopy" if "x-amz-copy-source" in headers else "UploadPart"
            if "partNumber" in params:
                raise S3Error("InvalidArgument", "partNumber needs the uploadId of a multipart upload.")
        for name, operation in table:
            if name in params:
                if method == "HEAD" and name == "uploadId":
                    raise S3Error("MethodNotAllowed")
                return operation
        _refuse_unknown(params, _OBJECT_NAMES)
    if method == "GET":
        return "GetObject"
    if method == "PUT":
        return "CopyObject" if "x-amz-copy-source" in headers else "PutObject"
    if method == "HEAD":
        return "HeadObject"
    if method == "DELETE":
        return "DeleteObject"
    raise S3Error("MethodNotAllowed")


def _bucket_operation(method: str, params: Mapping[str, str], headers: Mapping[str, str]) -> str:
    if params:
        table = BUCKET.get("GET" if method == "HEAD" else method)
        if table is None:
            raise S3Error("MethodNotAllowed")
        for name, operation in table:
            if name in params:
                if operation == NI:
                    raise S3Error(NI, f"The subresource {name} is not implemented.")
                return operation
        _refuse_unknown(params, _BUCKET_NAMES)
    if method == "GET":
        return "ListObjectsV2" if params.get("list-type") == "2" else "ListObjects"
    if method == "PUT":
        return "CreateBucket"
    if method == "HEAD":
        return "HeadBucket"
    if method == "DELETE":
        return "DeleteBucket"
    if method == "POST" and headers.get("content-type", "").startswith("multipart/form-data"):
        return "PostObject"
    raise S3Error("MethodNotAllowed")


def _refuse_unknown(params: Mapping[str, str], known: frozenset[str]) -> None:
    for name, value in params.items():
        if name in _PARAMETERS:
            continue
        if name in known or (not value and not name.startswith(("x-", "X-")) and _SUBRESOURCE.fullmatch(name)):
            raise S3Error(NI, f"The subresource {name} is not implemented here.")
