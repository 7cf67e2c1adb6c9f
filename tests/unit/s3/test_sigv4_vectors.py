# SPDX-License-Identifier: Apache-2.0
"""The examples of the AWS documentation "Authenticating Requests (AWS Signature Version 4)", as the oracle that nobody
here wrote."""

from __future__ import annotations

import calendar

import pytest

from gateways.s3.auth import Kind, PayloadMode, authenticate
from tests.unit.s3.helpers import ACCESS, EMPTY_SHA256, KEYS, code_of, request

NOW = calendar.timegm((2013, 5, 24, 0, 0, 0))
HOST = "examplebucket.s3.amazonaws.com"

HEADER_EXAMPLES = [
    pytest.param(
        "GET", "/test.txt", {"range": "bytes=0-9"}, EMPTY_SHA256,
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        id="get-object-range",
    ),
    pytest.param(
        "PUT", "/test$file.text",
        {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
        "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        id="put-object",
    ),
    pytest.param(
        "GET", "/?lifecycle", {}, EMPTY_SHA256, "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        id="get-bucket-lifecycle",
    ),
    pytest.param(
        "GET", "/?max-keys=2&prefix=J", {}, EMPTY_SHA256, "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        id="list-objects",
    ),
]  # fmt: skip


def header_request(method, target, extra, sha256, signed, signature):
    return request(
        method,
        target,
        {
            "host": HOST,
            "x-amz-content-sha256": sha256,
            "x-amz-date": "20130524T000000Z",
            **extra,
            "authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS}/20130524/us-east-1/s3/aws4_request,"
            f"SignedHeaders={signed},Signature={signature}",
        },
    )


@pytest.mark.parametrize(("method", "target", "extra", "sha256", "signed", "signature"), HEADER_EXAMPLES)
def test_documented_header_signatures_are_accepted(method, target, extra, sha256, signed, signature):
    auth = authenticate(
        header_request(method, target, extra, sha256, signed, signature), KEYS, now=NOW, region="us-east-1"
    )
    assert auth.identity.access_key == ACCESS
    assert auth.kind is Kind.HEADER_V4
    assert (auth.payload, auth.sha256) == (PayloadMode.SHA256, sha256)
    assert auth.signed_at == NOW


@pytest.mark.parametrize(("method", "target", "extra", "sha256", "signed", "signature"), HEADER_EXAMPLES)
def test_documented_header_signatures_are_refused_for_another_method(method, target, extra, sha256, signed, signature):
    changed = header_request("HEAD", target, extra, sha256, signed, signature)
    assert code_of(authenticate, changed, KEYS, now=NOW) == (403, "SignatureDoesNotMatch")


def presigned(signature="aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"):
    return request(
        "GET",
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        f"&X-Amz-Credential={ACCESS}%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"
        f"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature={signature}",
        {"host": HOST},
    )


def test_documented_presigned_url_is_accepted_until_it_expires():
    for now in (NOW, NOW + 86400):
        auth = authenticate(presigned(), KEYS, now=now, region="us-east-1")
        assert (auth.kind, auth.payload) == (Kind.PRESIGNED_V4, PayloadMode.UNSIGNED)
    assert code_of(authenticate, presigned(), KEYS, now=NOW + 86401) == (403, "AccessDenied")
    assert code_of(authenticate, presigned(), KEYS, now=NOW - 901) == (403, "AccessDenied")
    assert code_of(authenticate, presigned("0" * 64), KEYS, now=NOW) == (403, "SignatureDoesNotMatch")


def test_documented_chunked_upload_yields_the_documented_seed():
    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    upload = request(
        "PUT",
        "/examplebucket/chunkObject.txt",
        {
            "host": "s3.amazonaws.com",
            "x-amz-date": "20130524T000000Z",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
            "authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS}/20130524/us-east-1/s3/aws4_request,SignedHeaders="
            "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
            f"x-amz-storage-class,Signature={seed}",
            "x-amz-content-sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": "66560",
            "content-length": "66824",
        },
    )
    auth = authenticate(upload, KEYS, now=NOW, region="us-east-1")
    assert auth.payload is PayloadMode.STREAMING_SIGNED
    assert auth.seed is not None
    assert auth.seed.signature == seed
    assert auth.seed.scope == "20130524/us-east-1/s3/aws4_request"
    assert auth.seed.signing_key.hex() not in repr(auth)
