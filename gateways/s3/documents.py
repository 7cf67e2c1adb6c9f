# SPDX-License-Identifier: Apache-2.0
"""Request documents: small bodies read as a whole and verified before anybody parses them.

Source: spec s3 §6 (who wants an integrity header), §8 (size limits), §5.2 (streaming bodies are for uploads).
"""

from __future__ import annotations

import hashlib
import hmac

from gateways.s3 import checksums
from gateways.s3.auth.model import PayloadMode
from gateways.s3.config import MAX_XML_BYTES
from gateways.s3.errors import S3Error
from gateways.s3.service import Call, Service


async def read_document(service: Service, call: Call, *, limit: int = MAX_XML_BYTES, integrity: bool = False) -> bytes:
    """The body, proven by whatever digests came with it. integrity: in strict mode at least one must."""
    auth, headers = call.auth, call.headers
    if auth.payload.chunked:
        raise S3Error("InvalidRequest", "aws-chunked bodies are only legal for PutObject and UploadPart.")
    wanted = checksums.requested(headers)
    md5 = checksums.content_md5(headers)
    if integrity and service.config.strict and md5 is None and not wanted.algorithm:
        raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 or x-amz-checksum-*.")
    data = await _read_all(call, limit)
    if auth.payload is PayloadMode.SHA256 and not hmac.compare_digest(hashlib.sha256(data).hexdigest(), auth.sha256):
        raise S3Error("XAmzContentSHA256Mismatch")
    if md5 is not None and not hmac.compare_digest(hashlib.md5(data, usedforsecurity=False).digest(), md5):
        raise S3Error("BadDigest")
    if wanted.digest is not None:
        hasher = checksums.new_hasher(wanted.algorithm)
        hasher.update(data)
        checksums.check(wanted.algorithm, wanted.digest, hasher.digest())
    return data


async def _read_all(call: Call, limit: int) -> bytes:
    length = call.body.length
    if length is not None and length > limit:
        raise S3Error("MaxMessageLengthExceeded", f"The body of this request may have {limit} bytes at most.")
    parts: list[bytes] = []
    total = 0
    while piece := await call.body.read():
        total += len(piece)
        if total > limit:
            raise S3Error("MaxMessageLengthExceeded", f"The body of this request may have {limit} bytes at most.")
        parts.append(bytes(piece))
    if length is not None and total < length:
        raise S3Error("IncompleteBody")
    return parts[0] if len(parts) == 1 else b"".join(parts)
