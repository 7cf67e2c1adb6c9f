# SPDX-License-Identifier: Apache-2.0
"""What S3 answers: error documents, list pages, times; and which refusals are worth another try.

Pure functions over bytes. Source: Amazon S3 API reference (error responses, ListObjectsV2); spec data-path §4.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_plus

from defusedxml.ElementTree import fromstring

from core.object.api import Buffer, ObjectInfo

# Refusals that pass by themselves although their status is 4xx.
RETRYABLE_CODES = frozenset(
    {
        "ConditionalRequestConflict",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
RETRYABLE_STATUS = frozenset({408, 425, 429})
EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})

ADVICE = {
    "AccessDenied": "check the policy of this user and bucket",
    "InvalidAccessKeyId": "check the access key",
    "SignatureDoesNotMatch": "check the secret key",
    "AuthorizationHeaderMalformed": "check the region (AWS_REGION)",
    "NoSuchBucket": "create the bucket or check its name",
    "PermanentRedirect": "use the endpoint of the bucket's region",
    "RequestTimeTooSkewed": "set this machine's clock",
    "ExpiredToken": "renew the session token",
    "InvalidToken": "check the session token",
    "QuotaExceeded": "raise the quota of the bucket or free space",
    "XMinioStorageFull": "free space on the server",
    "InvalidObjectState": "the object is archived; restore it first",
}


class Refusal(NamedTuple):
    """An error document, or what the status alone says."""

    code: str
    message: str
    region: str


def parse_refusal(status: int, headers: Mapping[str, str], body: Buffer) -> Refusal:
    """Only code, message and region are taken: the rest of the document may hold the access key."""
    text = bytes(body[:8192]).decode("utf-8", "replace")
    region = headers.get("x-amz-bucket-region", "") or _element(text, "Region")
    code = _element(text, "Code") or _STATUS_CODES.get(status, "")
    return Refusal(code, " ".join(_element(text, "Message").split())[:300], region)


_STATUS_CODES = {301: "PermanentRedirect", 403: "AccessDenied", 503: "ServiceUnavailable"}


def _element(text: str, name: str) -> str:
    found = re.search(rf"<{name}>([^<]*)</{name}>", text)
    return found[1] if found else ""


def is_retryable(status: int, code: str) -> bool:
    return (status >= 500 and status != 501) or status in RETRYABLE_STATUS or code in RETRYABLE_CODES


class Page(NamedTuple):
    objects: list[ObjectInfo]
    next_token: str  # "" on the last page


def parse_page(body: Buffer) -> Page:
    """A ListObjectsV2 answer. Raises ValueError if it is none."""
    try:
        root: Any = fromstring(bytes(body))
    except Exception as error:  # defusedxml and expat have no common base
        raise ValueError(f"not an XML document ({type(error).__name__})") from error
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    if root.tag != f"{space}ListBucketResult":
        raise ValueError(f"a document <{root.tag.removeprefix(space)}>")
    # Keys are encoded only if the server says so: some ignore the wish.
    encoded = root.findtext(f"{space}EncodingType") == "url"
    objects = []
    for item in root.iterfind(f"{space}Contents"):
        key = item.findtext(f"{space}Key") or ""
        size, modified = item.findtext(f"{space}Size"), item.findtext(f"{space}LastModified")
        if not key or size is None:
            raise ValueError("an entry without key or size")
        objects.append(ObjectInfo(unquote_plus(key) if encoded else key, int(size), _iso_time(modified or "")))
    more = root.findtext(f"{space}IsTruncated") == "true"
    token = root.findtext(f"{space}NextContinuationToken") or ""
    if more and not token:
        raise ValueError("a cut list without a continuation token")
    return Page(objects, token if more else "")


def _iso_time(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def http_time(text: str) -> float:
    """Seconds since the epoch of a Date or Last-Modified field; 0 if it can't be read."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError):
        return 0.0
