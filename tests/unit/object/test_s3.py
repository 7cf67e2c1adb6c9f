# SPDX-License-Identifier: Apache-2.0
"""The S3 rules: addresses, signatures, errors, corrections. Real servers are in tests/conformance/objectstore."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import pytest

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound
from core.object.s3 import S3Store, parse_bucket
from core.object.s3.address import in_region
from core.object.s3.answers import parse_page
from core.object.s3.credentials import Chain, Credentials, Fixed, choose
from core.object.s3.options import tls_context
from core.object.s3.signing import Signer, encode_path, encode_query
from tests.servers.process import missing
from tests.unit.object.scripted import CLOSE, Script, answer, in_turn, serving

SECRET = "very/secret+key"


def opened(port: int) -> S3Store:
    return S3Store.open("s3", f"http://127.0.0.1:{port}/bkt", "AKIDEXAMPLE", SECRET)


def refusal(code: str, extra: str = "") -> bytes:
    secret = "<AWSAccessKeyId>AKIDEXAMPLE</AWSAccessKeyId>"
    return f"<Error><Code>{code}</Code><Message>Because.</Message>{secret}{extra}</Error>".encode()


# bucket URL → scheme, request host, base path, region, whether it is sure
ADDRESSES = {
    "https://b.s3.eu-west-1.amazonaws.com": ("https", "b.s3.eu-west-1.amazonaws.com", "/", "eu-west-1", True),
    "https://b.s3-eu-west-1.amazonaws.com": ("https", "b.s3-eu-west-1.amazonaws.com", "/", "eu-west-1", True),
    "https://s3.us-west-2.amazonaws.com/b": ("https", "b.s3.us-west-2.amazonaws.com", "/", "us-west-2", True),
    "https://s3.us-west-2.amazonaws.com/b/more": ("https", "b.s3.us-west-2.amazonaws.com", "/", "us-west-2", True),
    "b.s3.cn-north-1.amazonaws.com.cn": ("http", "b.s3.cn-north-1.amazonaws.com.cn", "/", "cn-north-1", True),
    "b.s3.eu-west-1.amazonaws.com": ("https", "b.s3.eu-west-1.amazonaws.com", "/", "eu-west-1", True),
    "https://my.b.s3.eu-west-1.amazonaws.com": ("https", "s3.eu-west-1.amazonaws.com", "/my.b/", "eu-west-1", True),
    "https://b.s3.dualstack.eu-west-1.amazonaws.com": (
        "https", "b.s3.dualstack.eu-west-1.amazonaws.com", "/", "eu-west-1", True,
    ),
    "https://b.s3.amazonaws.com": ("https", "b.s3.amazonaws.com", "/", "us-east-1", False),
    "https://bucket.vpce-1a.s3.us-east-2.vpce.amazonaws.com/b": (
        "https", "b.bucket.vpce-1a.s3.us-east-2.vpce.amazonaws.com", "/", "us-east-2", True,
    ),
    "https://b.bucket.vpce-1a.s3.us-east-2.vpce.amazonaws.com": (
        "https", "b.bucket.vpce-1a.s3.us-east-2.vpce.amazonaws.com", "/", "us-east-2", True,
    ),
    "plainbucket": ("https", "plainbucket.s3.us-east-1.amazonaws.com", "/", "us-east-1", False),
    "http://127.0.0.1:9000/b": ("http", "127.0.0.1", "/b/", "us-east-1", False),
    "127.0.0.1:9000/b": ("http", "127.0.0.1", "/b/", "us-east-1", False),
    "localhost:9000/b": ("http", "localhost", "/b/", "us-east-1", False),
    "http://[::1]:9000/b": ("http", "::1", "/b/", "us-east-1", False),
    "store.example.com/b": ("http", "store.example.com", "/b/", "us-east-1", False),
    "https://b.store.example.com": ("https", "store.example.com", "/b/", "us-east-1", False),
    "https://ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com/b": (
        "https", "ns.compat.objectstorage.eu-frankfurt-1.oraclecloud.com", "/b/", "eu-frankfurt-1", True,
    ),
    "https://b.s3.gra.io.cloud.ovh.net": ("https", "s3.gra.io.cloud.ovh.net", "/b/", "gra", True),
}  # fmt: skip


@pytest.mark.parametrize("url", ADDRESSES)
def test_bucket_urls(url: str) -> None:
    found = parse_bucket("s3", url, {})
    seen = (found.scheme, found.request_host, found.base_path, found.region, found.region_known)
    assert seen == ADDRESSES[url]


def test_bucket_urls_and_the_environment() -> None:
    assert parse_bucket("s3", "http://h.example/b", {"AWS_DEFAULT_REGION": "mars-1"}).region == "mars-1"
    assert parse_bucket("s3", "http://h.example/b", {"AWS_REGION": "a-1", "AWS_DEFAULT_REGION": "b-1"}).region == "a-1"
    for value, expected in [("1", True), ("true", True), ("0", False), ("false", False), ("", False)]:
        found = parse_bucket("s3", "http://b.h.example", {"JFS_S3_VHOST_STYLE": value})
        assert (found.request_host, found.base_path) == (("b.h.example", "/") if expected else ("h.example", "/b/"))
    minio = parse_bucket("minio", "h.example:9000/minio/b/rest?region=x-1", {"JFS_S3_VHOST_STYLE": "1"})
    assert (minio.scheme, minio.port, minio.base_path, minio.region) == ("http", 9000, "/b/", "x-1")
    assert parse_bucket("minio", "https://h.example/b", {"MINIO_REGION": "y-1"}).region == "y-1"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9000", "ftp://h/b", "https://KEY:SECRET@h.example/b", "http:///b",
                                 "http://h.example:port/b", "https://s3.eu-west-1.amazonaws.com"])  # fmt: skip
def test_impossible_bucket_urls_are_refused_with_the_forms(url: str) -> None:
    with pytest.raises(ConfigError, match="use https://BUCKET") as caught:
        parse_bucket("s3", url, {})
    assert "SECRET" not in str(caught.value)


def test_regional_hosts_follow_a_corrected_region() -> None:
    address = in_region(parse_bucket("s3", "plainbucket", {}), "eu-north-1")
    assert (address.request_host, address.region) == ("plainbucket.s3.eu-north-1.amazonaws.com", "eu-north-1")
    address = in_region(parse_bucket("s3", "http://h.example/b", {}), "eu-north-1")
    assert (address.request_host, address.region) == ("h.example", "eu-north-1")


@pytest.mark.parametrize("key", ["plain/key", "sp ace/+%/ü~(x)'*!", "a//b/../c", "?query=#f&x"])
@pytest.mark.parametrize("query", [{}, {"list-type": "2", "prefix": "a b/+~", "start-after": "ü&="}])
@pytest.mark.parametrize("token", ["", "session/token=="])
def test_signatures_are_botocores(key: str, query: dict[str, str], token: str) -> None:
    try:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials as BotoCredentials
    except ImportError:
        missing("botocore", "pip install botocore")
    who = Credentials("AKID", SECRET, token)
    extra = {"x-amz-meta-crc32c": "123", "content-length": "5"}
    path, question = "/bkt/" + encode_path(key), encode_query(query)
    now = time.time()
    lines = Signer("eu-west-1").headers("PUT", path, question, "h.example:9000", extra, who, now)
    ours = dict(line.split(": ", 1) for line in lines.strip().split("\r\n"))
    url = f"http://h.example:9000{path}" + (f"?{question}" if question else "")
    headers = {"x-amz-meta-crc32c": "123", "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    headers["X-Amz-Date"] = ours["x-amz-date"]
    request = AWSRequest(method="PUT", url=url, headers=headers)
    request.context["timestamp"] = ours["x-amz-date"]
    auth = S3SigV4Auth(BotoCredentials(who.access_key, who.secret_key, token or None), "s3", "eu-west-1")
    auth.payload = lambda request: "UNSIGNED-PAYLOAD"
    if token:
        request.headers["X-Amz-Security-Token"] = token
    string = auth.string_to_sign(request, auth.canonical_request(request))
    assert ours["authorization"].endswith("Signature=" + auth.signature(string, request))


def test_credentials_in_their_order() -> None:
    env = {"AWS_ACCESS_KEY_ID": "E", "AWS_SECRET_ACCESS_KEY": "S", "MINIO_ACCESS_KEY": "M", "MINIO_SECRET_KEY": "N"}

    def keys(provider: object) -> Credentials | None:
        assert isinstance(provider, Fixed)
        return provider._credentials

    assert keys(choose("s3", "A\n", " B", "T", env)) == Credentials("A", "B", "T")
    assert keys(choose("s3", "anonymous", "", "", env)) is None
    assert keys(choose("s3", "", "", "", env)) == Credentials("E", "S")
    assert keys(choose("minio", "", "", "", env)) == Credentials("M", "N")
    assert isinstance(choose("s3", "", "", "", {}), Chain)
    with pytest.raises(ConfigError, match="the secret key is missing"):
        choose("s3", "A", "", "", env)
    assert SECRET not in repr(Credentials("A", SECRET))


async def test_the_chain_finds_a_profile_and_renews(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    try:
        import botocore  # noqa: F401
    except ImportError:
        missing("botocore", "pip install botocore")
    path = Path(str(tmp_path)) / "credentials"
    path.write_text("[work]\naws_access_key_id=P\naws_secret_access_key=Q\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_PROFILE", "work")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    chain = choose("s3", "", "", "")
    assert await chain.current() == Credentials("P", "Q")
    path.write_text("[work]\naws_access_key_id=P2\naws_secret_access_key=Q2\n")
    assert await chain.current() == Credentials("P", "Q")
    assert await chain.current(renew=True) == Credentials("P2", "Q2")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="ProfileNotFound"):
        await choose("s3", "", "", "").current()
    monkeypatch.delenv("AWS_PROFILE")
    path.write_text("")
    with pytest.raises(ConfigError, match="give --access-key"):
        await choose("s3", "", "", "").current()


CASES = [
    ("503 Slow Down", "SlowDown", True, "SlowDown: Because"),
    ("500 Oops", "InternalError", True, "InternalError"),
    ("429 Too Many", "", True, "429"),
    ("400 Bad", "RequestTimeout", True, "RequestTimeout"),
    ("403 Forbidden", "AccessDenied", False, "check the policy"),
    ("403 Forbidden", "SignatureDoesNotMatch", False, "check the secret key"),
    ("400 Bad", "InvalidArgument", False, "InvalidArgument"),
    ("404 Not Found", "NoSuchBucket", False, "create the bucket"),
    ("501 Not Implemented", "NotImplemented", False, "NotImplemented"),
]


@pytest.mark.parametrize(("status", "code", "retryable", "text"), CASES)
async def test_refusals(status: str, code: str, retryable: bool, text: str) -> None:
    async with serving(lambda head: answer(status, refusal(code, f"<StringToSign>{SECRET}</StringToSign>"))) as port:
        store = opened(port)
        for call in (store.get("k"), store.put("k", b"data"), store.get("k", 1, 2)):
            with pytest.raises(ObjectError, match=text) as caught:
                await call
            assert caught.value.retryable is retryable
            assert not isinstance(caught.value, ObjectNotFound)
            assert "AKIDEXAMPLE" not in str(caught.value)
            assert SECRET not in str(caught.value)
        await store.close()


async def test_connection_trouble_is_retryable_and_named() -> None:
    store = opened(1)
    with pytest.raises(ObjectError, match=r"Connection refused|Connect call failed") as caught:
        await store.get("k")
    assert caught.value.retryable
    async with serving(lambda head: answer("200 OK", b"x" * 500)[:-9] + CLOSE) as port:
        with pytest.raises(ObjectError, match="491 of 500 bytes") as caught:
            await opened(port).get("k")
        assert caught.value.retryable


async def test_the_checksum_is_written_and_verified() -> None:
    heads: list[bytes] = []
    good = answer("200 OK", b"123456789", "X-Amz-Meta-Crc32c: 3808858755")
    bad = answer("200 OK", b"123456780", "x-amz-meta-crc32c: 3808858755")
    odd = answer("200 OK", b"123456780", "x-amz-meta-crc32c: none")
    async with serving(in_turn(answer("200 OK"), good, bad, odd), heads) as port:
        store = opened(port)
        await store.put("k", [b"12345", b"6789"])
        assert b"x-amz-meta-crc32c: 3808858755\r\n" in heads[0]
        assert bytes(await store.get("k")) == b"123456789"
        with pytest.raises(DataCorrupt, match="CRC-32C"):
            await store.get("k")
        assert bytes(await store.get("k")) == b"123456780"  # an unreadable value is no check
        await store.close()


async def test_disable_checksum() -> None:
    heads: list[bytes] = []
    async with serving(lambda head: answer("200 OK"), heads) as port:
        store = S3Store.open("s3", f"http://127.0.0.1:{port}/b?disable-checksum=true", "A", "B")
        await store.put("k", b"x")
        assert b"crc32c" not in heads[0]
        await store.close()


async def test_the_region_is_learnt_once() -> None:
    heads: list[bytes] = []
    wrong = answer("400 Bad Request", refusal("AuthorizationHeaderMalformed", "<Region>eu-south-1</Region>"))
    async with serving(in_turn(wrong, answer("200 OK", b"ok"), answer("200 OK", b"ok")), heads) as port:
        store = opened(port)
        assert bytes(await store.get("k")) == b"ok"
        assert bytes(await store.get("k")) == b"ok"
        assert [b"/eu-south-1/s3/" in head for head in heads] == [False, True, True]
        await store.close()
    async with serving(lambda head: wrong) as port:
        with pytest.raises(ObjectError, match="check the region"):
            await opened(port).get("k")


async def test_many_requests_refused_together_are_corrected_together() -> None:
    expired, old_date = refusal("ExpiredToken"), f"Date: {formatdate(time.time() + 7200, usegmt=True)}"
    skewed = answer("403 Forbidden", refusal("RequestTimeTooSkewed"), old_date)
    wrong = answer("301 Moved", refusal("PermanentRedirect"), "x-amz-bucket-region: eu-south-1")

    class Renewing:
        keys = Credentials("OLD", "S")

        async def current(self, *, renew: bool = False) -> Credentials | None:
            if renew:
                self.keys = Credentials("NEW", "S")
            return self.keys

    hour = time.strftime("%Y%m%dT%H", time.gmtime())

    def script(head: bytes) -> bytes:
        if b"/eu-south-1/" not in head:
            return wrong
        if f"x-amz-date: {hour}".encode() in head:
            return skewed
        return answer("200 OK", b"ok") if b"Credential=NEW/" in head else answer("400 Bad", expired)

    async with serving(script) as port:
        store = S3Store(parse_bucket("s3", f"http://127.0.0.1:{port}/b"), Renewing())
        found = await asyncio.gather(*(store.get(f"k{i}") for i in range(20)))
        assert [bytes(data) for data in found] == [b"ok"] * 20
        await store.close()


async def test_a_wrong_clock_is_corrected_from_the_servers_date() -> None:
    heads: list[bytes] = []
    date = f"Date: {formatdate(time.time() + 7200, usegmt=True)}"
    skewed = answer("403 Forbidden", refusal("RequestTimeTooSkewed"), date)
    async with serving(in_turn(skewed, answer("200 OK", b"ok")), heads) as port:
        store = opened(port)
        assert bytes(await store.get("k")) == b"ok"
        stamps = [head.split(b"x-amz-date: ")[1][:16] for head in heads]
        assert stamps[0][:13] != stamps[1][:13]
        await store.close()


async def test_expired_keys_are_renewed_once() -> None:
    class Renewing:
        def __init__(self) -> None:
            self.keys = Credentials("OLD", "S", "T1")

        async def current(self, *, renew: bool = False) -> Credentials | None:
            if renew:
                self.keys = Credentials("NEW", "S", "T2")
            return self.keys

    heads: list[bytes] = []
    async with serving(in_turn(answer("400 Bad", refusal("ExpiredToken")), answer("200 OK", b"ok")), heads) as port:
        store = S3Store(parse_bucket("s3", f"http://127.0.0.1:{port}/b"), Renewing())
        assert bytes(await store.get("k")) == b"ok"
        assert b"Credential=NEW/" in heads[1]
        await store.close()


async def test_anonymous_requests_are_not_signed() -> None:
    heads: list[bytes] = []
    async with serving(lambda head: answer("200 OK", b"x"), heads) as port:
        store = S3Store.open("s3", f"http://127.0.0.1:{port}/b", "anonymous", "")
        await store.get("k")
        assert b"authorization" not in heads[0].lower()
        await store.close()


RANGES: list[tuple[bytes, bytes | None]] = [
    (answer("206 Partial", b"2345", "Content-Range: bytes 2-5/10"), b"2345"),
    (answer("206 Partial", b"2345", "Content-Range: bytes 2-5/*"), b"2345"),
    (answer("200 OK", b"0123456789"), b"2345"),  # a server without ranges
    (answer("416 Range", refusal("InvalidRange")), b""),
    (answer("206 Partial", b"234", "Content-Range: bytes 2-4/5"), b"234"),  # the object ends there
    (answer("206 Partial", b"234", "Content-Range: bytes 2-4/10"), None),  # short for no reason
    (answer("206 Partial", b"3456", "Content-Range: bytes 3-6/10"), None),  # another part
    (answer("206 Partial", b"2345"), None),
]


@pytest.mark.parametrize(("wire", "expected"), RANGES)
async def test_ranges_are_checked(wire: bytes, expected: bytes | None) -> None:
    async with serving(lambda head: wire) as port:
        if expected is None:
            with pytest.raises(ObjectError):
                await opened(port).get("k", 2, 4)
        else:
            assert bytes(await opened(port).get("k", 2, 4)) == expected


def page(*keys: str, more: str = "", encoding: str = "") -> bytes:
    items = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    tail = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return answer("200 OK", f"<ListBucketResult>{encoding}{items}{tail}</ListBucketResult>".encode())


async def test_pages_are_followed_and_checked() -> None:
    heads: list[bytes] = []
    encoded = "<EncodingType>url</EncodingType>"
    async with serving(in_turn(page("a%2Fb+c", more="t 1", encoding=encoded), page("a/d+%2F")), heads) as port:
        store = opened(port)
        assert [info.key async for info in store.list("a/", "a/a")] == ["a/b c", "a/d+%2F"]
        assert b"continuation-token=t%201" in heads[1]
        assert b"start-after" in heads[0]
        assert b"start-after" not in heads[1]
    scripts: list[Script] = [
        in_turn(page("a/b", "z")),  # outside the prefix
        in_turn(page("a/c", "a/b")),  # out of order
        in_turn(page("a/0")),  # before the marker
        in_turn(answer("200 OK", b"<html>login</html>")),
        in_turn(answer("200 OK", b"not xml")),
        in_turn(answer("200 OK", b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&a;</ListBucketResult>')),
    ]
    for script in scripts:
        async with serving(script) as port:
            with pytest.raises(ObjectError):
                _ = [info async for info in opened(port).list("a/", "a/a")]


def test_a_cut_page_without_a_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="continuation"):
        parse_page(b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")


def test_tls_options() -> None:
    assert tls_context({}).check_hostname
    assert not tls_context({"tls-insecure-skip-verify": "true"}).check_hostname
    assert tls_context({"tls-insecure-skip-verify": "false"}).check_hostname
    with pytest.raises(ConfigError, match="all of"):
        tls_context({"ca-certs": "/x"})
    with pytest.raises(ConfigError, match="can't be used"):
        tls_context({"ca-certs": "/x", "ssl-cert": "/y", "ssl-key": "/z"})
