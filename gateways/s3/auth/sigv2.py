# SPDX-License-Identifier: Apache-2.0
"""Signature version 2, in the Authorization header and as presigned URL.

Old, but boto3 and `aws s3 presign` still make V2 URLs for custom endpoints in us-east-1 with default settings.
Source: spec s3 §5.5 (string to sign, subresources), §5.6 (failures), §2.2 (no decoding of the path).
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from urllib.parse import unquote

from gateways.s3.auth import clock
from gateways.s3.auth.credentials import Credential, Credentials, check_session_token, require_credential
from gateways.s3.auth.model import Auth, Kind, PayloadMode
from gateways.s3.auth.sigv4 import mismatch, parse_payload
from gateways.s3.errors import S3Error

#: Query parameters that are part of the signed resource. object-lock isn't in the AWS documentation of V2, but botocore
#: signs it.
# fmt: off
SUBRESOURCES = frozenset((
    "acl", "accelerate", "analytics", "cors", "delete", "encryption", "inventory", "legal-hold", "lifecycle",
    "location", "logging", "metrics", "notification", "object-lock", "partNumber", "policy", "policyStatus",
    "publicAccessBlock", "replication", "requestPayment", "restore", "retention", "select", "select-type", "tagging",
    "torrent", "uploadId", "uploads", "versionId", "versioning", "versions", "website", "response-cache-control",
    "response-content-disposition", "response-content-encoding", "response-content-language", "response-content-type",
    "response-expires",
))
# fmt: on


REFUSED = (
    "The authorization mechanism that you have provided is not supported: signature version 2 is switched off here. "
    "Please use AWS4-HMAC-SHA256."
)


def sign(secret_key: str, text: str) -> str:
    """base64 HMAC-SHA1; text is latin-1 for bytes on the wire."""
    return base64.b64encode(hmac.digest(secret_key.encode(), text.encode("latin-1"), "sha1")).decode()


def canonical_resource(raw_path: str, query: str, host_bucket: str = "", *, empty_values: bool = True) -> str:
    """Path as sent, with the bucket of a virtual host in front, and the signed subresources.

    empty_values: write `acl=` as it was sent; some signers drop the equals sign.
    """
    path = f"/{host_bucket}{raw_path or '/'}" if host_bucket else raw_path or "/"
    found = []
    for part in query.split("&") if query else ():
        name, equals, value = part.partition("=")
        if name in SUBRESOURCES:
            found.append((name, f"{name}={unquote(value, 'latin-1')}" if value or (equals and empty_values) else name))
    if not found:
        return path
    found.sort()
    return path + "?" + "&".join([text for _, text in found])


def string_to_sign(
    method: str, date: str, resource: str, headers: Mapping[str, str], query_headers: Mapping[str, str]
) -> str:
    """query_headers: x-amz-*, content-md5 and content-type that a presigned URL carries in its query."""
    amz = {n: " ".join(v.split()) for n, v in query_headers.items() if n.startswith("x-amz-")}
    amz.update({n: " ".join(v.split()) for n, v in headers.items() if n.startswith("x-amz-")})
    lines = "".join([f"{name}:{amz[name]}\n" for name in sorted(amz)])
    md5 = headers.get("content-md5", query_headers.get("content-md5", ""))
    content_type = headers.get("content-type", query_headers.get("content-type", ""))
    return f"{method}\n{md5.strip()}\n{content_type.strip()}\n{date}\n{lines}{resource}"


def _check(
    credential: Credential, method: str, date: str, raw_path: str, query: str, host_bucket: str,
    headers: Mapping[str, str], query_headers: Mapping[str, str], provided: str, explain: bool,
) -> None:  # fmt: skip
    sent = provided.encode("utf-8", "replace")
    text = ""
    for empty_values in (True, False) if "=&" in query + "&" else (True,):
        resource = canonical_resource(raw_path, query, host_bucket, empty_values=empty_values)
        text = string_to_sign(method, date, resource, headers, query_headers)
        if hmac.compare_digest(sign(credential.secret_key, text).encode(), sent):
            return
    raise mismatch(credential.access_key, text, provided, text if explain else None)


def _payload(headers: Mapping[str, str], method: str) -> tuple[PayloadMode, str]:
    """V2 doesn't sign the body; a digest that was sent anyway is verified all the same."""
    value = headers.get("x-amz-content-sha256")
    if value is None:
        return PayloadMode.UNSIGNED, ""
    mode, sha256 = parse_payload(value, method)
    if mode in (PayloadMode.STREAMING_SIGNED, PayloadMode.STREAMING_SIGNED_TRAILER):
        raise S3Error("InvalidRequest", "Signed chunks need a request that is signed with signature version 4.")
    return mode, sha256


def verify_header(
    method: str, raw_path: str, query: str, headers: Mapping[str, str], credentials: Credentials, *,
    now: float, host_bucket: str = "", explain: bool = False,
) -> Auth:  # fmt: skip
    """Verify `Authorization: AWS ACCESS-KEY:SIGNATURE`."""
    access_key, colon, signature = headers["authorization"][4:].strip().rpartition(":")
    if not (access_key and colon and signature):
        raise S3Error(
            "InvalidArgument", "AWS authorization header is invalid. Expected AwsAccessKeyId:signature.",
            extra=(("ArgumentName", "Authorization"),),
        )  # fmt: skip
    amz_date = headers.get("x-amz-date")
    as_sent = headers.get("date", "") if amz_date is None else amz_date
    seconds = clock.parse_any(as_sent)
    if seconds is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header.")
    clock.check_skew(seconds, now, as_sent)
    credential = require_credential(credentials, access_key, now)
    check_session_token(credential, headers.get("x-amz-security-token", ""))
    mode, sha256 = _payload(headers, method)
    date = as_sent if amz_date is None else ""
    _check(credential, method, date, raw_path, query, host_bucket, headers, {}, signature, explain)
    return Auth(Kind.HEADER_V2, credential.identity, mode, sha256, None, seconds)


def verify_presigned(
    method: str, raw_path: str, query: str, headers: Mapping[str, str], credentials: Credentials, *,
    now: float, host_bucket: str = "", explain: bool = False,
) -> Auth:  # fmt: skip
    """Verify `?AWSAccessKeyId=…&Signature=…&Expires=…` (Expires is a Unix time)."""
    own: dict[str, str] = {}
    query_headers: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in ("AWSAccessKeyId", "Signature", "Expires"):
            if name in own:
                raise S3Error("InvalidArgument", f"The query parameter {name} may be given only once.")
            # An unescaped "+" can only be base64 here, never a space.
            own[name] = unquote(value, "latin-1")
        else:
            lower = unquote(name, "latin-1").lower()
            if lower.startswith("x-amz-") or lower in ("content-md5", "content-type"):
                query_headers[lower] = unquote(value.replace("+", " "), "latin-1")
    if not all(own.get(name) for name in ("AWSAccessKeyId", "Signature", "Expires")):
        raise S3Error(
            "AccessDenied", "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters."
        )
    expires = own["Expires"]
    if not (expires.isascii() and expires.isdigit()) or len(expires) > 18:
        raise S3Error("AccessDenied", f"Invalid date (should be seconds since epoch): {expires[:64]}")
    if now > int(expires):
        raise S3Error(
            "AccessDenied",
            "Request has expired.",
            extra=(("Expires", clock.format_iso(int(expires))), ("ServerTime", clock.format_iso(now))),
        )
    credential = require_credential(credentials, own["AWSAccessKeyId"], now)
    check_session_token(credential, headers.get("x-amz-security-token", query_headers.get("x-amz-security-token", "")))
    mode, sha256 = _payload(headers, method)
    _check(credential, method, expires, raw_path, query, host_bucket, headers, query_headers, own["Signature"], explain)
    return Auth(Kind.PRESIGNED_V2, credential.identity, mode, sha256)
