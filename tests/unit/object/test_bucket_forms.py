# SPDX-License-Identifier: Apache-2.0
"""Every form of a bucket URL: what it means, and what is said of the wrong ones. Source: spec data-path §4.2."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest

from core.errors import ConfigError
from core.object.clouds.azure import Container, find_container
from core.object.clouds.google import ENDPOINT, find_bucket
from core.object.clouds.signed import find_place, keys_of
from core.object.clouds.webdav import find_folder
from core.object.open import STORAGES, normalise_bucket
from core.object.s3 import parse_bucket
from core.object.s3.b2 import find_b2
from core.object.s3.ibm import find_ibm
from core.object.s3.kinds import KINDS, choose_keys, parse_kind

# storage, text, environment → address of the requests up to the key, region
S3_FORMS: list[tuple[str, str, dict[str, str], str, str]] = [
    ("s3", "b1", {"AWS_REGION": "eu-west-1"}, "https://b1.s3.eu-west-1.amazonaws.com/", "eu-west-1"),
    ("s3", "https://b1.s3.cn-north-1.amazonaws.com.cn", {}, "https://b1.s3.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
    ("s3", "https://ACC.r2.cloudflarestorage.com/b1", {}, "https://acc.r2.cloudflarestorage.com/b1/", "us-east-1"),
    ("minio", "10.0.0.1:9000/b1/more", {}, "http://10.0.0.1:9000/b1/", "us-east-1"),
    ("minio", "https://m.example.com/minio/b1?region=eu-1", {}, "https://m.example.com/b1/", "eu-1"),
    ("bos", "https://b1.gz.bcebos.com", {}, "https://b1.s3.gz.bcebos.com/", "gz"),
    ("bos", "b1.bcebos.com", {}, "https://b1.s3.bj.bcebos.com/", "bj"),
    ("bos", "https://b1.bcebos.com", {"BDCLOUD_DEFAULT_REGION": "su"}, "https://b1.s3.su.bcebos.com/", "su"),
    ("eos", "https://b1.eos-wuxi-1.cmecloud.cn", {}, "https://b1.eos-wuxi-1.cmecloud.cn/", "us-east-1"),
    ("ks3", "https://b1.ks3-cn-beijing.ksyuncs.com", {}, "https://b1.ks3-cn-beijing.ksyuncs.com/", "BEIJING"),
    ("ks3", "http://b1.ks3-cn-shanghai-internal.ksyuncs.com", {},
     "http://b1.ks3-cn-shanghai-internal.ksyuncs.com/", "SHANGHAI"),
    ("oos", "https://b1.oos-cn.ctyunapi.cn", {}, "https://b1.oos-cn.ctyunapi.cn/", "cn"),
    ("qingstor", "https://b1.pek3b.qingstor.com", {}, "https://b1.s3.pek3b.qingstor.com/", "pek3b"),
    ("qiniu", "https://b1.s3-cn-east-1.qiniucs.com", {}, "https://b1.s3-cn-east-1.qiniucs.com/", "cn-east-1"),
    ("scw", "https://b1.s3.fr-par.scw.cloud", {}, "https://b1.s3.fr-par.scw.cloud/", "fr-par"),
    ("space", "https://b1.nyc3.digitaloceanspaces.com", {}, "https://b1.nyc3.digitaloceanspaces.com/", "nyc3"),
    ("tos", "https://b1.tos-cn-beijing.volces.com", {}, "https://b1.tos-s3-cn-beijing.volces.com/", "cn-beijing"),
    ("tos", "https://b1.tos-s3-cn-beijing.ivolces.com", {}, "https://b1.tos-s3-cn-beijing.ivolces.com/", "cn-beijing"),
    ("ufile", "https://b1.cn-bj.ufileos.com", {}, "https://b1.s3-cn-bj.ufileos.com/", "cn-bj"),
    ("wasabi", "https://b1.s3.eu-central-1.wasabisys.com", {},
     "https://b1.s3.eu-central-1.wasabisys.com/", "eu-central-1"),
    ("wasabi", "b1.s3.wasabisys.com", {}, "https://b1.s3.wasabisys.com/", "us-east-1"),
    # Another host in front: a proxy, a private deployment, a test server.
    ("wasabi", "http://127.0.0.1:9000/b1", {}, "http://127.0.0.1:9000/b1/", "us-east-1"),
    ("tos", "https://b1.objects.example.com?region=r1", {}, "https://b1.objects.example.com/", "r1"),
    ("space", "https://B1.AMS3.digitaloceanspaces.com", {}, "https://b1.ams3.digitaloceanspaces.com/", "ams3"),
]  # fmt: skip


@pytest.mark.parametrize(
    "storage, text, environ, url, region", S3_FORMS, ids=[f"{row[0]}:{row[1]}" for row in S3_FORMS]
)
def test_what_speaks_s3(storage: str, text: str, environ: Mapping[str, str], url: str, region: str) -> None:
    address = parse_kind(storage, text, environ) if storage in KINDS else parse_bucket(storage, text, environ)
    port = "" if address.port == {"https": 443, "http": 80}[address.scheme] else f":{address.port}"
    assert f"{address.scheme}://{address.request_host}{port}{address.base_path}" == url
    assert address.region == region


def test_every_kind_has_a_form_in_the_table() -> None:
    assert set(KINDS) <= {row[0] for row in S3_FORMS}


@pytest.mark.parametrize("storage", sorted(KINDS))
@pytest.mark.parametrize("text", ["", "https://", "ftp://b1.x.com", "https://u:pass@b1.x.com", "https://justaname",
                                  "https://b1.example.com", "https://10.0.0.1", "https://b1.x.com:port"])  # fmt: skip
def test_a_wrong_form_is_told_with_the_right_one(storage: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        normalise_bucket(storage, text)
    assert str(caught.value).startswith(f"{storage}: ")
    assert KINDS[storage].form in str(caught.value)
    assert "pass" not in str(caught.value)


ACCOUNT_KEY = base64.b64encode(b"k" * 64).decode()


@pytest.mark.parametrize(
    "text, endpoint, name",
    [
        ("https://cont", "https://acct.blob.core.windows.net", "cont"),
        ("cont", "https://acct.blob.core.windows.net", "cont"),
        ("https://cont.core.chinacloudapi.cn", "https://acct.blob.core.chinacloudapi.cn", "cont"),
        ("https://cont.blob.core.windows.net/", "https://acct.blob.core.windows.net", "cont"),
        ("http://cont.core.local:8080", "http://acct.blob.core.local:8080", "cont"),
    ],
)
def test_azure(text: str, endpoint: str, name: str) -> None:
    assert find_container(text, "acct", ACCOUNT_KEY, "", {}) == Container(endpoint, name, "acct", ACCOUNT_KEY)
    assert find_container(text, "acct", "", "?sv=1&sig=x", {}) == Container(endpoint, name, "acct", "", "sv=1&sig=x")
    assert find_container(text, "acct", "", "", {}) == Container(endpoint, name, "acct")
    assert normalise_bucket("wasb", text) == text
    assert ACCOUNT_KEY not in repr(find_container(text, "acct", ACCOUNT_KEY, "", {}))


@pytest.mark.parametrize(
    "connection, wanted",
    [
        (f"AccountName=a1;AccountKey={ACCOUNT_KEY}", ("https://a1.blob.core.windows.net", "a1", ACCOUNT_KEY, "")),
        (
            f"DefaultEndpointsProtocol=http;AccountName=a1;AccountKey={ACCOUNT_KEY};EndpointSuffix=core.local;",
            ("http://a1.blob.core.local", "a1", ACCOUNT_KEY, ""),
        ),
        ("BlobEndpoint=https://a1.blob.x.net/;SharedAccessSignature=?sv=1&sig=s%3D",
         ("https://a1.blob.x.net", "a1", "", "sv=1&sig=s%3D")),
        ("UseDevelopmentStorage=true", ("http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1", None, "")),
    ],
)  # fmt: skip
def test_azure_connection_strings(connection: str, wanted: tuple[str, str, str | None, str]) -> None:
    found = find_container("https://cont", "other", ACCOUNT_KEY, "", {"AZURE_STORAGE_CONNECTION_STRING": connection})
    assert (found.endpoint, found.account, found.sas) == (wanted[0], wanted[1], wanted[3])
    assert wanted[2] is None or found.key == wanted[2]


@pytest.mark.parametrize(
    "text, keys, environ, told",
    [
        ("https://c", ("a", "", ""), {}, "no container name"),
        ("https://Under_score", ("a", "", ""), {}, "no container name"),
        ("https://cont", ("", "", ""), {}, "account is unknown"),
        ("https://cont", ("a", "not base64!", ""), {}, "not base64"),
        ("https://cont?ca-certs=/x", ("a", "", ""), {}, "ca-certs"),
        ("https://cont?tls-insecure-skip-verify=true", ("a", "", ""), {}, "tls-insecure-skip-verify"),
        ("https://cont", ("", "", ""), {"AZURE_STORAGE_CONNECTION_STRING": "nonsense"}, "without '='"),
        ("https://cont", ("", "", ""), {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=a"}, "neither AccountKey"),
        ("https://cont", ("", "", ""), {"AZURE_STORAGE_CONNECTION_STRING": "AccountKey=eA=="}, "neither AccountName"),
    ],
)
def test_azure_says_what_is_missing(text: str, keys: tuple[str, str, str], environ: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        find_container(text, *keys, environ)
    assert not any(key in str(caught.value) for key in keys if len(key) > 3)


@pytest.mark.parametrize(
    "text, environ, wanted",
    [
        ("gs://b-1", {}, ("b-1", "", ENDPOINT, True)),
        ("b-1.europe-west4", {}, ("b-1", "europe-west4", ENDPOINT, True)),
        ("gs://b-1.us", {}, ("b-1", "us", ENDPOINT, True)),
        ("gs://b-1", {"STORAGE_EMULATOR_HOST": "localhost:4443"}, ("b-1", "", "http://localhost:4443", False)),
    ],
)
def test_google(text: str, environ: dict[str, str], wanted: tuple[str, str, str, bool]) -> None:
    assert find_bucket(text, "", environ) == wanted
    assert not find_bucket(text, "anonymous", environ).signed


@pytest.mark.parametrize("text", ["", "gs://", "https://b-1", "gs://b.example.com", "gs://x", "gs://u:pass@b-1"])
def test_google_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="gs://BUCKET") as caught:
        normalise_bucket("gs", text)
    assert "pass" not in str(caught.value)


@pytest.mark.parametrize(
    "storage, text, environ, wanted",
    [
        ("oss", "https://b1x.oss-cn-hangzhou.aliyuncs.com", {}, ("https://oss-cn-hangzhou.aliyuncs.com", "b1x", True)),
        ("oss", "b1x", {"ALICLOUD_REGION_ID": "cn-x"}, ("https://oss-cn-x.aliyuncs.com", "b1x", True)),
        ("oss", "http://b1x.oss.local:80?disable-checksum=true", {}, ("http://oss.local:80", "b1x", False)),
        ("cos", "https://b1-125.cos.ap-beijing.myqcloud.com", {},
         ("https://cos.ap-beijing.myqcloud.com", "b1-125", True)),
        ("obs", "https://b1x.obs.cn-north-4.myhuaweicloud.com", {},
         ("https://obs.cn-north-4.myhuaweicloud.com", "b1x", False)),
        ("obs", "b1x", {"HWCLOUD_DEFAULT_REGION": "cn-x"}, ("https://obs.cn-x.myhuaweicloud.com", "b1x", False)),
    ],
)  # fmt: skip
def test_signed_clouds(storage: str, text: str, environ: dict[str, str], wanted: tuple[str, str, bool]) -> None:
    assert find_place(storage, text, environ) == wanted


@pytest.mark.parametrize(
    "storage, text, told",
    [
        ("oss", "b1x", "region"), ("obs", "b1x", "region"), ("cos", "b1-125", "region"),
        ("cos", "https://bucket.cos.ap-beijing.myqcloud.com", "application id"),
        ("oss", "https://b1x.x.com?ssl-key=/k", "ssl-key"), ("oss", "", "empty"), ("obs", "https://_.x", "bucket name"),
    ],
)  # fmt: skip
def test_signed_clouds_refuse(storage: str, text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALICLOUD_REGION_ID", "HWCLOUD_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=told):
        normalise_bucket(storage, text)


def test_keys_of_the_environment() -> None:
    environ = {"ALICLOUD_ACCESS_KEY_ID": "i", "ALICLOUD_ACCESS_KEY_SECRET": "s", "SECURITY_TOKEN": "t"}
    assert keys_of("oss", "", "", "", environ) == {
        "access_key_id": "i",
        "access_key_secret": "s",
        "security_token": "t",
    }
    assert keys_of("oss", "a", "b", "", environ) == {"access_key_id": "a", "access_key_secret": "b"}
    assert keys_of("cos", "", "", "", {"COS_SECRETID": "i", "COS_SECRETKEY": "s"}) == {
        "secret_id": "i",
        "secret_key": "s",
    }
    assert keys_of("obs", "", "", "", {}) == {}  # OpenDAL's own chain looks
    with pytest.raises(ConfigError, match="secret key is missing"):
        keys_of("oss", "a", "", "", environ)


async def test_keys_of_what_speaks_s3() -> None:
    who = await choose_keys("scw", "", "", "", {"SCW_ACCESS_KEY": "i", "SCW_SECRET_KEY": "s"}).current()
    assert who == ("i", "s", "")
    who = await choose_keys(
        "eos", "", "", "", {"EOS_ACCESS_KEY": "i", "EOS_SECRET_KEY": "s", "EOS_TOKEN": "t"}
    ).current()
    assert who == ("i", "s", "t")
    assert await choose_keys("ks3", "a%2F", "b%2B", "", {}).current() == ("a/", "b+", "")
    assert await choose_keys("wasabi", "anonymous", "", "", {}).current() is None
    with pytest.raises(ConfigError, match="SCW_ACCESS_KEY"):
        choose_keys("scw", "", "", "", {})
    with pytest.raises(ConfigError, match="one of the two keys"):
        choose_keys("wasabi", "a", "", "", {})


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("http://h:8080/a/b", "http://h:8080 a/b"), ("h", "http://h "), ("https://h/", "https://h "),
        ("[::1]:80/x", "http://[::1]:80 x"), ("http://h/a%20b/", "http://h a b"),
    ],
)  # fmt: skip
def test_webdav(text: str, wanted: str) -> None:
    url = find_folder(text)
    assert f"{url.scheme}://{url.authority} {url.path}" == wanted


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("bucket", ("bucket", "")), ("https://bucket", ("bucket", "")), ("https://bucket/", ("bucket", "")),
        ("https://bucket.s3.us-west-004.backblazeb2.com", ("bucket", "us-west-004")),
    ],
)  # fmt: skip
def test_b2(text: str, wanted: tuple[str, str]) -> None:
    assert find_b2(text) == wanted


@pytest.mark.parametrize("storage, text", [("b2", ""), ("b2", "a"), ("b2", "https://b.example.com"), ("webdav", ""),
                                           ("ibmcos", "https://b.example.com"), ("webdav", "ftp://h")])  # fmt: skip
def test_others_refuse(storage: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{storage}"):
        normalise_bucket(storage, text)


def test_ibm() -> None:
    address = find_ibm("https://b1.s3.eu-de.cloud-object-storage.appdomain.cloud")
    assert (address.request_host, address.region) == ("s3.eu-de.cloud-object-storage.appdomain.cloud", "eu-de")
    assert address.base_path == "/b1/"


@pytest.mark.parametrize("storage", ["b2", "ibmcos", "oss", "wasb", *sorted(KINDS)])
def test_missing_credentials_are_told(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = {"b2": "bucket", "ibmcos": "https://b1.s3.eu-de.cloud-object-storage.appdomain.cloud",
             "oss": "https://b1x.oss-x.aliyuncs.com", "wasb": "https://cont"}  # fmt: skip
    form = forms.get(storage) or next(row[1] for row in S3_FORMS if row[0] == storage)
    for names in (kind.keys_env for kind in KINDS.values()):
        for name in filter(None, names):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    one = "" if storage != "oss" else "half"
    with pytest.raises(ConfigError, match="--access-key"):
        STORAGES[storage](storage, form, one, "", "")


def test_shards_are_checked_like_one_bucket() -> None:
    assert normalise_bucket("wasabi", "https://b%d.s3.eu-1.wasabisys.com") == "https://b%d.s3.eu-1.wasabisys.com"
