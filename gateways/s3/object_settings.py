# SPDX-License-Identifier: Apache-2.0
"""Settings of one object that have only one value here: its ACL (the owner's) and its lock (none).

Source: spec s3 §7.6, §13.
"""

from __future__ import annotations

from gateways.http.messages import Response
from gateways.s3 import xml
from gateways.s3.buckets import accept_acl
from gateways.s3.errors import S3Error
from gateways.s3.objects import check_version, find_object
from gateways.s3.service import Call, Service, xml_response


async def get_acl(service: Service, call: Call) -> Response:
    """The owner has full control; s3cmd asks before each remote copy."""
    check_version(call.params)
    await find_object(service, call, call.bucket, call.key)
    return xml_response(xml.access_control_policy(service.owner(call.auth.identity)))


async def put_acl(service: Service, call: Call) -> Response:
    check_version(call.params)
    await find_object(service, call, call.bucket, call.key)
    await accept_acl(service, call)
    return Response(200)


async def no_lock(service: Service, call: Call) -> Response:
    await find_object(service, call, call.bucket, call.key)
    raise S3Error("InvalidRequest", "Bucket is missing Object Lock Configuration")
