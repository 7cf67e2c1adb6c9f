# SPDX-License-Identifier: Apache-2.0
"""botocore signs random requests: ours accepts them, and refuses them after any change."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from botocore.auth import HmacV1Auth, HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings, strategies as st

from gateways.http.messages import Request
from gateways.s3.auth import Credential, Kind, StaticCredentials, authenticate
from gateways.s3.errors import S3Error
from tests.unit.s3.helpers import ACCESS, BOTO, KEYS, SECRET, NoBody, code_of, signed_by_botocore

keys = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=30)
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
queries = st.dictionaries(words, st.text(max_size=12).filter(lambda t: t.isprintable()), max_size=4)
methods = st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"])


def url_of(key: str, query: dict[str, str], host: str = "127.0.0.1:9000") -> str:
    text = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in query.items())
    return f"http://{host}/bucket/{quote(key, safe='/~')}" + (f"?{text}" if text else "")


@settings(max_examples=200, deadline=None)
@given(methods, keys, queries, st.dictionaries(words, values, max_size=4), st.binary(max_size=100))
def test_header_v4_of_botocore_is_accepted(method, key, query, metadata, body):
    headers = {f"x-amz-meta-{k}": v for k, v in metadata.items()}
    sent = signed_by_botocore(
        S3SigV4Auth(BOTO, "s3", "us-east-1"), method, url_of(key, query), headers, body,
        client_config=None, payload_signing_enabled=True,
    )  # fmt: skip
    auth = authenticate(sent, KEYS, now=time.time(), region="us-east-1")
    assert auth.kind is Kind.HEADER_V4
    assert auth.identity.access_key == ACCESS


@settings(max_examples=200, deadline=None)
@given(methods, keys, queries, st.integers(1, 604800))
def test_presigned_v4_of_botocore_is_accepted(method, key, query, expires):
    sent = signed_by_botocore(S3SigV4QueryAuth(BOTO, "s3", "eu-central-1", expires), method, url_of(key, query))
    auth = authenticate(sent, KEYS, now=time.time(), region="eu-central-1")
    assert auth.kind is Kind.PRESIGNED_V4


subresources = st.dictionaries(
    st.sampled_from(["acl", "tagging", "uploads", "location", "versioning", "response-content-type", "uploadId"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=8),
    max_size=3,
)


@settings(max_examples=150, deadline=None)
@given(methods, keys, subresources, st.dictionaries(words, values, max_size=3), st.booleans())
def test_v2_of_botocore_is_accepted(method, key, query, metadata, in_query):
    headers = {f"x-amz-meta-{k}": v for k, v in metadata.items()} | {"Content-Type": "text/plain"}
    signer = HmacV1QueryAuth(BOTO, 60) if in_query else HmacV1Auth(BOTO)
    sent = signed_by_botocore(signer, method, url_of(key, query), headers)
    auth = authenticate(sent, KEYS, now=time.time())
    assert auth.kind is (Kind.PRESIGNED_V2 if in_query else Kind.HEADER_V2)
    assert code_of(authenticate, sent, KEYS, now=time.time(), allow_sigv2=False) == (400, "InvalidRequest")


def flips(text: str):
    """The text with one character changed, at each position."""
    for i, c in enumerate(text):
        yield text[:i] + ("a" if c != "a" else "b") + text[i + 1 :]


@pytest.mark.parametrize(
    "signer", [S3SigV4Auth(BOTO, "s3", "us-east-1"), S3SigV4QueryAuth(BOTO, "s3", "us-east-1", 60), HmacV1Auth(BOTO),
               HmacV1QueryAuth(BOTO, 60)],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_any_change_of_what_was_signed_is_refused(signer):
    now = time.time()
    headers = {"x-amz-meta-color": "green", "x-amz-acl": "private", "Content-Type": "text/plain"}
    good = signed_by_botocore(signer, "PUT", url_of("a key/ü+~.txt", {"acl": "", "uploadId": "x y"}), headers)
    assert authenticate(good, KEYS, now=now).identity.access_key == ACCESS

    v2 = isinstance(signer, HmacV1Auth)
    query_auth = isinstance(signer, (S3SigV4QueryAuth, HmacV1QueryAuth))
    changed = [Request("GET", good.target, dict(good.headers), NoBody())]
    # A changed byte in the query may turn a V2 subresource into an unsigned parameter, so flip V2's path and headers
    # only; everything of a V4 query is signed.
    end = len(good.raw_path) if v2 else len(good.target)
    for i, target in enumerate(flips(good.target)):
        if 0 < i < end and target[i - 1] != "%" and target[i - 2] != "%":
            changed.append(Request("PUT", target, dict(good.headers), NoBody()))
    names = ["x-amz-meta-color", "x-amz-acl", "authorization"]
    names += ["content-type"] if v2 else ["x-amz-date", "x-amz-content-sha256", "host"]
    for name in names:
        if name in good.headers and not (name == "content-type" and query_auth):
            for value in flips(good.headers[name]):
                changed.append(Request("PUT", good.target, good.headers | {name: value}, NoBody()))
    changed.append(Request("PUT", good.target, good.headers | {"x-amz-copy-source": "other/secret"}, NoBody()))

    assert len(changed) > 30
    for bad in changed:
        try:
            auth = authenticate(bad, KEYS, now=now)
        except S3Error as e:
            assert e.status in (400, 403, 501), e
        else:
            pytest.fail(f"accepted as {auth.kind}: {bad.method} {bad.target} {bad.headers}")


def test_temporary_credentials_of_botocore_need_their_token():
    temporary = StaticCredentials([Credential("TEMP", SECRET, session_token="token/with+signs==")])
    boto = BotoCredentials("TEMP", SECRET, "token/with+signs==")
    now = time.time()
    signers = (
        S3SigV4Auth(boto, "s3", "us-east-1"), S3SigV4QueryAuth(boto, "s3", "us-east-1", 60), HmacV1Auth(boto),
        HmacV1QueryAuth(boto, 60),
    )  # fmt: skip
    for signer in signers:
        sent = signed_by_botocore(signer, "GET", url_of("k", {}))
        assert authenticate(sent, temporary, now=now).identity.access_key == "TEMP"
        other = StaticCredentials([Credential("TEMP", SECRET, session_token="other")])
        assert code_of(authenticate, sent, other, now=now) == (403, "InvalidTokenId")
        permanent = StaticCredentials([Credential("TEMP", SECRET)])
        assert code_of(authenticate, sent, permanent, now=now) == (403, "InvalidTokenId")
    without = signed_by_botocore(
        S3SigV4Auth(BotoCredentials("TEMP", SECRET), "s3", "us-east-1"), "GET", url_of("k", {})
    )
    assert code_of(authenticate, without, temporary, now=now) == (403, "InvalidTokenId")


def test_virtual_host_v2_signs_the_bucket():
    boto = AWSRequest("GET", "http://bucket.s3.example.com/k", headers={"Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())})  # fmt: skip  # noqa: E501
    boto.auth_path = "/bucket/k"
    HmacV1Auth(BOTO).add_auth(boto)
    sent = Request("GET", "/k", {k.lower(): v for k, v in boto.headers.items()}, NoBody())
    assert authenticate(sent, KEYS, now=time.time(), host_bucket="bucket").kind is Kind.HEADER_V2
    assert code_of(authenticate, sent, KEYS, now=time.time()) == (403, "SignatureDoesNotMatch")
