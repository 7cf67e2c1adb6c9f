# SPDX-License-Identifier: Apache-2.0
"""Presigned URLs of signature version 4: the signature and its conditions travel in the query.

Source: spec s3 §5.3 (parameters, expiry), §5.2 (computation), §20 (what SDKs hoist into the query).
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

from gateways.s3.auth import clock, sigv4
from gateways.s3.auth.credentials import Credentials, check_session_token, require_credential
from gateways.s3.auth.model import Auth, Kind, Seed
from gateways.s3.errors import S3Error

MAX_EXPIRES_S = 7 * 24 * 3600

_CODE = "AuthorizationQueryParametersError"
_REQUIRED = (
    "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-Date", "X-Amz-SignedHeaders", "X-Amz-Expires",
)  # fmt: skip
_OPTIONAL = ("X-Amz-Security-Token", "X-Amz-Content-Sha256")
_OWN = frozenset(_REQUIRED + _OPTIONAL)
#: Its value is a line of the canonical request of its own, so it is covered even if it isn't a signed header.
_COVERED_BY_PAYLOAD_LINE = frozenset({"x-amz-content-sha256"})


def _parameters(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name in _OWN:
            if name in found:
                raise S3Error(_CODE, f"The query parameter {name} may be given only once.")
            found[name] = unquote(value.replace("+", " "), "latin-1") if "%" in value or "+" in value else value
    if not all(found.get(name) for name in _REQUIRED):
        raise S3Error(_CODE, f"Query-string authentication version 4 requires the {', '.join(_REQUIRED)} parameters.")
    return found


def _lifetime(text: str, forbid: bool) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise S3Error(_CODE, "X-Amz-Expires should be a number.")
    seconds = int(text)
    if 1 <= seconds <= MAX_EXPIRES_S:
        return seconds
    if seconds == 0 or forbid:
        raise S3Error("AccessDenied", f"X-Amz-Expires must be between 1 and {MAX_EXPIRES_S} seconds.")
    if seconds < 0:
        raise S3Error(_CODE, "X-Amz-Expires must be non-negative.")
    raise S3Error(_CODE, f"X-Amz-Expires must be less than a week (in seconds); that is {MAX_EXPIRES_S}.")


def verify_presigned(
    method: str,
    raw_path: str,
    query: str,
    headers: Mapping[str, str],
    credentials: Credentials,
    *,
    now: float,
    region: str | None = None,
    forbid_bad_expires: bool = False,
    explain: bool = False,
) -> Auth:
    """Verify a presigned V4 request.

    forbid_bad_expires: answer 403 instead of 400 to an X-Amz-Expires out of range, as the Ceph suite expects.
    """
    parameters = _parameters(query)
    algorithm = parameters["X-Amz-Algorithm"]
    if algorithm != sigv4.ALGORITHM:
        if algorithm == "AWS4-ECDSA-P256-SHA256":
            raise S3Error("NotImplemented", "Signature version 4A is not supported; sign with AWS4-HMAC-SHA256.")
        raise S3Error(_CODE, "X-Amz-Algorithm only supports AWS4-HMAC-SHA256.")
    try:
        scope = sigv4.parse_credential(parameters["X-Amz-Credential"])
    except ValueError:
        raise S3Error(
            _CODE, "X-Amz-Credential must be of the form ACCESS-KEY/YYYYMMDD/REGION/SERVICE/aws4_request."
        ) from None
    if scope.service != "s3":
        raise S3Error(_CODE, f"Incorrect service '{scope.service[:64]}'. This endpoint belongs to 's3'.")
    sigv4.check_region(scope, region, method=method, raw_path=raw_path, query=query, code=_CODE)
    signed_text = parameters["X-Amz-SignedHeaders"]
    try:
        signed = sigv4.parse_signed_headers(signed_text)
    except ValueError:
        raise S3Error(_CODE, "X-Amz-SignedHeaders must be lower-case header names joined by semicolons.") from None

    timestamp = parameters["X-Amz-Date"]
    seconds = clock.parse_basic(timestamp)
    if seconds is None:
        raise S3Error(_CODE, "X-Amz-Date must be in the ISO8601 Long Format YYYYMMDDTHHMMSSZ.")
    if scope.date != timestamp[:8]:
        raise S3Error(_CODE, f"The credential date {scope.date} is not the date of X-Amz-Date, {timestamp}.")
    lifetime = _lifetime(parameters["X-Amz-Expires"], forbid_bad_expires)
    if seconds - now > clock.MAX_SKEW_S:
        raise S3Error("AccessDenied", "Request is not valid yet.", extra=(("ServerTime", clock.format_iso(now)),))
    if now > seconds + lifetime:
        raise S3Error(
            "AccessDenied",
            "Request has expired.",
            extra=(
                ("X-Amz-Expires", str(lifetime)),
                ("Expires", clock.format_iso(seconds + lifetime)),
                ("ServerTime", clock.format_iso(now)),
            ),
        )
    credential = require_credential(credentials, scope.access_key, now)
    check_session_token(
        credential, parameters.get("X-Amz-Security-Token", "") or headers.get("x-amz-security-token", "")
    )
    payload = headers.get("x-amz-content-sha256") or parameters.get("X-Amz-Content-Sha256") or "UNSIGNED-PAYLOAD"
    mode, sha256 = sigv4.parse_payload(payload, method)
    sigv4.check_covered(headers, signed, _COVERED_BY_PAYLOAD_LINE)

    canonical = (
        f"{method}\n{sigv4.canonical_path(raw_path)}\n{sigv4.canonical_query(query, 'X-Amz-Signature')}\n"
        f"{sigv4.canonical_headers(signed.names, headers)}\n{signed_text}\n{payload}"
    )
    key = sigv4.signing_key(credential, scope)
    signature = parameters["X-Amz-Signature"]
    sigv4.check_signature(key, timestamp, scope, canonical, signature, explain=explain)
    seed = Seed(key, scope.text, timestamp, signature) if mode.chunked else None
    return Auth(Kind.PRESIGNED_V4, credential.identity, mode, sha256, seed, seconds)


def hoisted_headers(query: str) -> dict[str, str]:
    """Headers that a signer moved into the query of a presigned URL (JavaScript does it with metadata, ACL, checksums).

    Lower-case names. The query is signed, so they count like signed headers; a real header of the same name wins.
    """
    if "x-amz-" not in query and "X-Amz-" not in query:
        return {}
    found = {}
    for name, value in parse_qsl(query, keep_blank_values=True, encoding="latin-1"):
        lower = name.lower()
        if name in _OWN or not lower.startswith("x-amz-"):
            continue
        if any(c in value for c in "\r\n\0"):  # no HTTP header could have brought these
            raise S3Error("InvalidArgument", "A header in the query can't contain CR, LF or NUL.")
        found[lower] = value
    return found
