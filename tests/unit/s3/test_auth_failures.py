# SPDX-License-Identifier: Apache-2.0
"""Each way in which a request can fail to prove who sent it, with its status and code."""

from __future__ import annotations

import calendar
import hashlib
import hmac

import pytest

from gateways.s3.auth import (
    ANONYMOUS,
    Credential,
    Kind,
    PayloadMode,
    StaticCredentials,
    authenticate,
    authenticate_form,
    hoisted_headers,
    sigv2,
    sigv4,
)
from gateways.s3.errors import S3Error
from tests.unit.s3.helpers import ACCESS, EMPTY_SHA256, KEYS, SECRET, code_of, request

NOW = calendar.timegm((2026, 5, 6, 7, 8, 9))
STAMP = "20260506T070809Z"


def signed(
    method="GET", target="/b/k", headers=None, *, region="us-east-1", service="s3", sign=None, stamp=STAMP, date=None,
    access=ACCESS, secret=SECRET, payload=EMPTY_SHA256,
):  # fmt: skip
    """A correct V4 header signature, written from the documentation; `sign` limits which headers it covers."""
    date = date or stamp[:8]
    sent = {"host": "h", "x-amz-date": stamp, **(headers or {})}
    if payload is not None:
        sent["x-amz-content-sha256"] = payload
    names = sorted(sign or sent)
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [method, path, sigv4.canonical_query(query), *(f"{n}:{' '.join(sent.get(n, '').split())}" for n in names), "",
         ";".join(names), payload or EMPTY_SHA256]
    )  # fmt: skip
    scope = f"{date}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode('latin-1')).hexdigest()}"
    key = sigv4.derive_key(secret, date, region, service)
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return request(method, target, sent)


def auth(req, **kwargs):
    return authenticate(req, kwargs.pop("keys", KEYS), now=kwargs.pop("now", NOW), **kwargs)


def test_the_plain_case_is_accepted():
    assert auth(signed()).kind is Kind.HEADER_V4
    assert auth(signed(headers={"x-amz-meta-a": "  two   words  "})).kind is Kind.HEADER_V4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("AWS4-HMAC-SHA256", (400, "AuthorizationHeaderMalformed")),
        ("AWS4-HMAC-SHA256 Credential=a,SignedHeaders=host", (400, "AuthorizationHeaderMalformed")),
        ("AWS4-HMAC-SHA256 Credential=a/b/c,SignedHeaders=host,Signature=x", (400, "AuthorizationHeaderMalformed")),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260506/r/s3/aws4_requesX,SignedHeaders=host,Signature=x",
            (400, "AuthorizationHeaderMalformed"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260506/r/s3/aws4_request,SignedHeaders=Host,Signature=x",
            (400, "AuthorizationHeaderMalformed"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260506/r/iam/aws4_request,SignedHeaders=host,Signature=x",
            (400, "AuthorizationHeaderMalformed"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260506/r/sts/aws4_request,SignedHeaders=host,Signature=x",
            (400, "AuthorizationHeaderMalformed"),
        ),
        (
            "AWS4-HMAC-SHA256 Credential=nobody/20260506/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=x",
            (403, "InvalidAccessKeyId"),
        ),
        ("AWS4-ECDSA-P256-SHA256 Credential=a/20260506/s3/aws4_request", (501, "NotImplemented")),
        ("Basic dXNlcjpwYXNz", (400, "InvalidRequest")),
        ("Bearer x", (400, "InvalidRequest")),
        ("AWS HAHAHA", (400, "InvalidArgument")),
        ("AWS nobody:c2ln", (403, "InvalidAccessKeyId")),
        (f"AWS {ACCESS}:\xff\xfe", (403, "SignatureDoesNotMatch")),
    ],
)
def test_bad_authorization_headers(value, expected):
    req = request(
        "GET", "/b/k", {"host": "h", "x-amz-date": STAMP, "x-amz-content-sha256": EMPTY_SHA256, "authorization": value}
    )
    assert code_of(auth, req) == expected


def test_a_signature_that_is_not_ascii_is_a_mismatch():
    req = signed()
    req.headers["authorization"] = req.headers["authorization"][:-1] + "é"
    assert code_of(auth, req) == (403, "SignatureDoesNotMatch")


def test_what_we_computed_is_told_in_debug_mode_only():
    req = signed()
    req.headers["authorization"] = req.headers["authorization"][:-4] + "beef"
    with pytest.raises(S3Error) as quiet:
        auth(req)
    assert [name for name, _ in quiet.value.extra] == ["AWSAccessKeyId"]
    with pytest.raises(S3Error) as loud:
        auth(req, explain=True)
    told = dict(loud.value.extra)
    assert set(told) == {
        "AWSAccessKeyId", "StringToSign", "SignatureProvided", "StringToSignBytes", "CanonicalRequest",
        "CanonicalRequestBytes",
    }  # fmt: skip
    assert bytes.fromhex(told["CanonicalRequestBytes"]).decode() == told["CanonicalRequest"]
    assert SECRET not in str(told)


@pytest.mark.parametrize(("offset", "fine"), [(-900, True), (900, True), (-901, False), (901, False)])
def test_clocks_may_differ_by_fifteen_minutes(offset, fine):
    if fine:
        assert auth(signed(), now=NOW + offset)
    else:
        with pytest.raises(S3Error) as e:
            auth(signed(), now=NOW + offset)
        assert (e.value.status, e.value.code) == (403, "RequestTimeTooSkewed")
        assert dict(e.value.extra)["RequestTime"] == STAMP
        assert dict(e.value.extra)["MaxAllowedSkewMilliseconds"] == "900000"


def test_dates():
    assert code_of(auth, signed(date="20260505")) == (400, "AuthorizationHeaderMalformed")
    req = signed()
    del req.headers["x-amz-date"]
    assert code_of(auth, req) == (403, "AccessDenied")
    req.headers["date"] = "not a date"
    assert code_of(auth, req) == (403, "AccessDenied")
    req.headers["date"] = "Tue, 07 Jul 1950 21:53:04 GMT"
    assert code_of(auth, req) == (403, "AccessDenied")


def test_a_date_header_alone_will_do():
    req = signed(headers={"date": "Wed, 06 May 2026 07:08:09 GMT"}, sign=["host", "date", "x-amz-content-sha256"])
    del req.headers["x-amz-date"]
    assert auth(req).signed_at == NOW
    req.headers["date"] = STAMP  # ISO basic in Date is legal too, but it isn't what was signed here
    assert code_of(auth, req) == (403, "SignatureDoesNotMatch")


def test_regions():
    assert auth(signed(region="mars-1"))
    assert auth(signed(region="mars-1"), region="mars-1")
    with pytest.raises(S3Error) as e:
        auth(signed(region="mars-1"), region="us-east-1")
    assert (e.value.status, e.value.code) == (400, "AuthorizationHeaderMalformed")
    assert dict(e.value.extra)["Region"] == "us-east-1"
    assert code_of(auth, signed(), region="mars-1") == (400, "AuthorizationHeaderMalformed")
    # Clients that don't know the region yet ask with us-east-1.
    assert auth(signed(target="/b?location"), region="mars-1")
    assert auth(signed("PUT", "/b/"), region="mars-1")
    assert code_of(auth, signed("PUT", "/b/k"), region="mars-1") == (400, "AuthorizationHeaderMalformed")
    assert code_of(auth, signed("PUT", "/b?acl"), region="mars-1") == (400, "AuthorizationHeaderMalformed")


@pytest.mark.parametrize(
    "name", ["x-amz-meta-a", "x-amz-acl", "x-amz-copy-source", "x-amz-tagging", "x-amz-security-token", "x-amz-date",
             "x-amz-content-sha256", "host"],
)  # fmt: skip
def test_each_sensitive_header_must_be_signed(name):
    token = "t" if name == "x-amz-security-token" else ""
    keys = StaticCredentials([Credential(ACCESS, SECRET, session_token=token)])
    headers = {} if name in ("host", "x-amz-date", "x-amz-content-sha256") else {name: "t"}
    covered = {"host", "x-amz-date", "x-amz-content-sha256"} - {name}
    assert code_of(auth, signed(headers=headers, sign=covered), keys=keys) == (403, "AccessDenied")
    assert auth(signed(headers=headers), keys=keys)


def test_headers_that_proxies_add_need_no_signature():
    req = signed()
    req.headers.update({"x-amzn-trace-id": "Root=1", "x-amz-cf-id": "x", "x-forwarded-for": "1.2.3.4", "via": "1.1 p"})
    assert auth(req)


def test_signed_headers_that_a_proxy_removed_fail_unless_they_were_empty():
    assert auth(signed(headers={"accept": ""}, sign=["host", "x-amz-date", "x-amz-content-sha256", "accept", "te"]))
    req = signed(headers={"expect": "100-continue"})
    del req.headers["expect"]
    assert code_of(auth, req) == (403, "SignatureDoesNotMatch")


def test_disabled_and_expired_keys_look_unknown():
    for credential in (Credential(ACCESS, SECRET, enabled=False), Credential(ACCESS, SECRET, expires=NOW)):
        assert code_of(auth, signed(), keys=StaticCredentials([credential])) == (403, "InvalidAccessKeyId")
    assert auth(signed(), keys=StaticCredentials([Credential(ACCESS, SECRET, expires=NOW + 1)]))


def test_a_changed_secret_takes_effect_at_once():
    assert auth(signed())
    other = StaticCredentials([Credential(ACCESS, "another secret")])
    assert code_of(auth, signed(), keys=other) == (403, "SignatureDoesNotMatch")
    assert auth(signed(secret="another secret"), keys=other)


def test_access_keys_may_contain_slashes_and_equals_signs():
    keys = StaticCredentials([Credential("team/a=b", SECRET)])
    assert auth(signed(access="team/a=b"), keys=keys).identity.access_key == "team/a=b"


@pytest.mark.parametrize(
    ("method", "payload", "expected"),
    [
        ("GET", None, (400, "InvalidRequest")),
        ("GET", "nonsense", (400, "InvalidArgument")),
        ("GET", "z" * 64, (400, "InvalidArgument")),
        ("GET", " " + "0" * 62 + " ", (400, "InvalidArgument")),
        ("GET", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", (400, "InvalidRequest")),
        ("POST", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", (400, "InvalidRequest")),
        ("PUT", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", (501, "NotImplemented")),
        ("PUT", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", (501, "NotImplemented")),
    ],
)
def test_bad_payload_declarations(method, payload, expected):
    assert code_of(auth, signed(method, payload=payload)) == expected


@pytest.mark.parametrize("mode", [m for m in PayloadMode if m is not PayloadMode.SHA256])
def test_payload_modes(mode):
    found = auth(signed("PUT", payload=mode.value))
    assert found.payload is mode
    assert (found.seed is not None) == mode.chunked


def test_anonymous_requests():
    req = request("GET", "/b/k", {"host": "h"})
    assert code_of(auth, req) == (403, "AccessDenied")
    assert auth(req, allow_anonymous=True).identity is ANONYMOUS
    assert not auth(req, allow_anonymous=True).signed
    req = request("GET", "/b/k", {"host": "h", "authorization": ""})  # as the Ceph suite sends it
    assert code_of(auth, req) == (403, "AccessDenied")
    chunked = {"x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}
    assert code_of(auth, request("PUT", "/b/k", chunked), allow_anonymous=True) == (400, "InvalidRequest")
    # botocore without credentials over TLS: no x-amz-content-sha256, yet a trailer.
    trailer = request("PUT", "/b/k", {"content-encoding": "aws-chunked", "x-amz-trailer": "x-amz-checksum-crc32"})
    assert auth(trailer, allow_anonymous=True).payload is PayloadMode.STREAMING_UNSIGNED_TRAILER


def test_two_mechanisms_are_one_too_many():
    query = "X-Amz-Signature=a&X-Amz-Credential=b"
    assert code_of(auth, signed(target="/b/k?" + query)) == (400, "InvalidRequest")
    v2 = "AWSAccessKeyId=a&Signature=b&Expires=1"
    assert code_of(auth, request("GET", f"/b/k?{query}&{v2}", {"host": "h"})) == (400, "InvalidRequest")
    assert code_of(auth, request("GET", f"/b/k?{v2}", {"authorization": "AWS a:b"})) == (400, "InvalidRequest")


def test_sts_requests_are_signed_over_their_body():
    digest = hashlib.sha256(b"Action=AssumeRole").hexdigest()
    # STS clients send no x-amz-content-sha256: the digest is that of the body.
    req = signed("POST", "/", service="sts", payload=digest, sign=["host", "x-amz-date"])
    del req.headers["x-amz-content-sha256"]
    assert auth(req, payload_sha256=digest).sha256 == digest
    assert code_of(auth, req) == (400, "InvalidRequest")
    assert code_of(auth, req, payload_sha256="0" * 64) == (403, "SignatureDoesNotMatch")


PRESIGNED = {
    "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
    "X-Amz-Credential": f"{ACCESS}/20260506/us-east-1/s3/aws4_request",
    "X-Amz-Date": STAMP,
    "X-Amz-Expires": "60",
    "X-Amz-SignedHeaders": "host",
    "X-Amz-Signature": "0" * 64,
}


def presigned(change):
    query = "&".join(f"{k}={v}" for k, v in (PRESIGNED | change).items() if v is not None)
    return request("GET", "/b/k?" + query, {"host": "h"})


MALFORMED_QUERY = (400, "AuthorizationQueryParametersError")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (403, "SignatureDoesNotMatch")),
        *(({name: None}, MALFORMED_QUERY) for name in PRESIGNED),
        *(({name: ""}, MALFORMED_QUERY) for name in PRESIGNED),
        ({"X-Amz-Algorithm": "AWS4-HMAC-SHA1"}, MALFORMED_QUERY),
        ({"X-Amz-Algorithm": "AWS4-ECDSA-P256-SHA256"}, (501, "NotImplemented")),
        ({"X-Amz-Credential": "a/b"}, MALFORMED_QUERY),
        ({"X-Amz-Credential": f"{ACCESS}/20260506/us-east-1/ec2/aws4_request"}, MALFORMED_QUERY),
        ({"X-Amz-Credential": f"{ACCESS}/20260505/us-east-1/s3/aws4_request"}, MALFORMED_QUERY),
        ({"X-Amz-Credential": f"{ACCESS}/20260506/mars-1/s3/aws4_request"}, MALFORMED_QUERY),
        ({"X-Amz-Credential": "nobody/20260506/us-east-1/s3/aws4_request"}, (403, "InvalidAccessKeyId")),
        ({"X-Amz-Date": "2026-05-06T07:08:09Z"}, MALFORMED_QUERY),
        ({"X-Amz-SignedHeaders": "Host"}, MALFORMED_QUERY),
        ({"X-Amz-SignedHeaders": "range"}, (403, "AccessDenied")),
        ({"X-Amz-Expires": "soon"}, MALFORMED_QUERY),
        ({"X-Amz-Expires": "1_0"}, MALFORMED_QUERY),
        ({"X-Amz-Expires": "0"}, (403, "AccessDenied")),
        ({"X-Amz-Expires": "-7"}, MALFORMED_QUERY),
        ({"X-Amz-Expires": "604801"}, MALFORMED_QUERY),
        ({"X-Amz-Expires": "604800"}, (403, "SignatureDoesNotMatch")),
        ({"X-Amz-Security-Token": "t"}, (403, "InvalidTokenId")),
    ],
)
def test_bad_presigned_urls(change, expected):
    assert code_of(auth, presigned(change), region="us-east-1") == expected


def test_the_ceph_suite_wants_403_for_expiries_out_of_range():
    for value in ("0", "-7", "604801"):
        assert code_of(auth, presigned({"X-Amz-Expires": value}), forbid_bad_expires=True) == (403, "AccessDenied")


def test_repeated_presign_parameters_are_refused():
    req = presigned({})
    again = request("GET", req.target + "&X-Amz-Expires=604800", {"host": "h"})
    assert code_of(auth, again) == MALFORMED_QUERY


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (403, "SignatureDoesNotMatch")),
        ({"Expires": str(NOW - 1)}, (403, "AccessDenied")),
        ({"Expires": "soon"}, (403, "AccessDenied")),
        ({"Expires": None}, (403, "AccessDenied")),
        ({"Expires": "9" * 30}, (403, "AccessDenied")),
        ({"AWSAccessKeyId": "nobody"}, (403, "InvalidAccessKeyId")),
    ],
)
def test_bad_presigned_v2_urls(change, expected):
    query = {"AWSAccessKeyId": ACCESS, "Signature": "c2ln", "Expires": str(NOW + 5)} | change
    target = "/b/k?" + "&".join(f"{k}={v}" for k, v in query.items() if v is not None)
    assert code_of(auth, request("GET", target, {"host": "h"})) == expected


# Examples of the AWS documentation "Signing and Authenticating REST Requests" (signature version 2).
@pytest.mark.parametrize(
    ("method", "target", "headers", "bucket", "signature"),
    [
        ("GET", "/photos/puppy.jpg", {"date": "Tue, 27 Mar 2007 19:36:42 +0000"}, "johnsmith",
         "bWq2s1WEIj+Ydj0vQ697zp+IXMU="),
        ("PUT", "/photos/puppy.jpg", {"date": "Tue, 27 Mar 2007 21:15:45 +0000", "content-type": "image/jpeg"},
         "johnsmith", "MyyxeRY7whkBe+bq8fHCL/2kKUg="),
        ("GET", "/?prefix=photos&max-keys=50&marker=puppy", {"date": "Tue, 27 Mar 2007 19:42:41 +0000"}, "johnsmith",
         "htDYFYduRNen8P9ZfE/s9SuKy0U="),
        ("GET", "/?acl", {"date": "Tue, 27 Mar 2007 19:44:46 +0000"}, "johnsmith", "c2WLPFtWHVgbEmeEG93a4cG37dM="),
        ("GET", "/", {"date": "Wed, 28 Mar 2007 01:29:59 +0000"}, "", "qGdzdERIC03wnaRNKh6OqZehG9s="),
        ("GET", "/dictionary/fran%C3%A7ais/pr%c3%a9f%c3%a8re", {"date": "Wed, 28 Mar 2007 01:49:49 +0000"}, "",
         "DNEZGsoieTZ92F3bUfSPQcbGmlM="),
    ],
)  # fmt: skip
def test_documented_v2_signatures_are_accepted(method, target, headers, bucket, signature):
    req = request(method, target, {**headers, "host": "s3.amazonaws.com", "authorization": f"AWS {ACCESS}:{signature}"})
    now = calendar.timegm((2007, 3, 27, 19, 40, 0))
    for when in (now, now + 6000, now + 21000, now + 22000):
        try:
            assert auth(req, now=when, host_bucket=bucket).kind is Kind.HEADER_V2
            return
        except S3Error as e:
            assert e.code == "RequestTimeTooSkewed", e
    pytest.fail("the date of the example is not covered")


def test_a_subresource_with_an_equals_sign_may_be_signed_without_it():
    date = "Wed, 06 May 2026 07:08:09 GMT"
    signature = sigv2.sign(SECRET, f"GET\n\n\n{date}\n/b/k?acl")
    for target in ("/b/k?acl", "/b/k?acl=", "/b/k?x-id=GetObjectAcl&acl="):
        assert auth(request("GET", target, {"date": date, "authorization": f"AWS {ACCESS}:{signature}"}))


def form(**fields):
    return {k.replace("_", "-"): v for k, v in fields.items()}


def test_forms():
    policy = "eyJleHBpcmF0aW9uIjoiIn0="
    key = sigv4.derive_key(SECRET, "20260506", "us-east-1", "s3")
    v4 = form(
        policy=policy, x_amz_algorithm="AWS4-HMAC-SHA256", x_amz_date=STAMP,
        x_amz_credential=f"{ACCESS}/20260506/us-east-1/s3/aws4_request",
        x_amz_signature=hmac.new(key, policy.encode(), "sha256").hexdigest(),
    )  # fmt: skip
    v2 = form(policy=policy, awsaccesskeyid=ACCESS, signature=sigv2.sign(SECRET, policy))
    for fields in (v4, v2):
        assert authenticate_form(fields, KEYS, now=NOW + 10 * 86400).identity.access_key == ACCESS
        bad = fields | {"policy": policy[:-2] + "A="}
        assert code_of(authenticate_form, bad, KEYS, now=NOW) == (403, "SignatureDoesNotMatch")
        for name in fields:
            less = {k: v for k, v in fields.items() if k != name}
            assert code_of(authenticate_form, less, KEYS, now=NOW) == (400, "InvalidArgument")
    assert code_of(authenticate_form, v2, KEYS, now=NOW, allow_sigv2=False) == (400, "InvalidRequest")
    assert code_of(authenticate_form, v4 | v2, KEYS, now=NOW) == (400, "InvalidRequest")
    assert code_of(authenticate_form, v4, KEYS, now=NOW - 901) == (403, "RequestTimeTooSkewed")
    assert authenticate_form({"key": "k"}, KEYS, now=NOW).identity is ANONYMOUS
    upload = request("POST", "/b", {"content-type": "Multipart/Form-Data; boundary=x"})
    assert auth(upload).kind is Kind.FORM


def test_hoisted_headers_are_the_unsigned_looking_rest_of_a_presigned_query():
    query = "X-Amz-Date=1&x-amz-meta-Color=a%20b&X-Amz-Acl=private&x-id=PutObject&X-Amz-Signature=s"
    assert hoisted_headers(query) == {"x-amz-meta-color": "a b", "x-amz-acl": "private"}
    assert hoisted_headers("prefix=a") == {}
    for evil in ("a%0D%0Ab", "a%00"):
        assert code_of(hoisted_headers, f"x-amz-meta-a={evil}") == (400, "InvalidArgument")


def test_canonical_query():
    assert sigv4.canonical_query("b=2&a-b=1&a=2&a=1&acl&&c=%2f+%7E") == "a=1&a=2&a-b=1&acl=&b=2&c=%2F%20~"
    assert sigv4.canonical_path("/a//../b%2fc+%7E%20") == "/a//../b/c%2B~%20"
    assert sigv4.canonical_path("") == "/"
