# SPDX-License-Identifier: Apache-2.0
"""The table of operations: name to handler. What isn't here is answered with 501 NotImplemented.

Source: spec s3 §2.3, §9-§12, §15.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateways.http.messages import Response
from gateways.s3 import (
    buckets,
    copy_object,
    delete_objects,
    list_objects,
    list_uploads,
    multipart,
    object_settings,
    objects,
    put_object,
    rename_object,
    tagging,
)
from gateways.s3.errors import Context
from gateways.s3.service import Call, Service

Handler = Callable[[Service, Call], Awaitable[Response]]

HANDLERS: Final[Mapping[str, Handler]] = {
    "ListBuckets": buckets.list_buckets,
    "CreateBucket": buckets.create_bucket,
    "HeadBucket": buckets.head_bucket,
    "DeleteBucket": buckets.delete_bucket,
    "GetBucketLocation": buckets.get_location,
    "GetBucketPolicyStatus": buckets.get_policy_status,
    "PutBucketVersioning": buckets.put_versioning,
    "GetBucketAcl": buckets.get_acl,
    "PutBucketAcl": buckets.put_acl,
    **dict.fromkeys(buckets.SETTINGS, buckets.get_setting),
    **dict.fromkeys(buckets.REMOVALS, buckets.delete_setting),
    "Preflight": buckets.preflight,
    "PutBucketTagging": buckets.put_tagging,
    "ListObjects": list_objects.list_objects,
    "ListObjectsV2": list_objects.list_objects_v2,
    "ListObjectVersions": list_objects.list_object_versions,
    "GetObject": objects.get_object,
    "HeadObject": objects.get_object,
    "GetObjectAttributes": objects.get_object_attributes,
    "GetObjectAcl": object_settings.get_acl,
    "PutObjectAcl": object_settings.put_acl,
    "GetObjectRetention": object_settings.no_lock,
    "GetObjectLegalHold": object_settings.no_lock,
    "GetObjectTagging": tagging.get_object_tagging,
    "PutObjectTagging": tagging.put_object_tagging,
    "DeleteObjectTagging": tagging.delete_object_tagging,
    "PutObject": put_object.put_object,
    "CopyObject": copy_object.copy_object,
    "RenameObject": rename_object.rename_object,
    "DeleteObject": delete_objects.delete_object,
    "DeleteObjects": delete_objects.delete_objects,
    "CreateMultipartUpload": multipart.create_upload,
    "UploadPart": multipart.upload_part,
    "UploadPartCopy": multipart.upload_part_copy,
    "CompleteMultipartUpload": multipart.complete_upload,
    "AbortMultipartUpload": multipart.abort_upload,
    "ListParts": multipart.list_parts,
    "ListMultipartUploads": list_uploads.list_multipart_uploads,
}

#: What ENOENT and its like mean when a handler lets a file-system error pass; the rest are reads.
CONTEXTS: Final[Mapping[str, Context]] = {
    **dict.fromkeys(("CreateBucket", "HeadBucket", "DeleteBucket"), Context.BUCKET),
    **dict.fromkeys(("PutObject", "CopyObject", "RenameObject"), Context.WRITE),
    **dict.fromkeys(("DeleteObject", "DeleteObjects"), Context.DELETE),
    **dict.fromkeys(("UploadPart", "UploadPartCopy", "AbortMultipartUpload", "ListParts"), Context.UPLOAD),
}
