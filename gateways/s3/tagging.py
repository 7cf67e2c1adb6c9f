# SPDX-License-Identifier: Apache-2.0
"""Tags of objects: GetObjectTagging, PutObjectTagging, DeleteObjectTagging; stored in the xattr s3-tags.

Source: spec s3 §4.1, §11.8. Bucket tags live in the bucket's metadata file, see `buckets.py`.
"""

from __future__ import annotations

from core.vfs.etags import X_TAGS
from gateways.http.messages import Response
from gateways.s3 import tags, xml
from gateways.s3.documents import read_document
from gateways.s3.errors import S3Error
from gateways.s3.objects import check_version, find_object
from gateways.s3.put_object import encode_tags
from gateways.s3.service import Call, Service, xml_response


async def get_object_tagging(service: Service, call: Call) -> Response:
    check_version(call.params)
    found = await find_object(service, call, call.bucket, call.key)
    stored = (found.xattrs or {}).get(X_TAGS, b"")
    try:
        pairs = tags.parse_tag_query(stored.decode("latin-1"))
    except S3Error:
        pairs = []  # somebody else wrote something else there
    return xml_response(xml.tagging(pairs))


async def put_object_tagging(service: Service, call: Call) -> Response:
    check_version(call.params)
    pairs = xml.parse_tagging(await read_document(service, call, integrity=True))
    tags.check_tags(pairs)
    found = await find_object(service, call, call.bucket, call.key)
    await service.fs.set_xattrs(found.ino, {X_TAGS: encode_tags(pairs)})
    return Response(200)


async def delete_object_tagging(service: Service, call: Call) -> Response:
    check_version(call.params)
    found = await find_object(service, call, call.bucket, call.key)
    if X_TAGS in (found.xattrs or {}):
        await service.fs.set_xattrs(found.ino, {X_TAGS: None})
    return Response(204)
