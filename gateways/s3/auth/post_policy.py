# SPDX-License-Identifier: Apache-2.0
"""Signatures of POST form uploads: over the base64 policy, in form fields.

The conditions in the policy are checked elsewhere.
Source: spec s3 §11.9 (fields, signatures), §5.2 and §5.5 (keys).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from gateways.s3.auth import clock, sigv2, sigv4
from gateways.s3.auth.credentials import Credentials, check_session_token, require_credential
from gateways.s3.auth.model import ANONYMOUS, Auth, Kind
from gateways.s3.errors import S3Error

_V4_FIELDS = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")


def authenticate_form(
    fields: Mapping[str, str], credentials: Credentials, *, now: float, region: str | None = None,
    allow_sigv2: bool = True, explain: bool = False,
) -> Auth:  # fmt: skip
    """Who signed a form. fields: those before `file`, lower-case names. No policy and no signature is anonymous."""
    policy = fields.get("policy", "")
    v4 = [name for name in _V4_FIELDS if fields.get(name)]
    v2 = [name for name in ("awsaccesskeyid", "signature") if fields.get(name)]
    if not policy and not v4 and not v2:
        return Auth(Kind.FORM, ANONYMOUS)
    if v4 and v2:
        raise S3Error("InvalidRequest", "A form may be signed with one signature version only.")
    if not policy:
        raise S3Error("InvalidArgument", "Bucket POST must contain a field named 'policy' when it is signed.")
    if v2:
        return _verify_v2(fields, policy, credentials, now=now, allowed=allow_sigv2, explain=explain)
    if len(v4) != len(_V4_FIELDS):
        absent = next(name for name in _V4_FIELDS if name not in v4)
        raise S3Error("InvalidArgument", f"Bucket POST must contain a field named '{absent}' when it has a policy.")
    return _verify_v4(fields, policy, credentials, now=now, region=region, explain=explain)


def _verify_v4(
    fields: Mapping[str, str], policy: str, credentials: Credentials, *, now: float, region: str | None, explain: bool
) -> Auth:
    if fields["x-amz-algorithm"] != sigv4.ALGORITHM:
        raise S3Error("InvalidArgument", "X-Amz-Algorithm only supports AWS4-HMAC-SHA256.")
    code = "AuthorizationHeaderMalformed"
    try:
        scope = sigv4.parse_credential(fields["x-amz-credential"])
    except ValueError:
        raise S3Error(code, "x-amz-credential must be ACCESS-KEY/YYYYMMDD/REGION/SERVICE/aws4_request.") from None
    sigv4.check_service(scope, method="POST", raw_path="/-", code=code)
    sigv4.check_region(scope, region, method="POST", raw_path="/-", query="", code=code)
    seconds = clock.parse_basic(fields["x-amz-date"])
    if seconds is None or fields["x-amz-date"][:8] != scope.date:
        raise S3Error("AccessDenied", "x-amz-date must be YYYYMMDDTHHMMSSZ on the date of x-amz-credential.")
    # How long a form is valid is the policy's `expiration`; only a date in the future is suspicious here.
    if seconds - now > clock.MAX_SKEW_S:
        clock.check_skew(seconds, now, fields["x-amz-date"])
    credential = require_credential(credentials, scope.access_key, now)
    check_session_token(credential, fields.get("x-amz-security-token", ""))
    key = sigv4.signing_key(credential, scope)
    signature = fields["x-amz-signature"]
    expected = hmac.digest(key, policy.encode("utf-8", "replace"), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise sigv4.mismatch(scope.access_key, policy, signature, policy if explain else None)
    return Auth(Kind.FORM, credential.identity, signed_at=seconds)


def _verify_v2(
    fields: Mapping[str, str], policy: str, credentials: Credentials, *, now: float, allowed: bool, explain: bool
) -> Auth:
    if not allowed:
        raise S3Error("InvalidRequest", sigv2.REFUSED)
    for name in ("awsaccesskeyid", "signature"):
        if not fields.get(name):
            raise S3Error("InvalidArgument", f"Bucket POST must contain a field named '{name}' when it has a policy.")
    credential = require_credential(credentials, fields["awsaccesskeyid"], now)
    check_session_token(credential, fields.get("x-amz-security-token", ""))
    signature = fields["signature"]
    # The policy is base64, so ASCII; anything else gets a signature that nobody can have made.
    expected = sigv2.sign(credential.secret_key, policy) if policy.isascii() else ""
    if not expected or not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
        raise sigv4.mismatch(credential.access_key, policy, signature, policy if explain else None)
    return Auth(Kind.FORM, credential.identity)
