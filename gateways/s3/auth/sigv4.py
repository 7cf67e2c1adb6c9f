# SPDX-License-Identifier: Apache-2.0
"""Signature version 4 in the Authorization header, and the parts that presigned URLs and form policies share.

Pure: no clock, no IO. This runs for each request, so the common case (ASCII without escapes, values already trimmed)
is a handful of C calls; the general rules are the slow branches beside it.
Source: spec s3 §5.2 (computation, required headers, region), §5.6 (failures).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateways.s3.auth import clock
from gateways.s3.auth.credentials import Credential, Credentials, check_session_token, require_credential
from gateways.s3.auth.model import Auth, Kind, PayloadMode, Seed
from gateways.s3.errors import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_UNRESERVED_PATH = _UNRESERVED + b"/"

#: Added by CloudFront behind the client's signature; it carries no instruction to us.
_PROXY_HEADERS = frozenset({"x-amz-cf-id"})


class Scope(NamedTuple):
    """The parsed Credential: AK/DATE/REGION/SERVICE/aws4_request."""

    access_key: str
    date: str
    region: str
    service: str
    text: str  # everything after the access key


class SignedHeaders(NamedTuple):
    names: tuple[str, ...]
    known: frozenset[str]


@lru_cache(maxsize=512)  # a client sends the same text all day
def parse_credential(text: str) -> Scope:
    """Raises ValueError. The access key itself may contain slashes."""
    access_key, date, region, service, terminator = text.rsplit("/", 4)
    if not access_key or terminator != TERMINATOR or len(date) != 8 or not date.isdigit() or not region:
        raise ValueError(text)
    return Scope(access_key, date, region, service, f"{date}/{region}/{service}/{terminator}")


@lru_cache(maxsize=256)
def parse_signed_headers(text: str) -> SignedHeaders:
    """Raises ValueError."""
    names = tuple(text.split(";"))
    if not all(names) or text != text.lower():
        raise ValueError(text)
    return SignedHeaders(names, frozenset(names))


# (access key, date, region, service) -> (secret, signing key). The secret is compared on a hit, so a changed secret
# takes effect at once. Only known access keys get in.
_signing_keys: dict[tuple[str, str, str, str], tuple[str, bytes]] = {}
_MAX_SIGNING_KEYS = 4096


def derive_key(secret_key: str, date: str, region: str, service: str) -> bytes:
    key = hmac.digest(b"AWS4" + secret_key.encode(), date.encode(), "sha256")
    key = hmac.digest(key, region.encode("latin-1"), "sha256")
    key = hmac.digest(key, service.encode("latin-1"), "sha256")
    return hmac.digest(key, TERMINATOR.encode(), "sha256")


def signing_key(credential: Credential, scope: Scope) -> bytes:
    """The derived key, from the cache if it was used before."""
    index = scope[:4]
    cached = _signing_keys.get(index)
    if cached is not None and cached[0] == credential.secret_key:
        return cached[1]
    key = derive_key(credential.secret_key, scope.date, scope.region, scope.service)
    if len(_signing_keys) >= _MAX_SIGNING_KEYS:
        _signing_keys.clear()
    _signing_keys[index] = (credential.secret_key, key)
    return key


def canonical_path(raw_path: str) -> str:
    """The path decoded once and encoded again, byte by byte; no normalization of dots and slashes."""
    raw = raw_path.encode("latin-1")
    if not raw.translate(None, _UNRESERVED_PATH):
        return raw_path or "/"
    return quote_from_bytes(unquote_to_bytes(raw), "/~")


def _encode_again(text: str) -> str:
    raw = text.encode("latin-1")
    if not raw.translate(None, _UNRESERVED):
        return text
    return quote_from_bytes(unquote_to_bytes(raw.replace(b"+", b" ")), "~")


_encode_again_cached = lru_cache(maxsize=1024)(_encode_again)  # delimiters, prefixes, credentials of presigned URLs


def canonical_query(query: str, without: str = "") -> str:
    """Names and values decoded (`+` is a space) and encoded again, sorted by encoded name, then value.

    without: name that is left out (X-Amz-Signature).
    """
    if not query:
        return ""
    pairs = []
    for part in query.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        name = _encode_again_cached(name) if len(name) < 128 else _encode_again(name)
        if name != without or not without:
            pairs.append((name, _encode_again_cached(value) if len(value) < 256 else _encode_again(value)))
    pairs.sort()
    return "&".join([f"{name}={value}" for name, value in pairs])


def canonical_headers(names: tuple[str, ...], headers: Mapping[str, str]) -> str:
    """One `name:value` line per signed header, each ended by a line feed. An absent header counts as empty: proxies
    remove some, and an empty one says the same."""
    try:
        lines = "\n".join([f"{name}:{headers[name]}" for name in names])
    except KeyError:
        lines = "\n".join([f"{name}:{headers.get(name, '')}" for name in names])
    if "  " in lines or ": " in lines or " \n" in lines or "\t" in lines or lines.endswith(" "):
        lines = "\n".join([f"{name}:{_trimmed(headers.get(name, ''))}" for name in names])
    return lines + "\n"


def _trimmed(value: str) -> str:
    return " ".join([word for word in value.strip(" \t").split(" ") if word])


def check_covered(headers: Mapping[str, str], signed: SignedHeaders, exempt: frozenset[str] = frozenset()) -> None:
    """Host and all x-amz-* headers must be signed; else someone on the way could add an ACL or a copy source."""
    known = signed.known
    unsigned = [n for n in headers.keys() - known if n[:6] == "x-amz-" and n not in _PROXY_HEADERS and n not in exempt]
    if "host" not in known:
        unsigned.append("host")
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed.",
            extra=(("HeadersNotSigned", ", ".join(sorted(unsigned))),),
        )


#: What x-amz-content-sha256 may say besides a digest.
_PAYLOAD_MODES = {mode.value: mode for mode in PayloadMode if mode is not PayloadMode.SHA256}


def parse_payload(value: str, method: str) -> tuple[PayloadMode, str]:
    """Mode and digest of an x-amz-content-sha256 value."""
    if len(value) == 64:
        try:
            if len(bytes.fromhex(value)) == 32:
                return PayloadMode.SHA256, value.lower()
        except ValueError:
            pass
    mode = _PAYLOAD_MODES.get(value)
    if mode is None:
        if value.startswith("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"):
            raise S3Error("NotImplemented", "Signature version 4A is not supported; sign with AWS4-HMAC-SHA256.")
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, a known STREAMING-… value, or a valid sha256 value.",
            extra=(("ArgumentName", "x-amz-content-sha256"), ("ArgumentValue", value[:200])),
        )
    if mode.chunked and method != "PUT":
        raise S3Error("InvalidRequest", "Only PutObject and UploadPart take a streaming payload.")
    return mode, ""


def check_region(scope: Scope, region: str | None, *, method: str, raw_path: str, query: str, code: str) -> None:
    """region None accepts any. us-east-1 is what clients use while they don't know the region yet."""
    if region is None or scope.region == region:
        return
    if scope.region == "us-east-1":
        names = {part.partition("=")[0] for part in query.split("&")}
        if method == "GET" and "location" in names:
            return
        if method == "PUT" and names <= {"", "x-id"} and "/" not in raw_path.strip("/"):
            return
    raise S3Error(
        code,
        f"The authorization is malformed; the region '{scope.region}' is wrong; expecting '{region}'.",
        extra=(("Region", region),),
        headers=(("x-amz-bucket-region", region),),
    )


def check_service(scope: Scope, *, method: str, raw_path: str, code: str) -> None:
    if scope.service == "s3" or (scope.service == "sts" and method == "POST" and raw_path in ("/", "")):
        return
    raise S3Error(
        code,
        f"The authorization is malformed; incorrect service '{scope.service[:64]}'. This endpoint belongs to 's3'.",
    )


def string_to_sign(timestamp: str, scope: str, canonical: str) -> str:
    return f"{ALGORITHM}\n{timestamp}\n{scope}\n{hashlib.sha256(canonical.encode('latin-1')).hexdigest()}"


def check_signature(
    key: bytes, timestamp: str, scope: Scope, canonical: str, provided: str, *, explain: bool = False
) -> None:
    """Compare in constant time. explain: tell the client what we computed (debug mode only: it helps attackers too)."""
    text = string_to_sign(timestamp, scope.text, canonical)
    expected = hmac.digest(key, text.encode("latin-1"), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), provided.encode("utf-8", "replace")):
        raise mismatch(scope.access_key, text, provided, canonical if explain else None)


def mismatch(access_key: str, text: str, provided: str, canonical: str | None) -> S3Error:
    """`SignatureDoesNotMatch`; canonical None hides how the signature was computed."""
    extra: list[tuple[str, str]] = [("AWSAccessKeyId", access_key)]
    if canonical is not None:
        extra += [
            ("StringToSign", text),
            ("SignatureProvided", provided),
            ("StringToSignBytes", text.encode("latin-1", "replace").hex(" ")),
            ("CanonicalRequest", canonical),
            ("CanonicalRequestBytes", canonical.encode("latin-1", "replace").hex(" ")),
        ]
    return S3Error("SignatureDoesNotMatch", extra=extra)


def _malformed(text: str) -> S3Error:
    return S3Error("AuthorizationHeaderMalformed", f"The authorization header is malformed; {text}")


def parse_authorization(value: str) -> tuple[Scope, SignedHeaders, str, str]:
    """Scope, signed headers, their list as sent, and the signature of `AWS4-HMAC-SHA256 Credential=…, …`."""
    credential = signed = signature = ""
    for field in value[len(ALGORITHM) :].split(","):
        name, _, text = field.strip().partition("=")
        if name == "Credential":
            credential = text
        elif name == "SignedHeaders":
            signed = text
        elif name == "Signature":
            signature = text
    if not (credential and signed and signature):
        raise _malformed("it needs Credential, SignedHeaders and Signature, separated by commas.")
    try:
        scope = parse_credential(credential)
    except ValueError:
        raise _malformed(
            "the Credential must be of the form ACCESS-KEY/YYYYMMDD/REGION/SERVICE/aws4_request."
        ) from None
    try:
        return scope, parse_signed_headers(signed), signed, signature
    except ValueError:
        raise _malformed("SignedHeaders must be lower-case header names separated by semicolons.") from None


def _request_time(headers: Mapping[str, str]) -> tuple[str, int, str]:
    """Timestamp for the string to sign, Unix time, and the text as sent. x-amz-date wins over Date."""
    sent = headers.get("x-amz-date")
    if sent is not None:
        seconds = clock.parse_basic(sent)
        if seconds is not None:
            return sent, seconds, sent
    else:
        sent = headers.get("date", "")
    seconds = clock.parse_any(sent)
    if seconds is None:
        raise S3Error("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header.")
    return clock.format_basic(seconds), seconds, sent


def verify_header(
    method: str,
    raw_path: str,
    query: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    *,
    now: float,
    region: str | None = None,
    payload_sha256: str = "",
    explain: bool = False,
) -> Auth:
    """Verify a request whose Authorization header begins with AWS4-HMAC-SHA256.

    payload_sha256: digest of the whole body, for STS requests (they don't send x-amz-content-sha256).
    """
    code = "AuthorizationHeaderMalformed"
    scope, signed, signed_text, signature = parse_authorization(headers["authorization"])
    check_service(scope, method=method, raw_path=raw_path, code=code)
    check_region(scope, region, method=method, raw_path=raw_path, query=query, code=code)
    timestamp, seconds, as_sent = _request_time(headers)
    if scope.date != timestamp[:8]:
        raise _malformed(f"the credential date {scope.date} is not the date of the request, {timestamp}.")
    clock.check_skew(seconds, now, as_sent)
    credential = require_credential(credentials, scope.access_key, now)
    check_session_token(credential, headers.get("x-amz-security-token", ""))

    payload = headers.get("x-amz-content-sha256")
    if payload is None:
        if not payload_sha256 or scope.service != "sts":
            raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256.")
        payload = payload_sha256
    mode, sha256 = parse_payload(payload, method)
    check_covered(headers, signed)

    canonical = (
        f"{method}\n{canonical_path(raw_path)}\n{canonical_query(query)}\n"
        f"{canonical_headers(signed.names, headers)}\n{signed_text}\n{payload}"
    )
    key = signing_key(credential, scope)
    check_signature(key, timestamp, scope, canonical, signature, explain=explain)
    seed = Seed(key, scope.text, timestamp, signature) if mode.chunked else None
    return Auth(Kind.HEADER_V4, credential.identity, mode, sha256, seed, seconds)
