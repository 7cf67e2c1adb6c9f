# SPDX-License-Identifier: Apache-2.0
"""Authentication of S3 requests: which mechanism, whose key, what protects the body. Authorization lives elsewhere.

Everything below is pure: no IO, no clock, no state but caches of derived keys. `authenticate` reads only the head of a
request, so that the final answer can be given before `100 Continue`.
Source: spec s3 §5.
"""

from __future__ import annotations

from gateways.http.messages import Request
from gateways.s3.auth import presigned, sigv2, sigv4
from gateways.s3.auth.credentials import (
    Credential,
    Credentials,
    StaticCredentials,
    owner_id,
    root_credential,
    root_credentials,
)
from gateways.s3.auth.model import ANONYMOUS, Auth, Identity, Kind, PayloadMode, Seed
from gateways.s3.auth.post_policy import authenticate_form
from gateways.s3.auth.presigned import hoisted_headers
from gateways.s3.errors import S3Error

__all__ = [
    "ANONYMOUS",
    "Auth",
    "Credential",
    "Credentials",
    "Identity",
    "Kind",
    "PayloadMode",
    "Seed",
    "StaticCredentials",
    "authenticate",
    "authenticate_form",
    "hoisted_headers",
    "owner_id",
    "recognize",
    "root_credential",
    "root_credentials",
]

_V4_NAMES = frozenset({"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"})


def _unsupported() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "The authorization mechanism that you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def recognize(request: Request) -> Kind:
    """Exactly one mechanism, or none; two are 400 `InvalidRequest`."""
    kind = Kind.ANONYMOUS
    authorization = request.headers.get("authorization", "")
    if authorization:
        scheme = authorization.partition(" ")[0]
        if scheme == sigv4.ALGORITHM:
            kind = Kind.HEADER_V4
        elif scheme == "AWS":
            kind = Kind.HEADER_V2
        elif scheme == "AWS4-ECDSA-P256-SHA256":
            raise S3Error("NotImplemented", "Signature version 4A is not supported; sign with AWS4-HMAC-SHA256.")
        else:
            raise _unsupported()
    query = request.query_string
    # One search keeps ordinary queries out of the parsing below; both kinds contain one of these words.
    if query and ("X-Amz-" in query or "Signature" in query):
        names = {part.partition("=")[0] for part in query.split("&")}
        v4 = not names.isdisjoint(_V4_NAMES)
        v2 = "AWSAccessKeyId" in names and "Signature" in names
        if v4 + v2 + (kind is not Kind.ANONYMOUS) > 1:
            raise S3Error("InvalidRequest", "Only one authentication mechanism is allowed: header or query, V4 or V2.")
        if v4:
            return Kind.PRESIGNED_V4
        if v2:
            return Kind.PRESIGNED_V2
    if (
        kind is Kind.ANONYMOUS
        and request.method == "POST"
        and request.headers.get("content-type", "")[:19].lower() == "multipart/form-data"
    ):
        return Kind.FORM
    return kind


def _implied_payload(request: Request) -> PayloadMode:
    """Body of a request without x-amz-content-sha256. SDKs without a V4 signer (anonymous, V2) send trailers all the
    same and then only say so in Content-Encoding."""
    if "x-amz-trailer" in request.headers and "aws-chunked" in request.headers.get("content-encoding", "").lower():
        return PayloadMode.STREAMING_UNSIGNED_TRAILER
    return PayloadMode.UNSIGNED


def authenticate(
    request: Request,
    credentials: Credentials,
    *,
    now: float,
    region: str | None = None,
    allow_anonymous: bool = False,
    allow_sigv2: bool = True,
    host_bucket: str = "",
    payload_sha256: str = "",
    forbid_bad_expires: bool = False,
    explain: bool = False,
) -> Auth:
    """Verify the signature of a request, or raise the `S3Error` that answers it.

    now: Unix time. region None accepts any. host_bucket: bucket of a virtual host (V2 signs it).
    payload_sha256: hex digest of the body that an STS request was read into. forbid_bad_expires: see `presigned`.
    explain: put what we computed into `SignatureDoesNotMatch` (debug mode).
    A form upload comes back as Kind.FORM with the anonymous identity: `authenticate_form` decides when its fields are
    read. Anonymous requests are refused with 403 unless allowed; then authorization decides.
    """
    kind = recognize(request)
    path, query, headers = request.raw_path, request.query_string, request.headers
    if kind is Kind.HEADER_V4:
        return sigv4.verify_header(
            request.method, path, query, headers, credentials,
            now=now, region=region, payload_sha256=payload_sha256, explain=explain,
        )  # fmt: skip
    if kind is Kind.PRESIGNED_V4:
        auth = presigned.verify_presigned(
            request.method, path, query, headers, credentials,
            now=now, region=region, forbid_bad_expires=forbid_bad_expires, explain=explain,
        )  # fmt: skip
    elif kind is Kind.HEADER_V2 or kind is Kind.PRESIGNED_V2:
        if not allow_sigv2:
            raise S3Error("InvalidRequest", sigv2.REFUSED)
        verify = sigv2.verify_header if kind is Kind.HEADER_V2 else sigv2.verify_presigned
        auth = verify(
            request.method, path, query, headers, credentials, now=now, host_bucket=host_bucket, explain=explain
        )
    elif kind is Kind.FORM:
        return Auth(Kind.FORM, ANONYMOUS)
    else:
        if not allow_anonymous:
            raise S3Error("AccessDenied")
        auth = _anonymous(request)
    if auth.payload is PayloadMode.UNSIGNED and "x-amz-content-sha256" not in headers:
        return auth._replace(payload=_implied_payload(request))
    return auth


def _anonymous(request: Request) -> Auth:
    value = request.headers.get("x-amz-content-sha256")
    if value is None:
        return Auth(Kind.ANONYMOUS, ANONYMOUS)
    mode, sha256 = sigv4.parse_payload(value, request.method)
    if mode in (PayloadMode.STREAMING_SIGNED, PayloadMode.STREAMING_SIGNED_TRAILER):
        raise S3Error("InvalidRequest", "Signed chunks need a request that is signed with signature version 4.")
    return Auth(Kind.ANONYMOUS, ANONYMOUS, mode, sha256)
