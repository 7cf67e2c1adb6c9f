# SPDX-License-Identifier: Apache-2.0
"""aws-chunked: the documented examples, botocore as sender, every split of the input, and hostile framing."""

from __future__ import annotations

import hashlib
import hmac
import io

import pytest
from botocore.httpchecksum import AwsChunkedWrapper, Crc32Checksum
from hypothesis import given, settings, strategies as st

from gateways.s3.auth import Auth, Kind, PayloadMode, Seed, sigv4
from gateways.s3.auth.model import ANONYMOUS
from gateways.s3.aws_chunked import AwsChunkedDecoder, decoded_length, strip_aws_chunked
from gateways.s3.errors import S3Error
from tests.unit.s3.helpers import SECRET, code_of

SCOPE = "20130524/us-east-1/s3/aws4_request"
KEY = sigv4.derive_key(SECRET, "20130524", "us-east-1", "s3")
EMPTY = hashlib.sha256().hexdigest()
UNSIGNED = PayloadMode.STREAMING_UNSIGNED_TRAILER
SIGNED = PayloadMode.STREAMING_SIGNED
SIGNED_TRAILER = PayloadMode.STREAMING_SIGNED_TRAILER


def seed(signature: str) -> Seed:
    return Seed(KEY, SCOPE, "20130524T000000Z", signature)


SEED = seed("4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9")


def decode(decoder: AwsChunkedDecoder, body: bytes, cuts=()) -> bytes:
    out = []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        out += [bytes(piece) for piece in decoder.feed(body[start:end])]
    decoder.finish()
    return b"".join(out)


def documented() -> bytes:
    """The chunks of the AWS documentation, "Signature Calculations … Chunked Upload"."""
    first, second, last = (
        b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        b"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        b"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    )
    return b"".join(
        (
            b"10000;chunk-signature=" + first + b"\r\n" + b"a" * 65536 + b"\r\n",
            b"400;chunk-signature=" + second + b"\r\n" + b"a" * 1024 + b"\r\n",
            b"0;chunk-signature=" + last + b"\r\n\r\n",
        )
    )


def test_the_documented_chunked_upload():
    body = documented()
    assert len(body) == 66824
    assert decode(AwsChunkedDecoder(SIGNED, SEED, 66560), body) == b"a" * 66560


def test_the_documented_upload_with_a_signed_trailer():
    start = seed("106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")
    body = b"".join(
        (
            b"10000;chunk-signature=b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n",
            b"a" * 65536,
            b"\r\n400;chunk-signature=1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n",
            b"a" * 1024,
            b"\r\n0;chunk-signature=2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n",
            b"x-amz-checksum-crc32c:sOO8/Q==\r\n",
            b"x-amz-trailer-signature:d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n",
        )
    )
    decoder = AwsChunkedDecoder(SIGNED_TRAILER, start, 66560, ["x-amz-checksum-crc32c"])
    assert decode(decoder, body) == b"a" * 66560
    assert decoder.trailers == {"x-amz-checksum-crc32c": "sOO8/Q=="}
    # minio-go ends the trailer line with LF CRLF.
    other = body.replace(b"sOO8/Q==\r\n", b"sOO8/Q==\n\r\n")
    assert decode(AwsChunkedDecoder(SIGNED_TRAILER, start, 66560, ["x-amz-checksum-crc32c"]), other) == b"a" * 66560
    bad = body.replace(b"sOO8", b"sOO9")
    assert code_of(
        decode, AwsChunkedDecoder(SIGNED_TRAILER, start, 66560, ["x-amz-checksum-crc32c"]), bad
    ) == (403, "SignatureDoesNotMatch")  # fmt: skip


def sign_chunks(chunks: list[bytes], trailer: str = "", start: Seed = SEED) -> bytes:
    """An independent sender, straight from the text of the specification."""
    previous, out = start.signature, []

    def sign(kind: str, *digests: str) -> str:
        text = "\n".join([kind, start.timestamp, start.scope, previous, *digests])
        return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()

    for chunk in [*chunks, b""]:
        previous = sign("AWS4-HMAC-SHA256-PAYLOAD", EMPTY, hashlib.sha256(chunk).hexdigest())
        out.append(f"{len(chunk):x};chunk-signature={previous}\r\n".encode() + chunk + (b"\r\n" if chunk else b""))
    if trailer:
        digest = hashlib.sha256(f"{trailer}\n".encode()).hexdigest()
        out.append(f"{trailer}\r\nx-amz-trailer-signature:{sign('AWS4-HMAC-SHA256-TRAILER', digest)}\r\n".encode())
    return b"".join(out) + b"\r\n"


@st.composite
def uploads(draw):
    """Mode, payload, body, trailer names."""
    sizes = draw(st.lists(st.integers(8192, 9000), max_size=3)) + draw(st.lists(st.integers(1, 8191), max_size=1))
    fill = draw(st.binary(min_size=1, max_size=4))
    chunks = [(fill * size)[:size] for size in sizes]
    mode = draw(st.sampled_from([UNSIGNED, SIGNED, SIGNED_TRAILER]))
    trailer = "" if mode is SIGNED else "x-amz-checksum-crc32:AAAAAA=="
    if mode is UNSIGNED:
        body = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n" + trailer.encode() + b"\r\n\r\n"
    else:
        body = sign_chunks(chunks, trailer)
    return mode, b"".join(chunks), body, [trailer.partition(":")[0]] if trailer else []


@settings(max_examples=150, deadline=None)
@given(uploads(), st.data())
def test_every_split_of_the_input_gives_the_same_payload(upload, data):
    mode, payload, body, names = upload
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    decoder = AwsChunkedDecoder(mode, SEED, len(payload), names)
    assert decode(decoder, body, cuts) == payload
    assert list(decoder.trailers) == names
    assert decoder.done
    assert decoder.received == len(payload)


@pytest.mark.parametrize("mode", [UNSIGNED, SIGNED, SIGNED_TRAILER])
def test_byte_by_byte(mode):
    payload = bytes(range(256)) * 33
    trailer = "" if mode is SIGNED else "x-amz-checksum-crc32:AAAAAA=="
    body = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(payload), payload, trailer.encode())
    if mode is not UNSIGNED:
        body = sign_chunks([payload], trailer)
    decoder = AwsChunkedDecoder(mode, SEED, len(payload), [trailer.partition(":")[0]] if trailer else [])
    assert decode(decoder, body, list(range(1, len(body)))) == payload


@settings(max_examples=300, deadline=None)
@given(uploads(), st.data())
def test_a_changed_byte_of_a_signed_body_is_never_accepted(upload, data):
    mode, payload, body, names = upload
    if mode is UNSIGNED:
        return
    at = data.draw(st.integers(0, len(body) - 1))
    changed = body[:at] + bytes([body[at] ^ data.draw(st.integers(1, 255))]) + body[at + 1 :]
    decoder = AwsChunkedDecoder(mode, SEED, len(payload), names)
    try:
        got = decode(decoder, changed)
    except S3Error as e:
        assert e.status in (400, 403)
    else:
        # Case of hexadecimal sizes, white space around a trailer and the final line end carry no meaning.
        assert got == payload
        assert {k: v.strip() for k, v in decoder.trailers.items()} == dict.fromkeys(names, "AAAAAA==")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([UNSIGNED, SIGNED, SIGNED_TRAILER]))
def test_garbage_raises_nothing_but_s3_errors(garbage, mode):
    decoder = AwsChunkedDecoder(mode, SEED, 100, ["x-amz-checksum-crc32"])
    with pytest.raises(S3Error):
        decode(decoder, garbage)


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (1 << 20) + 5, 3 << 20])
def test_bodies_of_botocore(size):
    payload = bytes(size)
    wrapper = AwsChunkedWrapper(io.BytesIO(payload), Crc32Checksum, "x-amz-checksum-crc32")
    body = wrapper.read()
    decoder = AwsChunkedDecoder(UNSIGNED, None, size, ["x-amz-checksum-crc32"])
    assert decode(decoder, body, list(range(65536, len(body), 65536))) == payload
    checksum = Crc32Checksum()
    checksum.update(payload)
    assert decoder.trailers == {"x-amz-checksum-crc32": checksum.b64digest()}


def test_the_example_of_the_specification_and_lonely_line_feeds():
    for end in (b"\r\n", b"\n"):
        body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==" + end + b"\r\n"
        decoder = AwsChunkedDecoder(UNSIGNED, None, 5, ["x-amz-checksum-crc32"])
        assert decode(decoder, body) == b"hello"
        assert decoder.trailers == {"x-amz-checksum-crc32": "NhCmhg=="}


def test_pieces_are_views_of_the_input():
    data = bytearray(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
    (piece,) = AwsChunkedDecoder(UNSIGNED, None, 0x2000).feed(memoryview(data))
    data[6] = ord("y")
    assert piece[0] == ord("y")
    assert len(piece) == 0x2000


CRC = ["x-amz-checksum-crc32"]
INCOMPLETE = (400, "IncompleteBody")
TRAILER = (400, "MalformedTrailerError")


@pytest.mark.parametrize(
    ("body", "length", "names", "expected"),
    [
        (b"", 0, [], INCOMPLETE),
        (b"5\r\nhel", 5, [], INCOMPLETE),
        (b"5\r\nhello\r\n", 5, [], INCOMPLETE),
        (b"5\r\nhello\r\n0\r\n\r\n", 6, [], INCOMPLETE),
        (b"5\r\nhello\r\n0\r\n\r\n", 4, [], INCOMPLETE),
        (b"5\r\nhelloworld\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b"0\r\n\r\nmore", 0, [], INCOMPLETE),
        (b"0x5\r\nhello\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b"+5\r\nhello\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b"-5\r\nhello\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b" 5\r\nhello\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b"1_0\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n", 16, [], INCOMPLETE),
        (b"\r\n", 0, [], INCOMPLETE),
        (b"ffffffffffffffffff\r\n", 5, [], INCOMPLETE),
        (b"ffffffffffffffff\r\n", 5, [], INCOMPLETE),
        (b"5;ext=1\r\nhello\r\n0\r\n\r\n", 5, [], INCOMPLETE),
        (b"0" * 1025 + b"\r\n", 0, [], INCOMPLETE),
        (b"0" * 5000, 0, [], INCOMPLETE),
        (b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n", 10, [], (400, "InvalidChunkSizeError")),
        (b"0\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\nx-amz-checksum-sha1:x\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\nx-amz-checksum-crc32:x\r\nx-amz-checksum-crc32:x\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\nno colon\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\n:v\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\nx-amz-checksum-crc32:" + b"x" * 5000 + b"\r\n\r\n", 0, CRC, TRAILER),
        (b"0\r\nx-amz-checksum-crc32:x", 0, CRC, INCOMPLETE),
    ],
)
def test_hostile_and_broken_bodies(body, length, names, expected):
    assert code_of(decode, AwsChunkedDecoder(UNSIGNED, None, length, names), body) == expected
    cuts = list(range(1, len(body)))
    assert code_of(decode, AwsChunkedDecoder(UNSIGNED, None, length, names), body, cuts) == expected


def test_missing_signatures():
    mismatch = (403, "SignatureDoesNotMatch")
    assert code_of(decode, AwsChunkedDecoder(SIGNED, SEED, 5), b"5\r\nhello\r\n0\r\n\r\n") == mismatch
    body = b"0;chunk-signature=" + b"0" * 64 + b"\r\n\r\n"
    assert code_of(decode, AwsChunkedDecoder(SIGNED, SEED, 0), body) == mismatch
    unsigned_trailer = sign_chunks([])[:-2] + b"x-amz-checksum-crc32:x\r\n\r\n\r\n"
    assert code_of(decode, AwsChunkedDecoder(SIGNED_TRAILER, SEED, 0, CRC), unsigned_trailer) == TRAILER


def test_the_last_line_end_may_be_absent():
    decoder = AwsChunkedDecoder(UNSIGNED, None, 0, CRC)
    assert decode(decoder, b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n") == b""
    assert decoder.done


def test_what_the_headers_must_say():
    auth = Auth(Kind.ANONYMOUS, ANONYMOUS, UNSIGNED)
    assert code_of(AwsChunkedDecoder.for_request, auth, {}) == (411, "MissingContentLength")
    for value in ("-1", "x", "", "1" * 30, "１"):
        assert code_of(decoded_length, {"x-amz-decoded-content-length": value}) == (400, "InvalidArgument")
    headers = {"x-amz-decoded-content-length": "5", "x-amz-trailer": "x-amz-meta-a"}
    assert code_of(AwsChunkedDecoder.for_request, auth, headers) == (400, "InvalidRequest")
    headers["x-amz-trailer"] = "X-Amz-Checksum-CRC32"
    decoder = AwsChunkedDecoder.for_request(auth, headers)
    assert decode(decoder, b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:a\r\n\r\n") == b"hello"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [("gzip, aws-chunked", "gzip"), ("aws-chunked", ""), ("aws-chunked,gzip", "gzip"), ("gzip", "gzip"), ("", ""),
     ("AWS-Chunked , br,gzip", "br, gzip")],
)  # fmt: skip
def test_aws_chunked_is_not_stored_as_content_encoding(sent, stored):
    assert strip_aws_chunked(sent) == stored
